"""The loss: agreement with torch, class weights, smoothing."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from upcycle.errors import ConfigError
from upcycle.task import Task
from upcycle.training.loss import (
    CustomLoss,
    Loss,
    LossFunction,
    Scores,
    class_weights,
    guessing_loss,
    score,
    targets_of,
    weighted_loss,
)

LABELS = np.array([0, 0, 0, 1], np.int32)
TWO, THREE, FOUR, FIVE = (Task.of("abcde"[:count]) for count in (2, 3, 4, 5))


def test_two_classes_are_binary_cross_entropy() -> None:
    logits, labels = torch.tensor([[0.3], [-2.0]]), torch.tensor([1, 0])
    expected = functional.binary_cross_entropy_with_logits(logits[:, 0], labels.float())
    assert torch.allclose(expected, Loss(TWO)(logits, targets_of(TWO, labels)).mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_more_classes_are_torchs_cross_entropy(smoothing: float) -> None:
    logits, labels = torch.randn(8, 4), torch.arange(8) % 4
    expected = functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    assert torch.allclose(expected, Loss(FOUR, smoothing=smoothing)(logits, targets_of(FOUR, labels)).mean())


def test_smoothing_two_classes_is_smoothing_a_softmax_over_them() -> None:
    logits, labels = torch.tensor([[0.7], [-1.5]]), torch.tensor([1, 0])
    wide = torch.cat([torch.zeros_like(logits), logits], dim=1)
    expected = functional.cross_entropy(wide, labels, label_smoothing=0.2)
    assert torch.allclose(expected, Loss(TWO, smoothing=0.2)(logits, targets_of(TWO, labels)).mean())


def test_balanced_weights_give_every_class_the_same_total_and_a_mean_of_one() -> None:
    weights = class_weights("balanced", LABELS, ("a", "b"))
    assert weights is not None
    assert [2 / 3, 2.0] == pytest.approx(weights.tolist())


def test_listed_weights_keep_their_ratio() -> None:
    weights = class_weights("1,3", LABELS, ("a", "b"))
    assert weights is not None
    assert 3.0 == pytest.approx(weights[1] / weights[0])
    assert 1.0 == pytest.approx(weights[LABELS].mean())


def test_a_list_of_another_length_names_the_classes() -> None:
    with pytest.raises(ConfigError, match=r"class_weights names 3 weights for 2 classes \(a, b\)"):
        class_weights("1,2,3", LABELS, ("a", "b"))


def test_weights_by_name_reach_their_class_in_whatever_order_they_are_given() -> None:
    weighted = weighted_loss("c=9,a=1,b=4", np.array([0, 1, 2], np.int32), THREE, smoothing=0, device="cpu")
    logits, plain = torch.zeros(1, 3), Loss(THREE)
    losses = [
        weighted(logits, targets_of(THREE, torch.tensor([at]))) / plain(logits, targets_of(THREE, torch.tensor([at])))
        for at in range(3)
    ]
    assert [1.0, 4.0, 9.0] == pytest.approx([float(loss / losses[0]) for loss in losses])
    assert weighted.weights is not None
    expected = weighted_loss("1,4,9", np.array([0, 1, 2], np.int32), THREE, smoothing=0, device="cpu").weights
    assert torch.equal(weighted.weights, expected)  # type: ignore[arg-type]


def test_weights_of_two_classes_by_name_are_not_swapped() -> None:
    weights = class_weights("b=3,a=1", LABELS, ("a", "b"))
    assert weights is not None
    assert 3.0 == pytest.approx(weights[1] / weights[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "cat=1,dgo=2",
            "class_weights: no weight for 'bird', 'dog'; no class is called 'dgo' (did you mean 'dog'?). "
            "Name each of the classes 'bird', 'cat', 'dog'",
        ),
        ("cat=1,dog=2", "class_weights: no weight for 'bird'. Name each of the classes 'bird', 'cat', 'dog'"),
        (
            "cat=1,dog=2,bird=1,Cat=3",
            "class_weights: no class is called 'Cat' (did you mean 'cat'?). "
            "Name each of the classes 'bird', 'cat', 'dog'",
        ),
    ],
)
def test_names_that_are_not_those_of_the_classes_are_listed(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        class_weights(text, LABELS, ("bird", "cat", "dog"))
    assert message == str(raised.value)


@pytest.mark.parametrize("classes", [("a", "b"), ("a", "b", "c")])
def test_a_weight_multiplies_its_classs_loss(classes: tuple[str, ...]) -> None:
    labels = np.arange(6, dtype=np.int32) % len(classes)
    listed = ",".join(str(1 + at) for at in range(len(classes)))
    task = Task.of(classes)
    weighted = weighted_loss(listed, labels, task, smoothing=0, device="cpu")
    plain = Loss(task)
    logits = torch.randn(1, task.outputs)
    for label in range(len(classes)):
        target = targets_of(task, torch.tensor([label]))
        assert weighted.weights is not None
        assert torch.allclose(plain(logits, target) * weighted.weights[label], weighted(logits, target))


def test_scores_are_the_textbooks() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    found = score(torch.tensor([[-1.0], [1.0], [1.0], [1.0]]), labels, TWO)
    assert Scores(pytest.approx(0.5632617, abs=1e-6), 0.75, pytest.approx((2 / 3 + 0.8) / 2)) == found


def test_a_class_that_is_neither_there_nor_claimed_counts_for_nothing() -> None:
    logits = torch.eye(5)[[0, 1, 2, 1]] * 9
    assert 1.0 == pytest.approx(score(logits, torch.tensor([0, 1, 2, 1]), FIVE).f1_macro)
    assert score(logits, torch.tensor([0, 1, 2, 3]), FIVE).f1_macro == pytest.approx((1 + 2 / 3 + 1 + 0) / 4)


def test_scores_of_a_class_nobody_predicts_count_as_zero() -> None:
    found = score(torch.tensor([[9.0, 0, 0], [9.0, 0, 0], [9.0, 0, 0]]), torch.tensor([0, 1, 2]), THREE)
    assert (1 / 3, 1 / 6) == (pytest.approx(found.accuracy), pytest.approx(found.f1_macro))


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(logits, targets, reduction="none")


@pytest.mark.parametrize("task", [TWO, THREE])
def test_a_custom_loss_has_a_column_for_each_class(task: Task) -> None:
    labels = torch.arange(6) % len(task.classes)
    logits, targets = torch.randn(6, task.outputs, requires_grad=True), targets_of(task, labels)
    torch.testing.assert_close(Loss(task)(logits, targets), CustomLoss(task, cross_entropy)(logits, targets))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda logits, targets: cross_entropy(logits, targets).mean(),
            r"shape \(\): return one .* image, \(4,\) \(red",
        ),
        (lambda logits, targets: logits - targets, r"the loss has shape \(4, 2\): return one loss per image, \(4,\)$"),
        (lambda logits, targets: 0.5, "the loss returned a float: return a tensor with one loss per image"),
        (lambda logits, targets: targets[:, 0], "the loss does not depend on the logits"),
    ],
)
def test_a_custom_loss_that_gives_anything_else_is_one_line(function: LossFunction, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CustomLoss(TWO, function)(torch.zeros(4, 1, requires_grad=True), torch.zeros(4))


def test_guessing_has_the_custom_losss_own_scale() -> None:
    assert Loss(THREE).task.guessing == guessing_loss(Loss(THREE), THREE, "cpu")
    scaled = CustomLoss(THREE, lambda logits, targets: 7 * cross_entropy(logits, targets))
    assert 7 * THREE.guessing == pytest.approx(guessing_loss(scaled, THREE, "cpu"))
    assert float("inf") == guessing_loss(CustomLoss(TWO, lambda logits, targets: -logits[:, 0]), TWO, "cpu")
