"""Answers of made-up models whose true accuracies are known."""

import numpy as np
from numpy.typing import NDArray

from upcycle.study.paired import Arm


def expected_accuracy(ability: NDArray[np.float64], hardness: float) -> NDArray[np.float64]:
    """The accuracy of models of this ability over all images, whose hardness is normal: by quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    logits = np.asarray(ability)[..., None] + hardness * nodes
    return (1 / (1 + np.exp(-logits))) @ (weights / weights.sum())


def answers(
    random: np.random.Generator, abilities: NDArray[np.float64], labels: NDArray[np.int64], hard: NDArray[np.float64]
) -> Arm:
    """Models of these abilities [S] on images of this hardness [n]: right with the logistic chance of the sum."""
    chance = 1 / (1 + np.exp(-(abilities[:, None] + hard)))
    right = random.random(chance.shape) < chance
    return Arm(labels, np.where(right, labels, 1 - labels), np.arange(len(labels)), 2)
