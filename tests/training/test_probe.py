"""The probe is no straw man: it matches scikit-learn's logistic regression."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from upcycle.recipes import phases, resolve
from upcycle.training.objective import Objective
from upcycle.training.probe import Probe, train_probe
from upcycle.training.probe import Split as Rows
from upcycle.training.scores import score

Split = tuple[np.ndarray[Any, np.dtype[np.float32]], np.ndarray[Any, np.dtype[np.int32]]]


def problem(images: int, classes: int, width: int, *, seed: int = 0) -> tuple[Split, Split]:
    """Features like a network's: non-negative, correlated, of very different scales; classes overlap."""
    random = np.random.default_rng(seed)
    centres = random.normal(0, 1, (classes, 8))
    mixing = random.normal(0, 1, (8, width)) * np.exp(random.normal(0, 1, width))

    def draw(count: int) -> Split:
        labels = (np.arange(count) % classes).astype(np.int32)
        hidden = centres[labels] + random.normal(0, 1, (count, 8))
        features = np.maximum(hidden @ mixing + 0.3 * random.normal(0, 1, (count, width)), 0)
        return features.astype(np.float32), labels

    return draw(images), draw(400)


def fit(train: Split, val: Split, classes: int) -> Probe:
    phase = phases(resolve({}), len(train[1]))[0]
    sides = [Rows(features, np.arange(len(labels)), labels) for features, labels in (train, val)]
    return train_probe(*sides, phase=phase, objective=Objective(1 if classes == 2 else classes), seed=0)


def sklearns_best(train: Split, val: Split) -> float:
    """Fifteen lines of scikit-learn: raw or standardised features, the strength chosen on validation."""
    best = np.inf
    scaler = StandardScaler().fit(train[0])
    for change in (lambda x: x / train[0].std(), scaler.transform):
        for strength in 10.0 ** np.arange(-4, 3):
            model = LogisticRegression(C=strength, max_iter=3000).fit(change(train[0]), train[1])
            best = min(best, log_loss(val[1], model.predict_proba(change(val[0]))))
    return float(best)


@pytest.mark.parametrize(("images", "classes"), [(20, 2), (240, 2), (1000, 2), (300, 4)])
def test_the_probe_is_at_least_as_good_as_scikit_learn(images: int, classes: int) -> None:
    train, val = problem(images, classes, 64)
    assert fit(train, val, classes).rows[-1].val_loss <= sklearns_best(train, val) + 0.005


@pytest.mark.parametrize("classes", [2, 3])
def test_the_folded_head_scores_on_raw_features_what_its_last_row_says(classes: int) -> None:
    train, val = problem(100, classes, 32)
    probe = fit(train, val, classes)
    found = score(torch.from_numpy(val[0]) @ probe.weight.T + probe.bias, torch.from_numpy(val[1]).long())
    last = probe.rows[-1]
    assert (last.val_loss, last.val_accuracy) == (pytest.approx(found.loss, abs=1e-5), found.accuracy)


def test_rows_carry_phase_epoch_step_and_the_cycles_rate() -> None:
    train, val = problem(60, 2, 16)
    probe = fit(train, val, 2)
    rows, phase = probe.rows, phases(resolve({}), 60)[0]
    share = probe.lr_max / phase.schedule.lr_max  # type: ignore[attr-defined]
    assert [("head", 1, 20), ("head", 20, 400)] == [(row.phase, row.epoch, row.step) for row in (rows[0], rows[-1])]
    assert [phase.rate(19).lr * share, phase.rate(399).lr * share] == pytest.approx([rows[0].lr, rows[-1].lr])


def test_the_same_seed_gives_the_same_bits() -> None:
    train, val = problem(60, 2, 16)
    assert torch.equal(fit(train, val, 2).weight, fit(train, val, 2).weight)
