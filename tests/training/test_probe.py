"""The probe is no straw man: it matches scikit-learn's logistic regression."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from upcycle.device import seed_for
from upcycle.recipes import phases, resolve
from upcycle.schedules import OneCycle
from upcycle.task import Task
from upcycle.training import probe
from upcycle.training.loss import Loss, targets_of
from upcycle.training.probe import Probe, _epoch_batches, train_probe
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


def fit(train: Split, val: Split, classes: int, loss: Loss | None = None) -> Probe:
    phase = phases(resolve({}), len(train[1]))[0]
    sides = [Rows(features, np.arange(len(labels)), labels) for features, labels in (train, val)]
    loss = loss or Loss(Task.of("abcdefgh"[:classes]))
    return train_probe(*sides, phase=phase, loss=loss, seed=0)


def sklearns_best(train: Split, val: Split) -> float:
    """Fifteen lines of scikit-learn: raw or standardised features, the strength chosen on validation."""
    best = np.inf
    scaler = StandardScaler().fit(train[0])
    for change in (lambda x: x / train[0].std(), scaler.transform):
        for strength in 10.0 ** np.arange(-4, 3):
            model = LogisticRegression(C=strength, max_iter=3000).fit(change(train[0]), train[1])
            best = min(best, log_loss(val[1], model.predict_proba(change(val[0]))))
    return float(best)


def test_copies_and_groups_are_held_out_together_where_the_strength_is_chosen() -> None:
    random = np.random.default_rng(0)
    features = np.repeat(random.normal(size=(40, 64)), 4, axis=0).astype(np.float32)  # each image four times
    labels = np.repeat(np.arange(40) % 2, 4).astype(np.int32)  # which nothing in the features tells
    own = np.arange(160)
    held = Rows(random.normal(size=(20, 64)).astype(np.float32), own[:20], (own[:20] % 2).astype(np.int32))
    found = [
        train_probe(
            Rows(features, own, labels, tied), held, phase=phases(resolve({}), 160)[0], loss=Loss(Task.of("ab")), seed=0
        ).strength
        for tied in (None, (own // 4).astype(np.int32))
    ]
    assert found[0] < 0.1 < 10 <= found[1]


@pytest.mark.parametrize(("images", "classes"), [(20, 2), (240, 2), (1000, 2), (300, 4)])
def test_the_probe_is_at_least_as_good_as_scikit_learn(images: int, classes: int) -> None:
    train, val = problem(images, classes, 64)
    assert fit(train, val, classes).rows[-1].val_loss <= sklearns_best(train, val) + 0.005


@pytest.mark.parametrize("classes", [2, 3])
def test_the_folded_head_scores_on_raw_features_what_its_last_row_says(classes: int) -> None:
    train, val = problem(100, classes, 32)
    probe = fit(train, val, classes)
    found = score(
        torch.from_numpy(val[0]) @ probe.weight.T + probe.bias,
        torch.from_numpy(val[1]).long(),
        Task.of("abc"[:classes]),
    )
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


def plain_loop(train: Split, probe: Probe, loss: Loss) -> tuple[torch.Tensor, torch.Tensor]:
    """One head by autograd alone: scaled features, the penalty in the loss, the probe's own rate and batches."""
    phase = phases(resolve({}), len(train[1]))[0]
    assert isinstance(phase.schedule, OneCycle)
    features, labels = torch.from_numpy(train[0]).double(), torch.from_numpy(train[1]).long()
    mean, each = features.mean(dim=0), features.std(dim=0, correction=0)
    scale = each if probe.scaling == "each" else each.square().mean().sqrt().expand_as(each)
    inputs = (features - mean) / scale
    weight = torch.zeros(loss.task.outputs, inputs.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(loss.task.outputs, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias])
    for step in range(phase.steps):
        epoch, at = divmod(step, phase.steps_per_epoch)
        chosen = _epoch_batches(len(labels), phase.steps_per_epoch, seed_for(0, "head", epoch + 1))[at]
        rate = phase.rate(step)
        group = optimizer.param_groups[0]
        group["lr"], group["betas"] = rate.lr * probe.lr_max / phase.schedule.lr_max, (rate.momentum, 0.99)
        optimizer.zero_grad()
        made = loss(inputs[chosen] @ weight.T + bias, targets_of(loss.task, labels[chosen])).mean()
        (made + probe.strength / 2 * weight.square().sum()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    folded = (weight / scale).detach()
    return folded, bias.detach() - folded @ mean


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_head_is_the_one_that_a_plain_loop_trains(classes: int, weighted: bool) -> None:
    train, val = problem(90, classes, 12)
    weights = torch.tensor([2.0, 0.5, 1.0][:classes]) if weighted else None
    loss = Loss(Task.of("abcdefgh"[:classes]), weights, smoothing=0.1 if weighted else 0.0)
    probe = fit(train, val, classes, loss)
    weight, bias = plain_loop(train, probe, loss)
    if classes > 2:  # what all classes share changes no probability, and wanders by rounding
        bias += (probe.bias - bias).mean()
    torch.testing.assert_close(probe.weight.double(), weight, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(probe.bias.double(), bias, rtol=1e-3, atol=1e-3)


def test_many_classes_are_learnt_in_parts_with_the_same_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    train, val = problem(60, 3, 16)
    whole = fit(train, val, 3)
    monkeypatch.setattr(probe, "MOST_BYTES", 4 * probe.COPIES * 16 * 3 * 7)  # seven heads at once, 16 images
    parts = fit(train, val, 3)
    assert (whole.strength, whole.scaling, whole.lr_max) == (parts.strength, parts.scaling, parts.lr_max)
    assert torch.allclose(whole.weight, parts.weight, rtol=1e-4, atol=1e-5)


def test_updates_are_told_to_the_end() -> None:
    train, val = problem(60, 3, 16)
    phase = phases(resolve({}), 60)[0]
    told: list[tuple[int, int]] = []
    sides = [Rows(features, np.arange(len(labels)), labels) for features, labels in (train, val)]
    train_probe(*sides, phase=phase, loss=Loss(Task.of("abc")), seed=0, progress=lambda *at: told.append(at))
    total = 2 * phase.epochs * phase.steps_per_epoch
    assert [(at, total) for at in range(1, total + 1)] == told
