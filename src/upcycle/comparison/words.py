"""A comparison in plain words: a sentence a step, a headline, a recommendation that weighs gain against cost."""

from collections.abc import Sequence
from typing import Any

Values = dict[str, Any]


def points(share: float) -> str:
    """A share as points, with one decimal: 0.4 points, 1.0 point."""
    text = f"{100 * abs(share):.1f}"
    return f"{text} point{'' if text == '1.0' else 's'}"


def _bound(share: float) -> str:
    text = f"{100 * share:.1f}"
    return "0.0" if text == "-0.0" else text


def interval(ends: Sequence[float]) -> str:
    """The ends of an interval in points: -0.2 to 1.0."""
    return f"{_bound(ends[0])} to {_bound(ends[1])}"


def _goal(goal: float) -> str:
    return "a point" if abs(goal - 0.01) < 1e-9 else f"{100 * goal:g} points"


def step(pair: Values, titles: dict[str, str], goal: float, *, images: str) -> str:
    """What the second rung of a pair bought over the first, whether by more than chance, and whether it would again.

    The first sentence is about these trained models on new images, the second about the recipe trained again.
    """
    one, two = titles[pair["first"]], titles[pair["second"]]
    if pair["same_runs"]:
        return f"{two} came out as the same runs as {one}: there is no difference."
    made = pair["f1_difference"]
    known = f"{_moved(one, two, made['value'])} (95 % interval {interval(made['interval'])})"
    needed = pair["images_needed"]
    more = f"; about {needed:,} test images would narrow it to {_goal(goal)}" if needed else ""
    if pair["verdict"] == "too-small":
        return f"{known}: {images} are too few for any conclusion{more}."
    return f"{known}: {_judged(pair, goal, more)}. {_again(pair)}"


def _judged(pair: Values, goal: float, more: str) -> str:
    if pair["verdict"] == "gain":
        return "for these models more than chance"
    if pair["verdict"] == "loss":
        return "it hurts here, for these models by more than chance"
    if pair["verdict"] == "same":
        return f"any difference is smaller than {_goal(goal)}"
    return _why_unclear(pair) + more


def _again(pair: Values) -> str:
    """The answer to the second question."""
    made = pair["again"]
    if not made["answerable"]:
        return f"Whether the recipe would do so trained again is not answerable: {made['reason']}."
    low, high = made["interval"]
    answer = "better again" if low > 0 else "worse again" if high < 0 else "not shown to differ"
    return f"Trained again with other seeds, {interval(made['interval'])}: {answer}."


def _moved(one: str, two: str, value: float) -> str:
    if points(value) == "0.0 points":
        return f"{two} has the same F1 as {one}"
    gained = value > 0
    return f"{two} {'gained' if gained else 'lost'} {points(value)} of F1 {'over' if gained else 'against'} {one}"


def _why_unclear(pair: Values) -> str:
    low, high = pair["f1_difference"]["interval"]
    p, corrected = pair["difference"]["p"], next(iter(pair["corrected"].values()))
    if low <= 0 <= high:
        return "not distinguishable from chance here"
    if p < 0.05:
        return (
            f"more than chance by itself, but not as one of several comparisons (p {p:.3f}, corrected {corrected:.3f})"
        )
    return f"F1 differs, the number of right answers not by more than chance (p {p:.2f}): look at the classes"


def headline(rungs: Sequence[Values], pairs: Sequence[Values], images: str, goal: float) -> list[str]:
    """The comparison in a few sentences, the most important first; `images` as `tested` says them."""
    own = [pair for pair in pairs if not pair["same_runs"]]
    if not own:
        return ["All rungs came out as the same runs: there is no difference.", *_failures(rungs)]
    steps = [pair for pair in own if "step" in pair["kinds"]]
    titles = {rung["name"]: rung["title"] for rung in rungs}
    overall = _overall(steps, own, titles)
    if not _inconclusive(own):
        return [overall, _resolution(steps or own, images), *_failures(rungs)]
    needed = [pair["images_needed"] for pair in steps if pair["images_needed"]]
    enough = f"; about {max(needed):,} would narrow the widest interval to {_goal(goal)}." if needed else "."
    return [f"{images} are too few for a conclusion about any step{enough}", overall, *_failures(rungs)]


