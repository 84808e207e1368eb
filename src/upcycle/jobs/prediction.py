"""What is predicted of an image, and how many files are predicted together. Needs no torch."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from upcycle.evaluation.thresholds import Rule, Thresholds

Frame = npt.NDArray[np.uint8]
"""A decoded image [H, W, 3]."""
FILES_AT_ONCE = 128
"""Files that are decoded and then judged together: four of a model's batches."""
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Prediction:
    """The class of one image, its probability, and the probability of every class (they add up to 1).

    `sure` is False where the model's thresholds leave the image open; `label` is then the class that it would be given.
    `p_value`: how usual the image is; of images like the training photos 1 % have 0.01 or less. None where the model
    has no table for it.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    sure: bool = True
    p_value: float | None = None

    def _repr_html_(self) -> str:
        """What a notebook shows: one bar per class, the most probable five."""
        from upcycle.reporting.html import prediction_fragment

        return prediction_fragment(self.probabilities)


def predictions_of(
    rows: npt.NDArray[np.float64],
    classes: Sequence[str],
    thresholds: Thresholds | None,
    p_values: npt.NDArray[np.float64] | None = None,
) -> list[Prediction]:
    """A prediction for each row of probabilities [n, K], with its p-value of [n] where there are any."""
    rule = thresholds.rule if thresholds is not None else Rule(0.0)
    usual = p_values.tolist() if p_values is not None else [None] * len(rows)
    return [
        Prediction(classes[at], float(row[at]), dict(zip(classes, row.tolist(), strict=True)), bool(sure), p_value)
        for row, at, sure, p_value in zip(rows, *rule.decide(rows, classes), usual, strict=True)
    ]


def chunks(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """Lists of `size` items, the last one shorter."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk
