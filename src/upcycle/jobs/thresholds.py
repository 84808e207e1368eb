"""The thresholds of a run: chosen on its recorded predictions, tested once, and read by its predictions. No torch."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from upcycle.config import read_config
from upcycle.errors import ConfigError, DataError, RunError, counted, shown
from upcycle.evaluation.intervals import clusters
from upcycle.evaluation.results import Metric, Predictions, read_predictions
from upcycle.evaluation.thresholds import Thresholds, Want, asked, cost_of, measured, operating_point, promised
from upcycle.jobs.run import Run, check_finished, run_of
from upcycle.manifest import check, remove_sealed, write_sealed
from upcycle.reporting.progress import Display, default_show
from upcycle.reporting.text import interval, percent, percent_range
from upcycle.rundir import RunDir, locked


def thresholds(
    run: Run | Path | str,
    *,
    want: str | None = None,
    cost: str | Mapping[str, float] | None = None,
    abstain: str | float | None = None,
    calibration_fraction: float = 0.0,
    confidence: float = 0.9,
    show: Display | None = None,
) -> Thresholds:
    """Choose when the run's model answers, write that to RUN/thresholds.json, and test it once.

    One of `want="precision>=0.95"`, or of one class, `"precision>=0.95:CLASS"` or `"recall>=0.9:CLASS"`;
    `cost={"fn": 10, "fp": 1}` of two classes; or `abstain="5%"`. `Prediction.sure` then says whether the model answers;
    one that `upcycle.load` gave before is not changed. The validation images choose, without a promise, as they chose
    the model too. With a `calibration_fraction` of the test images, which chose nothing, a `want` is promised with this
    `confidence`; the other test images test it. DataError where the images are too few, or none does what is asked.
    """
    show, directory = show or default_show(), run_of(run).directory
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence = {confidence!r}: give a number between 0 and 1, such as 0.9")
    if not 0 <= calibration_fraction < 1:
        raise ConfigError(f"calibration_fraction = {calibration_fraction!r}: give a part of the test images, below 1")
    with locked(_finished(directory).root):
        val, seed = read_predictions(directory.predictions("val")), read_config(directory.config).seed
        wish = asked(val.classes, want=want, cost=cost, abstain=abstain)
        file = directory.predictions("test")
        test = read_predictions(file) if file.exists() else None
        images, promise = counted(len(val), "validation image"), None
        if calibration_fraction:
            if wish.kind not in ("precision", "recall"):
                raise ConfigError("only a precision or a recall can be promised: leave --calibration-fraction out")
            if test is None:
                raise DataError(
                    f"{directory.root} has no test images, which alone chose nothing: no promise is possible"
                )
            held, test = _parted(test, calibration_fraction, seed)
            rule, promise = promised(wish, val, held, confidence=confidence), confidence
            images = f"{counted(len(held), 'image')} of the test set{', one of each group' if any(held.groups) else ''}"
        else:
            rule = operating_point(wish, val)
        measures = None if test is None else measured(rule, wish, test, seed=seed)
        made = Thresholds(str(wish), rule, images, promise, 0 if test is None else len(test), measures)
        write_sealed(directory, directory.thresholds, made.to_dict())
        if test is not None:
            directory.note_test_read("thresholds")
    _forget_model(run)
    for line in _lines(made, wish, val):
        show.message(line)
    return made


def clear(run: Run | Path | str, show: Display | None = None) -> None:
    """Remove the thresholds of a run: it answers every image again. RunError where it has none."""
    directory = run_of(run).directory
    with locked(_finished(directory).root):
        if not directory.thresholds.exists():
            raise RunError(f"{directory.root} has no thresholds")
        remove_sealed(directory, directory.thresholds)
    _forget_model(run)
    (show or default_show()).message(f"{directory.root} has no thresholds any more: every image is answered")


def _forget_model(run: object) -> None:
    """Have a run that holds its model load it again: that one has the thresholds of before."""
    if isinstance(run, Run):
        vars(run).pop("model", None)


def _finished(run: RunDir) -> RunDir:
    """A whole run with a model of its own; RunError for anything else."""
    check_finished(run)
    check(run)
    return run


def _parted(test: Predictions, fraction: float, seed: int) -> tuple[Predictions, Predictions]:
    """One image of each group in a part of the test images, and the other images; drawn from `seed`.

    Images of a group err together, so a binomial test may count one of each alone. DataError for an empty side.
    """
    generator = np.random.default_rng(seed)
    units = clusters(test.groups, test.hashes)
    order = generator.permutation(int(units.max()) + 1)
    chosen = order[: round(fraction * len(order))]
    inside = np.isin(units, chosen)
    if not len(chosen) or inside.all():
        raise DataError(f"{counted(len(order), 'test image or group', 'test images or groups')}: too few to part")
    shuffled = generator.permutation(len(test))
    _, first = np.unique(units[shuffled], return_index=True)
    one_each = np.sort(shuffled[first])
    return test.part(one_each[inside[one_each]]), test.part(np.flatnonzero(~inside))


def _lines(made: Thresholds, want: Want, val: Predictions) -> list[str]:
    """What was chosen, what it promises, and what it does."""
    label = shown(made.rule.label or "")
    below = "" if made.rule.claims else ", not sure below"
    answer = f"{label}{below and ' where that is most probable,'}" if label else "answers"
    at = f"from a probability of {made.rule.threshold:.4f} on"
    lines = [f"{made.asked}: {answer} {at}{below}; chosen on {made.chosen_on}"]
    if made.confidence is not None:
        lines.append(
            f"promise: with {100 * made.confidence:g} % confidence in this choice, {made.asked} on images like these"
        )
    elif want.kind in ("precision", "recall"):
        lines.append(
            "no promise: the validation images chose the model as well. --calibration-fraction 0.5 has half of the "
            "test images choose instead, and makes one"
        )
    if want.kind == "cost":
        scores = val.probabilities()[:, 1]
        tried = [float(cost_of(want, val.labels, scores >= one).mean()) for one in (*np.unique(scores), 2.0)]
        now, half = (float(cost_of(want, val.labels, scores >= one).mean()) for one in (made.rule.threshold, 0.5))
        lines.append(
            f"on validation images it costs {now:.3g} per image, {half:.3g} at a threshold of 0.5 and {min(tried):.3g} "
            "at the best one found there; no promise"
        )
    return [*lines, _tested(made, label)]


def _tested(made: Thresholds, label: str) -> str:
    """What the rule does on test images, in one line."""
    if made.test is None:
        return "no test images: nothing here is measured on images that chose nothing"
    parts = []
    if "answers" in made.test:
        answers, right = made.test["answers"], made.test["right"]
        parts.append(f"answers {percent(answers.value)} of images{_range(answers, percent_range)}")
        parts.append(f"right on {percent(right.value)} of those{_range(right, percent_range)}")
    if "precision" in made.test:
        for name, title in (("precision", f"precision of {label}"), ("recall", "recall")):
            share = made.test[name]
            parts.append(f"{title} {percent(share.value)}{_range(share, percent_range)}")
    if "cost" in made.test:
        cost = made.test["cost"]
        parts.append(f"costs {cost.value:.3g} per image{_range(cost, lambda one: interval(one, '{:.3g}'.format))}")
    return f"on {counted(made.test_images, 'test image')}: {', '.join(parts)}"


def _range(metric: Metric, write: Callable[[Metric], str]) -> str:
    """The interval in brackets; nothing for one that is not known, as where no image is wrong."""
    return f" ({write(metric)})" if math.isfinite(metric.low) and math.isfinite(metric.high) else ""