def _inconclusive(pairs: Sequence[Values]) -> bool:
    """Whether there are too few test images to say anything of any pair, not even that it makes no difference."""
    own = [pair for pair in pairs if not pair["same_runs"]]
    verdicts = {pair["verdict"] for pair in own}
    needed = any(pair["images_needed"] for pair in own)
    return "too-small" in verdicts or (needed and not verdicts & {"gain", "loss", "same"})


def _overall(steps: Sequence[Values], pairs: Sequence[Values], titles: dict[str, str]) -> str:
    gains = [titles[pair["second"]] for pair in steps if pair["verdict"] == "gain"]
    losses = [titles[pair["second"]] for pair in steps if pair["verdict"] == "loss"]
    if not gains and not losses:
        return _without_steps(steps, pairs, titles)
    parts = []
    if gains:
        parts.append(
            f"As trained here, {_listed(gains)} {_were(gains)} better than the rung before by more than chance"
        )
    if losses:
        start = "" if parts else "As trained here, "
        parts.append(f"{start}{_listed(losses)} {_were(losses)} worse than the rung before by more than chance")
    rest = sum(pair["verdict"] == "unclear" for pair in steps)
    alike = sum(pair["verdict"] == "same" for pair in steps)
    if rest:
        parts.append(f"{rest} of {len(steps)} steps {'is' if rest == 1 else 'are'} not shown to be real")
    if alike:
        parts.append(f"{alike} of {len(steps)} {'makes' if alike == 1 else 'make'} no difference that matters")
    return "; ".join(parts) + "."


def _without_steps(steps: Sequence[Values], pairs: Sequence[Values], titles: dict[str, str]) -> str:
    """The headline where no single step is real: what of the whole climb is, and what is not."""
    real = [pair for pair in pairs if pair["verdict"] in {"gain", "loss"}]
    if real:
        most = max(real, key=lambda pair: abs(pair["f1_difference"]["value"]))
        better, worse = ("second", "first") if most["verdict"] == "gain" else ("first", "second")
        return (
            f"No single step is shown to be real, but {titles[most[better]]} is better than {titles[most[worse]]} by "
            f"{points(most['f1_difference']['value'])} of F1, more than chance."
        )
    if all(pair["f1_difference"]["interval"][0] <= 0 <= pair["f1_difference"]["interval"][1] for pair in steps):
        return "Nothing here differs by more than chance: no rung is shown to be better or worse than another."
    return "No step passes the test for differences, though not every interval of F1 holds zero: read them one by one."


def cautions(
    machines: Sequence[str], versions: Sequence[str], slowed: Sequence[str], *, other_split: bool
) -> list[str]:
    """What makes the comparison less than it seems: several machines, versions or splits, rates that did not hold."""
    said = []
    if other_split:
        said.append(
            "These runs were trained on other splits of the photos, which may make a part of any difference: "
            "train them with one --split-seed to compare recipes alone."
        )
    if slowed:
        said.append(f"The loss exploded and training went on at a lower rate in {len(slowed)}: {'; '.join(slowed)}.")
    if versions:
        said.append(f"These runs were trained with different versions: {'; '.join(versions)}.")
    if len(machines) > 1:
        said.append(
            f"Times were taken on different machines or numbers of threads ({'; '.join(machines)}), "
            "so no rung is recommended by what it costs."
        )
    return said


