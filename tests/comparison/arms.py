"""Answers of made-up models whose true accuracies are known, and what intervals and tests make of them."""

import functools
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from upcycle.comparison.statistics import Arm, Score, difference, retrained, scored, sign_flip


@functools.cache
def _normal(points: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values of a standard normal variable and their weights, for expectations by quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(points)
    return nodes, weights / weights.sum()


def expected_accuracy(ability: NDArray[np.float64], hardness: float) -> NDArray[np.float64]:
    """The accuracy of models of this ability over all images, whose hardness is normal: by quadrature."""
    nodes, weights = _normal(60)
    logits = np.asarray(ability)[..., None] + hardness * nodes
    return (1 / (1 + np.exp(-logits))) @ weights


def answers(
    random: np.random.Generator,
    abilities: NDArray[np.float64],
    labels: NDArray[np.int64],
    hard: NDArray[np.float64],
    *,
    group: int = 1,
) -> Arm:
    """Models of these abilities [S] on images of this hardness [n]: right with the logistic chance of the sum.

    `group` images in a row are one unit.
    """
    chance = 1 / (1 + np.exp(-(abilities[:, None] + hard)))
    right = random.random(chance.shape) < chance
    return Arm(labels, np.where(right, labels, 1 - labels), np.arange(len(labels)) // group, 2)


@dataclass(frozen=True)
class Simulated:
    """Shares of simulated comparisons, and the truth behind them (shares of images).

    `trained`: interval (a) holds the difference of the trained models over all images. `retrained`: interval (b)
    holds that of the recipes over all seeds and images. `rejected`: the sign-flip test finds a difference at 5 %.
    A share that was not asked for is 0.
    """

    trained: float
    retrained: float
    rejected: float
    gap: float
    seed_deviation: float


def simulate(
    repeats: int,
    *,
    images: int,
    seeds: int,
    gap: float,
    hardness: float,
    spread: float,
    metric: Score = "accuracy",
    group: int = 1,
    asked: Collection[str] = ("trained", "retrained", "rejected"),
) -> Simulated:
    """Compare two recipes whose abilities are `gap` apart, with a normal seed effect of deviation `spread`.

    `group` images in a row share their hardness and are one unit. Classes are balanced and errors fall on both
    alike, so that over all images macro F1 is accuracy. `asked` names the shares that are wanted; what is drawn does
    not depend on it.
    """
    random = np.random.default_rng(3)
    nodes, weights = _normal(40)
    spreads = [expected_accuracy(base + spread * nodes, hardness) for base in (2.0, 2.0 + gap)]
    low, high = (values @ weights for values in spreads)
    held, held_retrained, rejected = 0, 0, 0
    for _ in range(repeats):
        labels, hard = random.integers(0, 2, images), random.normal(0, hardness, images // group).repeat(group)
        abilities = [base + random.normal(0, spread, seeds) for base in (2.0, 2.0 + gap)]
        first, second = (answers(random, ability, labels, hard, group=group) for ability in abilities)
        draw = int(random.integers(2**31))
        if "rejected" in asked:
            rejected += sign_flip(first, second) < 0.05
        if not {"trained", "retrained"} & set(asked):
            continue
        ones, twos = (scored(one, n_boot=200, seed=draw) for one in (first, second))
        if "trained" in asked:
            truth = [expected_accuracy(ability, hardness).mean() for ability in abilities]
            made = difference(ones, twos, metric)
            held += made.low <= truth[1] - truth[0] <= made.high
        if "retrained" in asked:
            recipes = retrained(ones, twos, metric, [(at, at) for at in range(seeds)])
            if recipes is not None:
                held_retrained += recipes.low <= high - low <= recipes.high
    deviation = float(np.sqrt(((spreads[0] - low) ** 2) @ weights))
    return Simulated(held / repeats, held_retrained / repeats, rejected / repeats, float(high - low), deviation)
