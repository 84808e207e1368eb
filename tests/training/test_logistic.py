"""Logistic heads match scikit-learn's, and their solver scipy's."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize as minimized
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from tests.training.test_probe import Split, problem, rows, task_of
from upcycle.training import logistic
from upcycle.training.logistic import Head, best_heads, minimize
from upcycle.training.loss import Loss, targets_of
from upcycle.training.probe import scales


def heads_of(train: Split, val: Split, loss: Loss) -> tuple[Head, ...]:
    mean, scalings = scales(rows(train), (train[0].shape[1],))
    learned = torch.ones(len(train[1]), 1, dtype=torch.bool)
    return best_heads(rows(train), rows(val), scalings=scalings, mean=mean, learned=learned, loss=loss)


def sklearns_best(train: Split, val: Split) -> float:
    """Fifteen lines of scikit-learn: raw or standardized features, the strength chosen on validation."""
    best = np.inf
    scaler = StandardScaler().fit(train[0])
    for change in (lambda x: x / train[0].std(), scaler.transform):
        for strength in 10.0 ** np.arange(-4, 3):
            model = LogisticRegression(C=strength, max_iter=3000).fit(change(train[0]), train[1])
            best = min(best, log_loss(val[1], model.predict_proba(change(val[0]))))
    return float(best)


@pytest.mark.parametrize(("images", "classes"), [(20, 2), (240, 2), (1000, 2), (300, 4)])
def test_the_heads_are_at_least_as_good_as_scikit_learn(images: int, classes: int) -> None:
    train, val = problem(images, classes, 64)
    heads = heads_of(train, val, Loss(task_of(classes)))
    assert min(head.loss for head in heads) <= sklearns_best(train, val) + 0.005


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
    for head in heads_of(train, val, loss):
        by_weight, by_bias = slopes(train, head, loss)
        assert max(by_weight.abs().max(), by_bias.abs().max()) < 1e-3


@pytest.mark.parametrize("width", [6, 60])  # by features, and by images
def test_large_problems_are_solved_in_parts_with_the_same_outcome(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    train, val = problem(24, 3, width)
    whole = heads_of(train, val, Loss(task_of(3)))
    monkeypatch.setattr(logistic, "_MOST_BYTES", 4096)  # one set at once, few images, features read again and again
    monkeypatch.setattr(logistic, "CHUNK", 16)
    parts = heads_of(train, val, Loss(task_of(3)))
    for one, other in zip(whole, parts, strict=True):
        assert one.strength == other.strength
        assert torch.allclose(one.weight, other.weight, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("classes", [2, 3])
def test_heads_sought_among_the_images_are_those_sought_among_the_features(
    monkeypatch: pytest.MonkeyPatch, classes: int
) -> None:
    train, val = problem(30, classes, 80)
    by_images = heads_of(train, val, Loss(task_of(classes)))
    monkeypatch.setattr(logistic, "_Compact", type("Never", (), {"of": logistic._Wide}))
    by_features = heads_of(train, val, Loss(task_of(classes)))
    held = torch.from_numpy(val[0])
    for one, other in zip(by_images, by_features, strict=True):
        assert one.strength == other.strength
        assert one.loss == pytest.approx(other.loss, abs=2e-3)
        torch.testing.assert_close(held @ one.weight + one.bias, held @ other.weight + other.bias, rtol=2e-2, atol=2e-2)


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
