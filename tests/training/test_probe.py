"""The probe: the mean of its heads, on the stages that help."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.data.made import made
from upcycle.data.splits import folds
from upcycle.jobs.label_errors import suspects
from upcycle.task import Task
from upcycle.training.loss import Loss, score
from upcycle.training.probe import Probe, out_of_fold, refitted, train_probe
from upcycle.training.rows import Split as Rows

Split = tuple[np.ndarray[Any, np.dtype[np.float32]], np.ndarray[Any, np.dtype[np.int32]]]


def problem(images: int, classes: int, width: int, *, seed: int = 0) -> tuple[Split, Split]:
    """Features like a network's: non-negative, correlated, of very different scales; classes overlap."""
    random = np.random.default_rng(seed)
    centers = random.normal(0, 1, (classes, 8))
    mixing = random.normal(0, 1, (8, width)) * np.exp(random.normal(0, 1, width))

    def draw(count: int) -> Split:
        labels = (np.arange(count) % classes).astype(np.int32)
        hidden = centers[labels] + random.normal(0, 1, (count, 8))
        features = np.maximum(hidden @ mixing + 0.3 * random.normal(0, 1, (count, width)), 0)
        return features.astype(np.float32), labels

    return draw(images), draw(400)


def rows(split: Split) -> Rows:
    return Rows(split[0], np.arange(len(split[1])), split[1])


def task_of(classes: int) -> Task:
    return Task.of([str(number) for number in range(classes)])


def fit(train: Split, val: Split, classes: int, loss: Loss | None = None) -> Probe:
    return train_probe(rows(train), rows(val), loss=loss or Loss(task_of(classes)), seed=0)


def test_copies_and_groups_are_held_out_together_where_the_strength_is_chosen() -> None:
    random = np.random.default_rng(0)
    features = np.repeat(random.normal(size=(40, 64)), 4, axis=0).astype(np.float32)  # each image four times
    labels = np.repeat(np.arange(40) % 2, 4).astype(np.int32)  # which nothing in the features tells
    own = np.arange(160)
    held = Rows(random.normal(size=(20, 64)).astype(np.float32), own[:20], (own[:20] % 2).astype(np.int32))
    loss = Loss(task_of(2))
    free, together = (
        train_probe(Rows(features, own, labels, groups), held, loss=loss, seed=0).result.strengths["each"]
        for groups in (None, (own // 4).astype(np.int32))
    )
    assert free < 0.1 < 10 <= together


@pytest.mark.parametrize("classes", [2, 3])
def test_the_folded_head_scores_on_raw_features_what_its_result_says(classes: int) -> None:
    train, val = problem(100, classes, 32)
    probe = fit(train, val, classes)
    logits = torch.from_numpy(val[0]) @ probe.weight.T + probe.bias
    found = score(logits, torch.from_numpy(val[1]).long(), task_of(classes))
    result = probe.result
    assert (result.val_loss, result.val_accuracy) == (pytest.approx(found.loss, abs=1e-5), found.accuracy)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_stages_that_tell_the_classes_are_read(classes: int) -> None:
    train, val = problem(80, classes, 16)
    noise = np.random.default_rng(1).normal(size=(480, 32)).astype(np.float32)
    for first in (True, False):  # the classes show in the last stage, or in the one before

        def both(split: Split, more: "np.ndarray[Any, np.dtype[np.float32]]", first: bool = first) -> Split:
            return np.hstack([split[0], more] if first else [more, split[0]]), split[1]

        wide = both(train, noise[:80]), both(val, noise[80:])
        widths = (16, 32) if first else (32, 16)
        found = train_probe(rows(wide[0]), rows(wide[1]), loss=Loss(task_of(classes)), seed=0, widths=widths)
        assert (1 if first else 2) == found.result.stages
        assert sum(widths[: found.result.stages]) == found.weight.shape[1]
        assert min(found.result.losses) == found.result.losses[found.result.stages - 1]


def test_class_weights_move_the_probe_as_they_move_logistic_regression() -> None:
    train, val = problem(200, 2, 16)
    plain = fit(train, val, 2)
    weighted = fit(train, val, 2, Loss(task_of(2), torch.tensor([0.1, 1.9])))
    said = [float((torch.from_numpy(val[0]) @ one.weight.T + one.bias > 0).float().mean()) for one in (plain, weighted)]
    assert said[0] + 0.05 < said[1]


def test_the_same_seed_gives_the_same_bits() -> None:
    train, val = problem(60, 2, 16)
    assert torch.equal(fit(train, val, 2).weight, fit(train, val, 2).weight)


def test_progress_comes_to_the_end() -> None:
    train, val = problem(60, 3, 16)
    told: list[tuple[int, int]] = []
    train_probe(rows(train), rows(val), loss=Loss(task_of(3)), seed=0, progress=lambda *at: told.append(at))
    assert sorted(told) == told
    assert ((1, 15), (15, 15)) == (told[0], told[-1])


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
        task_of(classes),
        folds(index, k=3, seed=0),
        groups=np.arange(240, dtype=np.int32),
        seed=0,
        progress=lambda done, total: told.append((done, total)),
    )
    assert (240, classes) == chances.shape
    assert 1.0 == pytest.approx(chances.sum(axis=1))
    assert [(1, 3), (2, 3), (3, 3)] == told
    assert (chances.argmax(axis=1) == true).mean() > 0.98  # the labels that were learned say otherwise twelve times
    found, _ = suspects(chances, index.labels)
    assert set(found.tolist()) <= set(wrong.tolist())
    assert len(found) >= 6


@pytest.mark.parametrize("width", [12, 400])  # by features, and by images
@pytest.mark.parametrize("classes", [2, 3])
def test_images_that_are_all_alike_teach_nothing_and_are_no_error(width: int, classes: int) -> None:
    alike = np.ones((90, width), np.float32), (np.arange(90) % classes).astype(np.int32)
    probe = train_probe(rows(alike), rows(alike), loss=Loss(task_of(classes)), seed=0, widths=(width // 2, width // 2))
    assert probe.result.val_loss == pytest.approx(np.log(classes), abs=0.01)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_probe_trained_again_is_the_one_trained_on_all_at_those_strengths(classes: int) -> None:
    train, val = problem(240, classes, 32)
    first = fit(train, val, classes)
    same = refitted(first, rows(train), loss=Loss(task_of(classes)))
    torch.testing.assert_close(same.weight, first.weight, rtol=0.02, atol=2e-3)
    more = np.concatenate([train[0], val[0]]), np.concatenate([train[1], val[1]])
    again = refitted(first, rows(more), loss=Loss(task_of(classes)))
    assert again.result == first.result
    fresh = problem(240, classes, 32, seed=0)[1]
    losses = [
        score(torch.from_numpy(fresh[0]) @ one.weight.T + one.bias, torch.from_numpy(fresh[1]).long(), task_of(classes))
        for one in (first, again)
    ]
    assert losses[1].loss < losses[0].loss  # on images that the second has learned
