"""Runs on the same test images, compared: a ladder of rungs, what each step bought, and whether it is real.

`compare` gives plain values for `comparison.json`; docs/comparison.md says what each means. Scores and
differences are shares of one; sentences speak of points, hundredths.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from upcycle.comparison import costs, words
from upcycle.comparison.options import differing
from upcycle.comparison.paired import (
    FEWEST_UNITS,
    Arm,
    Metric,
    Scored,
    again,
    combined,
    difference,
    holm,
    images_needed,
    mcnemar,
    scored,
    sign_flip,
    widened,
)
from upcycle.comparison.runs import Group, Run, SharedTest, shared_test
from upcycle.errors import ConfigError
from upcycle.evaluation.intervals import LEVEL, Interval, from_replicates, proportion
from upcycle.evaluation.metrics import macro_f1

VERSION = 1
SMALLEST_DIFFERENCE = 0.01

Values = dict[str, Any]


def compare(
    groups: Sequence[Group],
    *,
    folder: Path,
    smallest_difference: float = SMALLEST_DIFFERENCE,
    facts: Values | None = None,
) -> Values:
    """The comparison of `groups`, in the order of the ladder, as plain values.

    Paths of runs are written relative to `folder`. `facts` (data, command, created) are carried along.
    ConfigError with fewer than two groups that have runs; RunError for runs that were not tested on the same
    images.
    """
    there = [group for group in groups if group.runs]
    if len(there) < 2:
        raise ConfigError("a comparison needs 2 or more runs that differ in more than their seed")
    test = shared_test([run for group in there for run in group.runs])
    arms = {group.name: test.arm(group.runs) for group in there}
    scores = {name: scored(arm) for name, arm in arms.items()}
    titles = {group.name: group.title for group in groups}
    rungs = [_rung(group, arms, scores, costs.shared(groups), folder) for group in groups]
    pairs = [_pair(one, two, kinds, arms, scores, smallest_difference) for one, two, kinds in _chosen(there, scores)]
    _correct(pairs, len(there))
    for pair in pairs:
        _judge(pair, titles, smallest_difference, test)
    comparable = len(_machines(there)) < 2 and all(rung["seconds"] is not None for rung in rungs if rung["runs"])
    return {
        "version": VERSION,
        "data": None,
        "command": None,
        "created": None,
        **(facts or {}),
        "classes": list(test.reference.classes),
        "test": _test_facts(test),
        "level": LEVEL,
        "smallest_difference": smallest_difference,
        "family": {"correction": "holm", "size": sum("step" in pair["kinds"] for pair in pairs)},
        "environment": _environment(there[0].runs[0]),
        "rungs": rungs,
        "pairs": pairs,
        "machines": _machines(there),
        "recommendation": words.recommendation(rungs, pairs, smallest_difference) if comparable else None,
        "says": [
            *words.headline(rungs, pairs, _tested(test), smallest_difference),
            *words.cautions(_machines(there), _versions(there), _slowed(there), other_split=_split_differs(there)),
        ],
        "options": differing({group.name: _options(group, there) for group in there}),
    }


def _tested(test: SharedTest) -> str:
    return words.tested(len(test.reference), int(test.units.max()) + 1)


def _test_facts(test: SharedTest) -> Values:
    digest = hashlib.sha256("\n".join(sorted(test.reference.hashes)).encode()).hexdigest()
    return {"images": len(test.reference), "units": int(test.units.max()) + 1, "sha256": digest}


def _environment(run: Run) -> Values:
    names = ("processor", "device", "threads", "precision", "versions")
    return {name: run.environment[name] for name in names if name in run.environment}


def _machines(groups: Sequence[Group]) -> list[str]:
    """The machines that the runs were trained on, each once, in words."""
    known = [run.environment for group in groups for run in group.runs]
    facts = ("processor", "device", "gpu", "threads")
    named = [
        [f"{one[fact]}{' threads' if fact == 'threads' else ''}" for fact in facts if one.get(fact) is not None]
        for one in known
    ]
    return list(dict.fromkeys(", ".join(parts) for parts in named if parts))


def _versions(groups: Sequence[Group]) -> list[str]:
    """The versions in which the runs differ, each package once, in words."""
    known = [run.environment.get("versions") or {} for group in groups for run in group.runs]
    found = {name: list(dict.fromkeys(str(one.get(name)) for one in known)) for one in known for name in one}
    return [f"{name} {' and '.join(versions)}" for name, versions in found.items() if len(versions) > 1]


def _slowed(groups: Sequence[Group]) -> list[str]:
    """The runs that went on at a lower rate than they were begun with."""
    return [
        f"{group.title}, seed {run.seed}"
        for group in groups
        for run in group.runs
        if any(row.get("retries") for row in run.rows)
    ]


def _split_differs(groups: Sequence[Group]) -> bool:
    return len({run.splits for group in groups for run in group.runs}) > 1


def _options(group: Group, groups: Sequence[Group]) -> Values:
    """The options that had an effect on a group; its images, split and weights where others had other ones."""
    runs = [run for one in groups for run in one.runs]
    told: dict[str, list[object]] = {
        "data": [run.config.get("data") for run in runs],
        "split_seed": [run.splits for run in runs],
        "weights_sha256": [run.config["weights_sha256"] for run in runs if run.config.get("weights_sha256")],
    }
    first = group.runs[0]
    known = {
        "data": first.config.get("data"),
        "split_seed": first.split_seed,
        "weights_sha256": str(first.config.get("weights_sha256") or "")[:12],
    }
    return {**first.options, **{name: known[name] for name, values in told.items() if len(set(values)) > 1}}


# ------------------------------------------------------------------------------------------ rungs


def _rung(group: Group, arms: dict[str, Arm], scores: dict[str, Scored], shared: costs.Shared, folder: Path) -> Values:
    """One rung's part of comparison.json."""
    values: Values = {
        "name": group.name,
        "title": group.title,
        "does": group.does,
        "seeds": [run.seed for run in group.runs],
        "runs": [_run(run, folder) for run in group.runs],
        "failed": list(group.failed),
        "tuned": _tuned(group, folder) if group.trials else None,
    }
    if not group.runs:
        names = (
            "accuracy",
            "f1_macro",
            "epochs",
            "seconds",
            "tuning_seconds",
            "trained_parameters",
            "parameters",
        )
        return values | dict.fromkeys(names)
    arm, made = arms[group.name], scores[group.name]
    return values | {
        "accuracy": _score(made, "accuracy", _accuracy(arm)),
        "f1_macro": _score(made, "f1_macro", _f1(made, arm)),
        "epochs": mean(run.epochs for run in group.runs),
        "seconds": costs.mean_seconds(group.runs, shared),
        "tuning_seconds": sum(costs.own_seconds(run) for run in group.trials if run.config["lr"] != group.lr),
        "trained_parameters": group.runs[0].model.get("trained_parameters"),
        "parameters": group.runs[0].model.get("parameters"),
    }


