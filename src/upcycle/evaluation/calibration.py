"""Whether probabilities are as high as answers are right: temperature of logits, bins, expected calibration error."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from upcycle.evaluation.intervals import Interval, bootstrap, clopper_pearson, clusters, from_replicates
from upcycle.evaluation.metrics import share
from upcycle.evaluation.results import Calibration, Metric, Predictions
from upcycle.task import WIDEST, Integers, Reals

PRIOR = 0.1
"""The scale of the prior on log T: models that were right already lose nothing in lab/2026-11-30-thresholds."""
MOST = 10_000
"""Images, at most, that a temperature is fitted on: more add nothing."""
BINS, IN_A_BIN = 15, 10
"""Bins, at most, and images of each, at least."""


def fit_temperature(predictions: Predictions, *, prior: float = PRIOR) -> float:
    """The number that logits are divided by for the lowest log loss of held-out images (Guo 2017, arXiv 1706.04599).

    A Laplace prior on its logarithm leaves it 1 unless the images clearly ask for another: few of them, or images
    without an error, cannot make the model ever surer. A group of images counts as one. From 0.1 to 10, of four
    decimals.
    """
    from scipy.optimize import minimize_scalar  # imported here: a run that starts has no use for it

    n = len(predictions)
    some = predictions.part(np.linspace(0, n - 1, MOST).astype(np.int64)) if n > MOST else predictions
    units, rows = len(np.unique(clusters(some.groups, some.hashes))), np.arange(len(some))

    def cost(log: float) -> float:
        costs = some.task.costs(some.logits * np.float32(math.exp(-log)))
        return units * float(costs[rows, some.labels].mean()) + abs(log) / prior

    logs = np.linspace(-1, 1, 41) * math.log(WIDEST)
    at = int(np.argmin([cost(log) for log in logs]))  # the prior can make more than one minimum
    around = (logs[max(at - 1, 0)], logs[min(at + 1, 40)])
    return round(math.exp(minimize_scalar(cost, bounds=around, method="bounded", options={"xatol": 1e-6}).x), 4)


def scaled(predictions: Predictions, temperature: float) -> Predictions:
    """The predictions with their logits divided by a temperature, to the bit as `Network` does it."""
    if temperature == 1:
        return predictions
    return replace(predictions, logits=predictions.logits * np.float32(1 / temperature))


@dataclass(frozen=True)
class Bin:
    """Images of nearly one confidence: how many, their mean confidence, and the share that is right."""

    n: int
    confidence: float
    right: Metric


def bins(predictions: Predictions) -> list[Bin]:
    """The answers in bins of as many images each, the least confident first."""
    confidence, right, place = _binned(predictions)
    units = clusters(predictions.groups, predictions.hashes)
    every = [place == number for number in range(int(place.max()) + 1)]
    return [Bin(int(at.sum()), float(confidence[at].mean()), share((right > 0) & at, at, units)) for at in every]


def _binned(predictions: Predictions) -> tuple[Reals, Reals, Integers]:
    """The probability of each image's answer, 1.0 where it is right, and the number of its bin."""
    confidence = predictions.probabilities().max(axis=1)
    right = (predictions.predicted() == predictions.labels).astype(np.float64)
    count = min(BINS, max(1, len(predictions) // IN_A_BIN))
    place = np.empty(len(predictions), np.int64)
    place[np.argsort(confidence, kind="stable")] = np.arange(len(predictions)) * count // len(predictions)
    return confidence, right, place


def calibration_error(predictions: Predictions, *, seed: int = 0, n_boot: int = 500) -> Metric:
    """The mean gap between confidence and accuracy of the answers over bins of as many images each, from 0 to 1.

    The expected calibration error of the most probable class (Naeini 2015, AAAI 29), with the bins of Nixon 2019
    (arXiv 1904.01685), and its bootstrap interval, by group.
    """
    confidence, right, place = _binned(predictions)
    units = clusters(predictions.groups, predictions.hashes)
    gaps = np.zeros((len(right), int(place.max()) + 1))
    gaps[np.arange(len(right)), place] = confidence - right

    def statistic(weights: Reals) -> Reals:
        gap = np.abs(weights @ gaps).sum(axis=1, keepdims=True)
        return np.asarray(gap / weights.sum(axis=1, keepdims=True))

    value, count = float(statistic(np.ones((1, len(right))))[0, 0]), int(units.max()) + 1
    draws = bootstrap(statistic, units, seed=seed, n_boot=n_boot)[:, 0]
    made = from_replicates(value, draws, units=count, scale="logit")
    if made is None:  # no spread to be seen: as many images as the exact bound allows may be of another kind
        made = Interval(0.0, min(1.0, value + clopper_pearson(0, count).high), "exact")
    return Metric(value, made.low, made.high, made.method)


def chance_error(predictions: Predictions, *, seed: int = 0, draws: int = 100) -> float:
    """The calibration error that these images show on average where every probability is right: it is never 0."""
    confidence, _, place = _binned(predictions)
    right = np.random.default_rng(seed).random((draws, len(place))) < confidence
    sums = np.zeros((len(place), int(place.max()) + 1))
    sums[np.arange(len(place)), place] = 1
    return float(np.abs((confidence - right) @ sums).sum(axis=1).mean() / len(place))


def calibration_of(held: Mapping[str, Predictions], temperature: float, *, seed: int = 0) -> Calibration:
    """What a temperature changes, by split; `held` are the predictions before it."""
    after = {name: scaled(made, temperature) for name, made in held.items()}
    return Calibration(
        temperature,
        before={name: calibration_error(made, seed=seed) for name, made in held.items()},
        after={name: calibration_error(made, seed=seed) for name, made in after.items()},
        chance={name: chance_error(made, seed=seed) for name, made in after.items()},
    )
