"""The probe is no straw man: it matches scikit-learn's logistic regression."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize as minimized
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from tests.data.made import made
from upcycle.data.splits import folds
from upcycle.jobs.label_errors import suspects
from upcycle.task import Task
from upcycle.training import probe
from upcycle.training.loss import Loss, score, targets_of
from upcycle.training.probe import Head, Probe, best_heads, minimize, out_of_fold, train_probe
from upcycle.training.probe import Split as Rows

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


def sklearns_best(train: Split, val: Split) -> float:
    """Fifteen lines of scikit-learn: raw or standardized features, the strength chosen on validation."""
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
    loss = Loss(task_of(2))
    free, together = (
        train_probe(Rows(features, own, labels, groups), held, loss=loss, seed=0).result.strengths["each"]
        for groups in (None, (own // 4).astype(np.int32))
    )
    assert free < 0.1 < 10 <= together


@pytest.mark.parametrize(("images", "classes"), [(20, 2), (240, 2), (1000, 2), (300, 4)])
def test_the_heads_are_at_least_as_good_as_scikit_learn(images: int, classes: int) -> None:
    train, val = problem(images, classes, 64)
    heads = best_heads(rows(train), rows(val), loss=Loss(task_of(classes)), seed=0)
    assert min(head.loss for head in heads) <= sklearns_best(train, val) + 0.005
    mean = fit(train, val, classes).result.val_loss
    assert mean <= sum(head.loss for head in heads) / 3 + 1e-4  # the loss is convex


@pytest.mark.parametrize("classes", [2, 3])
def test_the_folded_head_scores_on_raw_features_what_its_result_says(classes: int) -> None:
    train, val = problem(100, classes, 32)
    probe = fit(train, val, classes)
    logits = torch.from_numpy(val[0]) @ probe.weight.T + probe.bias
    found = score(logits, torch.from_numpy(val[1]).long(), task_of(classes))
    result = probe.result
    assert (result.val_loss, result.val_accuracy) == (pytest.approx(found.loss, abs=1e-5), found.accuracy)


def test_the_probe_is_the_mean_of_the_best_head_of_each_scaling() -> None:
    train, val = problem(60, 2, 16)
    heads = best_heads(rows(train), rows(val), loss=Loss(task_of(2)), seed=0)
    found = fit(train, val, 2)
    assert ["common", "between", "each"] == [head.scaling for head in heads]
    torch.testing.assert_close(found.weight, (sum(head.weight for head in heads) / 3).T)  # type: ignore[union-attr]
    assert {head.scaling: head.strength for head in heads} == found.result.strengths


def test_the_same_seed_gives_the_same_bits() -> None:
    train, val = problem(60, 2, 16)
    assert torch.equal(fit(train, val, 2).weight, fit(train, val, 2).weight)


def slopes(train: Split, head: Head, loss: Loss) -> tuple[torch.Tensor, torch.Tensor]:
    """By autograd alone: the derivatives of the penalized loss by scaled weights and bias, where the head is."""
    features = torch.from_numpy(train[0]).double()
    mean, each = features.mean(dim=0), features.std(dim=0, correction=0)
    common = each.square().mean().sqrt().expand_as(each)
    scale = {"common": common, "each": each, "between": (common * each).sqrt()}[head.scaling]
    weight = (head.weight.double() * scale[:, None]).requires_grad_()
    bias = (head.bias.double() + mean @ head.weight.double()).requires_grad_()
    logits = ((features - mean) / scale) @ weight + bias
    losses = loss(logits, targets_of(loss.task, torch.from_numpy(train[1]).long()))
    penalized = losses.mean() + head.strength / 2 * weight.square().sum()
    by_weight, by_bias = torch.autograd.grad(penalized, (weight, bias))
    return by_weight, by_bias


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_each_head_is_where_its_penalized_loss_is_lowest(classes: int, weighted: bool) -> None:
    train, val = problem(90, classes, 12)
    weights = torch.tensor([2.0, 0.5, 1.0][:classes]) if weighted else None
    loss = Loss(task_of(classes), weights, smoothing=0.1 if weighted else 0.0)
    for head in best_heads(rows(train), rows(val), loss=loss, seed=0):
        by_weight, by_bias = slopes(train, head, loss)
        assert max(by_weight.abs().max(), by_bias.abs().max()) < 2e-4


def test_large_problems_are_solved_in_parts_with_the_same_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    train, val = problem(40, 3, 6)
    whole = fit(train, val, 3)
    monkeypatch.setattr(probe, "_MOST_BYTES", 4096)  # one head at once, few images, features read again and again
    monkeypatch.setattr(probe, "_CHUNK", 16)
    parts = fit(train, val, 3)
    assert whole.result.strengths == parts.result.strengths
    assert torch.allclose(whole.weight, parts.weight, rtol=1e-2, atol=1e-3)


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


# ---------------------------------------------------------------- L-BFGS


def bowls(stiffness: Tensor, lowest: Tensor) -> tuple[list[int], object]:
    """Quadratic losses [H] with their lowest points [H, P]; and how often they were asked."""
    asked = [0]

    def evaluate(points: Tensor) -> tuple[Tensor, Tensor]:
        asked[0] += 1
        away = points - lowest
        return (stiffness * away.square()).sum(dim=1) / 2, stiffness * away

    return asked, evaluate


def test_problems_of_very_different_stiffness_are_solved_side_by_side() -> None:
    stiffness = torch.tensor([[1.0, 10.0, 100.0], [1e-3, 1e-2, 1e-3], [5.0, 5.0, 5.0]])
    lowest = torch.tensor([[1.0, -2.0, 3.0], [4.0, 0.5, -1.0], [0.0, 0.0, 7.0]])
    asked, evaluate = bowls(stiffness, lowest)
    found = minimize(
        evaluate,  # type: ignore[arg-type]
        torch.zeros(3, 3),
        first=torch.full((3,), 0.01),
        small=torch.full((3,), 1e-6),
    )
    torch.testing.assert_close(found, lowest, rtol=1e-3, atol=1e-3)
    assert asked[0] < 60


def test_a_first_step_that_is_far_too_long_is_halved() -> None:
    _, evaluate = bowls(torch.ones(1, 2), torch.tensor([[3.0, -1.0]]))
    found = minimize(
        evaluate,  # type: ignore[arg-type]
        torch.zeros(1, 2),
        first=torch.tensor([1e3]),
        small=torch.tensor([1e-5]),
    )
    torch.testing.assert_close(found, torch.tensor([[3.0, -1.0]]), rtol=1e-4, atol=1e-4)


def test_what_is_solved_stays_where_it_is() -> None:
    lowest = torch.tensor([[3.0, -1.0]])
    asked, evaluate = bowls(torch.ones(1, 2), lowest)
    found = minimize(evaluate, lowest, first=torch.ones(1), small=torch.tensor([1e-5]))  # type: ignore[arg-type]
    assert (1, True) == (asked[0], torch.equal(lowest, found))


def test_it_finds_what_scipys_finds() -> None:
    random = np.random.default_rng(0)
    inputs, signs = random.normal(size=(40, 5)), np.where(random.random(40) < 0.5, -1.0, 1.0)

    def evaluate(points: Tensor) -> tuple[Tensor, Tensor]:
        points = points.detach().requires_grad_()
        margins = (points @ torch.tensor(inputs).T) * torch.tensor(signs)
        losses = torch.nn.functional.softplus(-margins).mean(dim=1) + 0.005 * points.square().sum(dim=1)
        return losses.detach(), torch.autograd.grad(losses.sum(), points)[0]

    def one(point: np.ndarray) -> tuple[float, np.ndarray]:  # type: ignore[type-arg]
        losses, gradients = evaluate(torch.tensor(point)[None])
        return losses.item(), gradients[0].numpy()

    expected = minimized(one, np.zeros(5), jac=True, method="L-BFGS-B", tol=1e-12).x
    start = torch.zeros(1, 5, dtype=torch.float64)
    found = minimize(evaluate, start, first=torch.ones(1), small=torch.full((1,), 1e-8))
    np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-4, atol=1e-5)
