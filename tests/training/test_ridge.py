"""Ridge regression on the classes is scikit-learn's, with few images as with many."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as Sklearns
from sklearn.metrics import log_loss

from tests.training.test_probe import problem, rows
from upcycle.training.probe import scales
from upcycle.training.ridge import best_ridge


@pytest.mark.parametrize(("images", "width"), [(40, 120), (300, 24)])  # by images, and by features
@pytest.mark.parametrize("folds", [0, 3])
def test_it_is_scikit_learns_at_the_penalty_that_was_chosen(images: int, width: int, folds: int) -> None:
    train, val = problem(images, 3, width)
    mean, scalings = scales(rows(train), (width,))
    learned = torch.ones(images, 1 + folds, dtype=torch.bool)
    for fold in range(folds):
        learned[fold::folds, 1 + fold] = False
    by = scalings["between"]
    found = best_ridge(rows(train), rows(val), mean=mean, divisors=by, learned=learned, classes=3)
    features, held = ((torch.from_numpy(split[0]) - mean) / by for split in (train, val))
    strength = found.penalty * float(features.double().square().sum(dim=1).mean())
    theirs = Sklearns(alpha=strength).fit(features.double().numpy(), np.eye(3)[train[1]])
    ours = (torch.from_numpy(val[0]) @ found.weight + found.bias).numpy()
    expected = theirs.predict(held.double().numpy())
    factor = float((ours * expected).sum() / (expected * expected).sum())
    np.testing.assert_allclose(ours, factor * expected, atol=0.02 * factor)
    shares = torch.softmax(torch.from_numpy(ours), dim=1).numpy()
    if not folds:
        assert found.loss == pytest.approx(log_loss(val[1], shares), abs=1e-3)


def test_the_temperature_gives_the_lowest_loss_of_held_out_images() -> None:
    train, val = problem(60, 2, 30)
    mean, scalings = scales(rows(train), (30,))
    learned = torch.ones(60, 1, dtype=torch.bool)
    found = best_ridge(rows(train), rows(val), mean=mean, divisors=scalings["each"], learned=learned, classes=2)
    logits = torch.from_numpy(val[0]) @ found.weight + found.bias
    losses = [
        torch.nn.functional.cross_entropy(factor * logits, torch.from_numpy(val[1]).long()).item()
        for factor in (0.9, 1.0, 1.1)
    ]
    assert losses[1] == min(losses)