def _were(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are each"


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def tested(images: int, units: int) -> str:
    """The test images in words, with the number of their groups where most of them are in one."""
    groups = f" of {units:,} group{'s' * (units != 1)}" if 2 * units <= images else ""
    return f"{images:,} test image{'s' * (images != 1)}{groups}"


def _resolution(steps: Sequence[Values], images: str) -> str:
    """What these test images can tell apart, by how much the compared models disagree."""
    halves = sorted((pair["f1_difference"]["interval"][1] - pair["f1_difference"]["interval"][0]) / 2 for pair in steps)
    low, high = halves[0], halves[-1]
    width = points(high) if f"{100 * low:.1f}" == f"{100 * high:.1f}" else f"{100 * low:.1f} to {points(high)}"
    return (
        f"With {images} and models that disagree as much as these, "
        f"differences under about {width} of F1 cannot be told from chance."
    )


def _failures(rungs: Sequence[Values]) -> list[str]:
    failed = [rung for rung in rungs if rung["failed"]]
    return [f"{rung['title']}: {len(rung['failed'])} of its runs failed." for rung in failed]


def recommendation(rungs: Sequence[Values], pairs: Sequence[Values], goal: float) -> Values | None:
    """The cheapest rung that is not worse than the best, or by less than `goal`, with what that leaves open.

    Worse is what is shown to be: where enough seeds answer for the recipe by their answer, else by that for
    these trained models, both corrected for all pairs, as the best was chosen by its score. None where there
    are too few test images for any conclusion and the cheapest scored lower by `goal` or more.
    """
    there = [rung for rung in rungs if rung["runs"]]
    if len(there) < 2 or any(pair["verdict"] == "too-small" for pair in pairs):
        return None
    best = max(there, key=lambda rung: rung["f1_macro"]["value"])
    against = {pair["first"]: pair for pair in pairs if pair["second"] == best["name"] and "best" in pair["kinds"]}
    good = [rung for rung in there if rung is best or not _worse(against[rung["name"]], goal)]
    cheapest = min(good, key=_cost)
    behind = best["f1_macro"]["value"] - cheapest["f1_macro"]["value"]
    if _inconclusive(pairs) and behind >= goal:
        return None
    if cheapest is best:
        rest = "the cheapest of those not shown to be worse" if len(good) > 1 else "all others are shown to be worse"
        return {"rung": best["name"], "says": f"Take {best['title']}: {_f1(best)} is the best here, {rest}."}
    return {"rung": cheapest["name"], "says": _cheaper(cheapest, best, pairs, goal)}


def _is_shown(pair: Values) -> bool:
    """Whether the first of a pair is shown to be worse than the second, the best."""
    made = pair["again"]
    if made["answerable"]:
        return bool(made["corrected_interval"][0] > 0)
    return bool(pair["f1_difference"]["interval"][0] > 0 and pair["corrected"]["best"] < 0.05)


def _worse(pair: Values, goal: float) -> bool:
    """Whether the first of a pair is shown to be worse than the second, by `goal` or more as far as is known."""
    return _is_shown(pair) and bool(pair["f1_difference"]["value"] >= goal)


def _cheaper(cheapest: Values, best: Values, pairs: Sequence[Values], goal: float) -> str:
    both = [pair for pair in pairs if {pair["first"], pair["second"]} == {cheapest["name"], best["name"]}]
    (pair,) = (pair for pair in both if pair["second"] == best["name"] and "best" in pair["kinds"])
    times = _cost(best) / max(_cost(cheapest), 1e-9)
    dearer = f"takes {times:.{1 if times < 10 else 0}f} times as long and " if times >= 1.05 else ""
    says = f"Take {cheapest['title']} ({_f1(cheapest)}): the best, {best['title']} ({_f1(best)}), {dearer}"
    if pair["same_runs"]:
        return f"{says}came out as the same runs."
    made = pair["again"]
    possible = (made["corrected_interval"] if made["answerable"] else pair["f1_difference"]["interval"])[1]
    says += f"{_how_much_better(pair, both, goal)}."
    if possible > goal:
        says += f" A gain of up to {points(possible)} from {best['title']} is not excluded."
    return says


def _how_much_better(pair: Values, both: Sequence[Values], goal: float) -> str:
    """What is known of the best over a cheaper rung; `both` has all pairs of the two, in either direction."""
    if _is_shown(pair):
        return f"is better by {points(pair['f1_difference']['value'])}, not more than {_goal(goal)}"
    if any(one["verdict"] in {"gain", "loss"} for one in both):
        rest = "for the recipe trained again" if pair["again"]["answerable"] else "as the best of all pairs of rungs"
        return f"is better as these models were trained, which does not hold {rest}"
    return "is not shown to be better"


def _f1(rung: Values) -> str:
    return f"F1 {rung['f1_macro']['value']:.3f}"


def _cost(rung: Values) -> float:
    return float(rung["seconds"] + rung["tuning_seconds"])
