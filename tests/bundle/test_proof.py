"""The judgement over an exported model."""

import numpy as np
import pytest

from upcycle.bundle.proof import judge_int8, prove
from upcycle.errors import ExportError
from upcycle.evaluation.results import Predictions

CLASSES = ("cat", "dog")


def recorded(labels: list[int], chances: list[float]) -> Predictions:
    n = len(labels)
    logits = np.log(np.array(chances) / (1 - np.array(chances)))[:, None].astype(np.float32)
    names = tuple(f"{at}.jpg" for at in range(n))
    return Predictions(CLASSES, names, names, ("",) * n, np.array(labels), logits)


def rows(*second: float) -> np.ndarray:
    return np.array([[1 - value, value] for value in second])


def test_a_model_within_the_bound_is_proved() -> None:
    run = recorded([0, 1, 1, 0], [0.1, 0.9, 0.8, 0.7])
    found = prove(
        rows(0.101, 0.9, 0.8, 0.7),
        rows(0.1, 0.9, 0.8, 0.7),
        run,
        split="test",
        seconds=([0.01, 0.02, 0.03, 0.04], [0.05] * 4),
        threads=2,
    )
    assert found.describe() == (
        "4 test images: 4 same answers; largest difference of a probability 0.0010; F1 0.733 = 0.733; "
        "25 ms/image on 2 threads (torch: 50)"
    )
    assert found.of_the_run() == "the run's own predictions: 4 of 4 the same answers, F1 0.733"


def test_a_model_beyond_the_bound_is_refused_and_the_image_named() -> None:
    run = recorded([0, 1], [0.1, 0.9])
    with pytest.raises(ExportError, match=r"for 1\.jpg a probability differs by 0\.0060 .*; 1 of 2 images"):
        prove(rows(0.1, 0.894), rows(0.1, 0.9), run, split="test", seconds=([1, 1], [1, 1]), threads=1)


def test_a_probability_that_is_no_number_is_no_agreement() -> None:
    run = recorded([0, 1], [0.1, 0.9])
    with pytest.raises(ExportError, match=r"1 of 2 images"):
        prove(rows(np.nan, 0.9), rows(0.1, 0.9), run, split="test", seconds=([1, 1], [1, 1]), threads=1)


def test_an_answer_may_change_only_where_two_classes_are_as_likely() -> None:
    run = recorded([0, 1], [0.498, 0.9])
    found = prove(rows(0.501, 0.9), rows(0.498, 0.9), run, split="val", seconds=([1, 1], [1, 1]), threads=1)
    assert (found.images, found.same, found.recorded_same) == (2, 1, 1)


def test_int8_is_judged_by_its_paired_interval() -> None:
    labels = [0, 1] * 200
    fp32 = rows(*(0.1 if label == 0 else 0.9 for label in labels))
    worse = fp32.copy()
    worse[:40] = worse[:40, ::-1]
    found = judge_int8(
        fp32,
        worse,
        recorded(labels, [0.5] * 400),
        {"fp32": [0.02] * 400, "int8": [0.01] * 400},
        (25_000_000, 94_000_000),
    )
    assert found.f1.value == pytest.approx(-0.1)
    assert found.f1.low < -0.1 < found.f1.high < 0
    assert found.describe().endswith("2.0x as fast, 25 MB instead of 94")
