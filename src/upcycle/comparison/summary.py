"""Groups of runs to a comparison: scores and costs of each, every pair with its difference, a recommendation."""

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from upcycle.comparison.results import (
    About,
    Comparison,
    Cost,
    Difference,
    MeanScore,
    Pair,
    Recommendation,
    RunScores,
    Trial,
    VariantResult,
    Verdict,
)
from upcycle.comparison.runs import FinishedRun, SharedTest, VariantRuns, shared_test
from upcycle.comparison.statistics import (
    FEWEST_SEEDS,
    FEWEST_UNITS,
    Score,
    Scored,
    difference,
    holm,
    images_needed,
    retrained,
    scored,
    sign_flip,
)
from upcycle.comparison.variants import SMALLEST_DIFFERENCE
from upcycle.errors import ConfigError
from upcycle.evaluation.intervals import LEVEL
from upcycle.recipes import differing, peak_rate


def summarize(
    groups: Sequence[VariantRuns],
    *,
    folder: Path,
    smallest_difference: float = SMALLEST_DIFFERENCE,
    about: About | None = None,
) -> Comparison:
    """The comparison of `groups`, the first of which is the baseline; paths of runs are relative to `folder`.

    ConfigError with fewer than two groups that have runs; RunError for runs that were not tested on the same images.
    """
    there = [group for group in groups if group.runs]
    if len(there) < 2:
        raise ConfigError("a comparison needs 2 or more runs that differ in more than their seed")
    runs = [run for group in there for run in group.runs]
    test = shared_test(runs)
    scores = {group.name: scored(test.arm(group.runs)) for group in there}
    cached = _most_spent(groups)
    variants = tuple(_variant(group, scores.get(group.name), cached, folder) for group in groups)
    pairs = _pairs(there, scores, smallest_difference)
    machines = tuple(dict.fromkeys(run.machine for run in runs if run.machine))
    timed = len(machines) < 2 and all(one.cost is None or one.cost.total is not None for one in variants)
    return Comparison(
        path=folder,
        about=about or About(),
        classes=test.reference.classes,
        test_images=len(test.reference),
        test_units=int(test.units.max()) + 1,
        smallest_difference=smallest_difference,
        variants=variants,
        pairs=pairs,
        recommendation=_recommended(variants, pairs, smallest_difference) if timed else None,
        notes=(*_of_scratch(there, scores), *_notes(there, pairs, test, machines)),
        options=differing({group.name: _options(group, runs) for group in there}),
        environment=runs[0].environment,
        machines=machines,
    )


def _options(group: VariantRuns, runs: Sequence[FinishedRun]) -> dict[str, object]:
    """The options that had an effect on a group; its images, split and weights where others had other ones."""
    first = group.runs[0]
    made = first.options
    if len({run.facts.data for run in runs}) > 1:
        made["data"] = first.facts.data
    if len({run.splits for run in runs}) > 1:
        made["split_seed"] = first.config.seed_of_split
    if len({run.facts.weights_sha256 for run in runs if run.facts.weights_sha256}) > 1:
        made["weights_sha256"] = (first.facts.weights_sha256 or "")[:12]
    return made


# ------------------------------------------------------------------------------------- variants


def _variant(group: VariantRuns, made: Scored | None, cached: Mapping[object, float], folder: Path) -> VariantResult:
    def score(name: Score) -> MeanScore | None:
        if made is None:
            return None
        interval = made.interval(name)
        return MeanScore(made.mean(name), interval.low, interval.high, made.deviation(name))

    runs = [
        RunScores(
            seed=run.seed,
            path=os.path.relpath(run.path.resolve(), folder.resolve()),
            accuracy=run.test.accuracy.value,
            f1_macro=run.test.f1_macro.value,
            log_loss=run.test.log_loss.value,
            phase=run.history[-1].phase if run.history else None,
        )
        for run in group.runs
    ]
    losses = {run: [row.val_loss for row in run.rows if math.isfinite(row.val_loss)] for run in group.trials}
    trials = [Trial(peak_rate(run.config), min(values, default=None)) for run, values in losses.items()]
    return VariantResult(
        name=group.name,
        title=group.title,
        description=group.description,
        runs=tuple(runs),
        failed=group.failed,
        accuracy=score("accuracy"),
        f1_macro=score("f1_macro"),
        cost=_cost(group, cached) if group.runs else None,
        lr=group.lr,
        trials=tuple(sorted(trials, key=lambda trial: trial.lr)),
    )


def _cost(group: VariantRuns, cached: Mapping[object, float]) -> Cost:
    seconds = [_seconds(run, cached) for run in group.runs]
    first = group.runs[0].facts
    return Cost(
        epochs=mean(len(run.history) for run in group.runs),
        seconds=None if None in seconds else mean(one for one in seconds if one is not None),
        tuning_seconds=sum(_seconds(run, {}) or 0.0 for run in group.trials if peak_rate(run.config) != group.lr),
        parameters=first.parameters,
        trained_parameters=first.trained_parameters,
    )


def _shared_parts(run: FinishedRun) -> dict[object, float]:
    """Seconds of the parts whose results runs share by the cache, by what they depend on."""
    facts = run.facts
    images = (facts.size, facts.data, run.config.quarantine)
    parts = {("decoding", *images): facts.decoding_seconds, ("features", facts.arch, *images): facts.features_seconds}
    return {key: seconds for key, seconds in parts.items() if seconds is not None}


def _most_spent(groups: Sequence[VariantRuns]) -> dict[object, float]:
    """What the shared parts cost the runs that did not find them in the cache."""
    most: dict[object, float] = {}
    for run in (run for group in groups for run in (*group.runs, *group.trials)):
        for key, seconds in _shared_parts(run).items():
            most[key] = max(most.get(key, 0.0), seconds)
    return most


def _seconds(run: FinishedRun, cached: Mapping[object, float]) -> float | None:
    """Seconds of the run with the shared parts at what `cached` has for them, else without them; None if unknown.

    With `_most_spent` that is had it been the only one; what was cached before the first of the runs is not seen.
    """
    if run.facts.seconds is None:
        return None
    return run.facts.seconds + sum(cached.get(key, 0.0) - spent for key, spent in _shared_parts(run).items())


# ---------------------------------------------------------------------------------------- pairs


def _pairs(groups: Sequence[VariantRuns], scores: Mapping[str, Scored], goal: float) -> tuple[Pair, ...]:
    """Every two groups, with p corrected for the number of pairs."""
    chosen = list(itertools.combinations(groups, 2))
    ps = holm([sign_flip(scores[one.name].arm, scores[two.name].arm) for one, two in chosen])
    return tuple(_pair(one, two, scores, p, goal) for (one, two), p in zip(chosen, ps, strict=True))


def _pair(one: VariantRuns, two: VariantRuns, scores: Mapping[str, Scored], p: float, goal: float) -> Pair:
    first, second = scores[one.name], scores[two.name]
    made = difference(first, second, "f1_macro")
    seeds = _matched(one, two)
    enough = first.arm.independent >= FEWEST_UNITS
    significant = enough and p < 1 - LEVEL and not made.low <= 0 <= made.high
    verdict: Verdict = "unclear"
    if not enough:
        verdict = "too-small"
    elif significant:
        verdict = "gain" if made.value > 0 else "loss"
    elif max(abs(made.low), abs(made.high)) <= goal:
        verdict = "same"
    return Pair(
        first=one.name,
        second=two.name,
        seeds=len(seeds),
        f1=Difference(made.value, made.low, made.high, p, significant),
        accuracy=difference(first, second, "accuracy"),
        retrained=retrained(first, second, "f1_macro", seeds),
        images_needed=images_needed(made, goal, images=len(first.arm.labels)),
        verdict=verdict,
    )


def _matched(one: VariantRuns, two: VariantRuns) -> list[tuple[int, int]]:
    """Positions of runs in both groups that belong together: of the same seed, or in order where none is."""
    ours, theirs = [run.seed for run in one.runs], [run.seed for run in two.runs]
    same = [(ours.index(seed), theirs.index(seed)) for seed in ours if seed in theirs]
    return same or [(at, at) for at in range(min(len(ours), len(theirs)))]


# ---------------------------------------------------------------------------------------- words


def _points(share: float) -> str:
    """A share as points, with one decimal: 0.4 points, 1.0 point."""
    text = f"{100 * abs(share):.1f}"
    return f"{text} point{'' if text == '1.0' else 's'}"


def _of_scratch(groups: Sequence[VariantRuns], scores: Mapping[str, Scored]) -> list[str]:
    """That what was trained from random weights scores highest, where others had pretrained ones."""
    random = {group.name for group in groups if group.runs[0].options.get("weights") == "none"}
    best = max(groups, key=lambda group: scores[group.name].mean("f1_macro"))
    if best.name not in random or len(random) == len(groups):
        return []
    return [
        f"{best.title}, trained from random weights, scores highest: what the pretrained network knows does not help "
        "with these images, or not this much."
    ]


def _notes(
    groups: Sequence[VariantRuns], pairs: Sequence[Pair], test: SharedTest, machines: Sequence[str]
) -> list[str]:
    """What limits the comparison, the most important first."""
    runs = [run for group in groups for run in group.runs]
    images, units = len(test.reference), int(test.units.max()) + 1
    of_groups = f" of {units:,} group{'s' * (units != 1)}" if 2 * units <= images else ""
    tested = f"{images:,} test image{'s' * (images != 1)}{of_groups}"
    notes = []
    if not _can_tell(pairs):
        needed = max(pair.images_needed or 0 for pair in pairs)
        notes.append(f"{tested} are too few for any conclusion; about {needed:,} would narrow the widest interval.")
    else:
        widest = max(pair.f1.high - pair.f1.low for pair in pairs) / 2
        notes.append(
            f"With {tested}, differences of F1 below about {_points(widest)} cannot be distinguished from chance."
        )
    if len({run.splits for run in runs}) > 1:
        notes.append(
            "These runs were trained on different splits of the photos, which may cause part of a difference. "
            "Train them with one --split-seed to compare recipes alone."
        )
    slowed = [
        f"{group.title}, seed {run.seed}"
        for group in groups
        for run in group.runs
        if any(row.retries for row in run.rows)
    ]
    if slowed:
        notes.append(f"The loss exploded and training continued at a lower rate in {'; '.join(slowed)}.")
    if len(machines) > 1:
        notes.append(
            f"Times were taken on different machines or numbers of threads ({'; '.join(machines)}), "
            "so no variant is recommended by its cost."
        )
    if all(pair.seeds < FEWEST_SEEDS for pair in pairs):
        notes.append(f"Not enough seeds to tell whether this holds on retraining: {FEWEST_SEEDS} or more are needed.")
    return notes


def _can_tell(pairs: Sequence[Pair]) -> bool:
    """Whether there are enough test images to say something of any pair, be it that it makes no difference."""
    return any(pair.verdict in ("gain", "loss", "same") for pair in pairs)


def _recommended(variants: Sequence[VariantResult], pairs: Sequence[Pair], goal: float) -> Recommendation | None:
    """The cheapest variant that is not shown to be worse than the best, or by less than `goal`.

    None where there are too few test images for any conclusion and the cheapest scored lower by `goal` or more.
    """
    there = [one for one in variants if one.f1_macro is not None]
    best = max(there, key=_f1)
    against = {
        name: pair for pair in pairs for name in (pair.first, pair.second) if best.name in (pair.first, pair.second)
    }
    good = [one for one in there if one is best or not _is_worse(against[one.name], goal)]
    cheapest = min(good, key=_total)
    if any(pair.verdict == "too-small" for pair in pairs):
        return None
    if cheapest is best:
        rest = "the cheapest of those not shown to be worse" if len(good) > 1 else "all others are shown to be worse"
        return Recommendation(best.name, f"Take {best.title}: F1 {_f1(best):.3f} is the best here, {rest}.")
    if not _can_tell(pairs) and _f1(best) - _f1(cheapest) >= goal:
        return None
    return Recommendation(cheapest.name, _cheaper(cheapest, best, against[cheapest.name], goal))


def _is_worse(pair: Pair, goal: float) -> bool:
    """Whether one of a pair is shown to be worse by `goal` or more, on retraining too as far as that is known."""
    again = pair.retrained
    holds = again is None or not again.low <= 0 <= again.high
    return pair.f1.significant and holds and abs(pair.f1.value) >= goal


def _cheaper(cheapest: VariantResult, best: VariantResult, pair: Pair, goal: float) -> str:
    times = _total(best) / max(_total(cheapest), 1e-9)
    cost = f"takes {times:.{1 if times < 10 else 0}f} times as long and " if times >= 1.05 else ""
    if not pair.f1.significant:
        more = "is not shown to be better"
    elif abs(pair.f1.value) < goal:
        more = f"is better by {_points(pair.f1.value)}, less than matters"
    else:
        more = f"is better by {_points(pair.f1.value)} as trained here, which does not hold on retraining"
    reason = f"Take {cheapest.title} (F1 {_f1(cheapest):.3f}): {best.title} (F1 {_f1(best):.3f}) {cost}{more}."
    possible = pair.f1.high if pair.second == best.name else -pair.f1.low
    if possible > goal:
        reason += f" A gain of up to {_points(possible)} is not excluded."
    return reason


def _f1(variant: VariantResult) -> float:
    return variant.f1_macro.value if variant.f1_macro else 0.0


def _total(variant: VariantResult) -> float:
    return (variant.cost and variant.cost.total) or 0.0