def _run(run: Run, folder: Path) -> Values:
    return {
        "seed": run.seed,
        "path": os.path.relpath(run.path.resolve(), folder.resolve()),
        "accuracy": run.score("accuracy"),
        "f1_macro": run.score("f1_macro"),
        "log_loss": run.score("log_loss"),
        "epochs": run.epochs,
        "seconds": run.status.get("seconds"),
        "seconds_complete": run.is_timed_whole,
        "phase": run.rows[0]["phase"] if run.history else None,
    }


def _tuned(group: Group, folder: Path) -> Values:
    trials = [
        {
            "lr": run.config["lr"],
            "val_loss": min(row["val_loss"] for row in run.rows),
            "path": os.path.relpath(run.path.resolve(), folder.resolve()),
        }
        for run in group.trials
    ]
    return {"lr": group.lr, "trials": sorted(trials, key=lambda trial: trial["lr"])}


def _score(made: Scored, metric: Metric, interval: Interval) -> Values:
    value = made.mean(metric)
    return {
        "value": value,
        "low": min(interval.low, value),
        "high": max(interval.high, value),
        "spread": made.deviation(metric),
        "method": interval.method,
    }


def _accuracy(arm: Arm) -> Interval:
    """The interval of seed-averaged accuracy over new images: answers to one image are one unit."""
    hits = arm.correct.ravel()
    return proportion(hits, np.ones(len(hits), np.bool_), np.tile(arm.units, len(arm.predicted)))


def _f1(made: Scored, arm: Arm) -> Interval:
    """The interval of seed-averaged macro F1 over new images, by the rule of a run's own report."""
    value, replicates = made.mean("f1_macro"), made.of("f1_macro")[1].mean(axis=1)
    boot = from_replicates(value, replicates, units=arm.independent, scale="logit")
    return macro_f1(value, arm.labels, arm.predicted, arm.units, boot)


# ------------------------------------------------------------------------------------------ pairs


def _chosen(groups: Sequence[Group], scores: dict[str, Scored]) -> list[tuple[Group, Group, list[str]]]:
    """The pairs worth a look: each step, each rung against the first, and each against the best by F1."""
    best = max(groups, key=lambda group: scores[group.name].mean("f1_macro"))
    kinds: dict[tuple[str, str], list[str]] = {}
    by_name = {group.name: group for group in groups}
    for one, two in pairwise(groups):
        kinds.setdefault((one.name, two.name), []).append("step")
    for group in groups[1:]:
        kinds.setdefault((groups[0].name, group.name), []).append("first")
    for group in groups:
        if group is not best:
            kinds.setdefault((group.name, best.name), []).append("best")
    return [(by_name[one], by_name[two], words) for (one, two), words in kinds.items()]


