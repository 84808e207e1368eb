import numpy as np
import pytest

from tests.data.made import made
from upcycle.data.splits import folds
from upcycle.jobs.label_errors import suspects
from upcycle.recipes import resolve
from upcycle.training.out_of_fold import out_of_fold


@pytest.mark.parametrize("classes", [2, 3])
def test_wrong_labels_are_found_by_probes_that_did_not_learn_them(classes: int) -> None:
    random = np.random.default_rng(0)
    true = np.arange(240) % classes
    features = (random.normal(size=(240, 12)) + 6 * np.eye(12)[true]).astype(np.float32)
    wrong = np.sort(random.choice(240, 12, replace=False))
    labels = true.copy()
    labels[wrong] = (labels[wrong] + 1) % classes
    index = made("".join("abc"[label] for label in labels))
    told: list[tuple[int, int]] = []
    chances = out_of_fold(
        features,
        index.labels,
        classes,
        folds(index, k=3, seed=0),
        tied=np.arange(240, dtype=np.int32),
        config=resolve({"head_epochs": 1}),
        progress=lambda done, total: told.append((done, total)),
    )
    assert (240, classes) == chances.shape
    assert 1.0 == pytest.approx(chances.sum(axis=1))
    assert [(1, 3), (2, 3), (3, 3)] == told
    assert (chances.argmax(axis=1) == true).mean() > 0.98  # the labels that were learnt say otherwise twelve times
    found = suspects(chances, index.labels)
    assert set(found.positions.tolist()) <= set(wrong.tolist())
    assert len(found) >= 6