def _pair(
    one: Group, two: Group, kinds: list[str], arms: dict[str, Arm], scores: dict[str, Scored], goal: float
) -> Values:
    """Both answers for one pair of rungs, before any correction and without words."""
    first, second = arms[one.name], arms[two.name]
    units, images = first.independent, len(first.labels)
    right = difference(scores[one.name], scores[two.name], "accuracy", units=units)
    f1 = difference(scores[one.name], scores[two.name], "f1_macro", units=units)
    matched = _matched(one, two)
    tests = [(seeds, mcnemar(first.correct[a], second.correct[b])) for seeds, a, b in matched]
    same = {run.path for run in one.runs} == {run.path for run in two.runs}
    retrained = again(_kept(scores[one.name], matched, 1), _kept(scores[two.name], matched, 2), "f1_macro", units=units)
    return {
        "first": one.name,
        "second": two.name,
        "kinds": kinds,
        "same_runs": same,
        "seeds": [list(seeds) for seeds, _ in tests],
        "difference": {
            "metric": "accuracy",
            "value": right.value,
            "interval": [right.low, right.high],
            "p": sign_flip(first, second),
            "method": "paired bootstrap; p: sign-flip test",
        },
        "f1_difference": {
            "metric": "f1_macro",
            "value": f1.value,
            "interval": [f1.low, f1.high],
            "method": "paired bootstrap",
        },
        "mcnemar": {
            # the test takes images as independent: with groups the sign-flip test's p is the one to read
            "p": combined([made.p for _, made in tests]) if units == images else None,
            "combined": "bonferroni" if len(tests) > 1 else None,
            "pairs": [
                {"seeds": list(seeds), "only_first": made.only_first, "only_second": made.only_second, "p": made.p}
                for seeds, made in tests
            ],
        },
        "discordance": mean((made.only_first + made.only_second) / images for _, made in tests),
        "again": {
            "answerable": retrained.interval is not None,
            "reason": retrained.reason,
            "seeds": retrained.seeds,
            "value": retrained.value,
            "interval": list(retrained.interval) if retrained.interval else None,
            "corrected_interval": None,
            "df": retrained.df,
            "image_deviation": retrained.image_deviation,
            "seed_deviation": retrained.seed_deviation,
        },
        "images_needed": images_needed(f1, goal, images=images),
    }


Match = tuple[tuple[int, int], int, int]


def _matched(one: Group, two: Group) -> list[Match]:
    """Pairs of runs, (seeds, position in one, position in two): of the same seed, or in order where none is."""
    ours, theirs = [run.seed for run in one.runs], [run.seed for run in two.runs]
    same = [((seed, seed), ours.index(seed), theirs.index(seed)) for seed in ours if seed in theirs]
    return same or [((a, b), at, at) for at, (a, b) in enumerate(zip(ours, theirs, strict=False))]


def _kept(made: Scored, matched: Sequence[Match], side: int) -> Scored:
    """The scores of the matched runs alone."""
    at = [match[side] for match in matched]
    return replace(made, values=made.values[at], replicates=made.replicates[:, at])


def _correct(pairs: Sequence[Values], rungs: int) -> None:
    """p values corrected for the number of tests in their family.

    Steps, every rung against the one before, and comparisons with the first: Holm within each. Against
    the best, which was chosen by its score: Bonferroni over all pairs of rungs, as any of them might have been
    asked, for p and for the interval of answer (b).
    """
    for pair in pairs:
        pair["corrected"] = dict.fromkeys(pair["kinds"], 1.0)
    for kind in ("step", "first"):
        some = [pair for pair in pairs if kind in pair["kinds"]]
        for pair, p in zip(some, holm([pair["difference"]["p"] for pair in some]), strict=True):
            pair["corrected"][kind] = p
    every = rungs * (rungs - 1) // 2
    for pair in (pair for pair in pairs if "best" in pair["kinds"]):
        pair["corrected"]["best"] = min(1.0, pair["difference"]["p"] * every)
        made = pair["again"]
        if made["interval"]:
            made["corrected_interval"] = list(widened(made["interval"], df=made["df"], comparisons=every))
    for pair in pairs:
        p = pair["corrected"].get("step")
        pair["holm"] = None if p is None else {"p": p, "real": p < 1 - LEVEL}


def _judge(pair: Values, titles: dict[str, str], goal: float, test: SharedTest) -> None:
    """The verdict of a pair and its sentence."""
    pair["verdict"] = verdict(pair, goal, units=int(test.units.max()) + 1)
    if pair["same_runs"]:
        pair["verdict"], pair["images_needed"] = "same", None
    pair["says"] = words.step(pair, titles, goal, images=_tested(test))


def verdict(pair: Values, goal: float, *, units: int) -> str:
    """gain or loss: the test, corrected within its family, and the F1 interval both say so.

    same: the whole F1 interval lies within `goal` of no difference; too-small: no paired test of so few
    independent images could show anything; unclear: none of these.
    """
    low, high = pair["f1_difference"]["interval"]
    p = pair["corrected"][pair["kinds"][0]]
    if units < FEWEST_UNITS:
        return "too-small"
    if p < 1 - LEVEL and low > 0:
        return "gain"
    if p < 1 - LEVEL and high < 0:
        return "loss"
    return "same" if max(abs(low), abs(high)) <= goal else "unclear"
