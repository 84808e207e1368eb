"""Ridge regression on one-hot classes: a head in closed form, beside the logistic ones.

With few images of many classes it is more accurate than logistic regression. A temperature, set on held-out images,
calibrates its probabilities.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from upcycle.training.rows import Split

PENALTIES = (100.0, 10.0, 1.0, 0.1, 0.01)
"""Penalties tried, from strong to weak, as a part of the features' mean square."""
PATIENCE = 1
"""The path ends after so many penalties in a row that do not lower the held-out loss."""
_LEAST = 1e-6
"""Of the features' mean square: where all images are alike there is nothing to learn, and no error either."""
_HOTTEST = 5.0
"""The natural logarithm of the highest factor on the scores (an inverse temperature)."""

Reals = npt.NDArray[np.float64]
_Solve = Callable[[float], tuple[list[Tensor], list[Tensor]]]
"""A penalty -> weights [D, K], scaled and for centered features, and biases [K], of each set of images that learn."""


@dataclass(frozen=True, eq=False)
class Ridge:
    """A head for raw features, `weight` [D, K] and `bias` [K], with its penalty and its held-out loss in nats.

    `factor` is what its scores are multiplied by: the inverse of the temperature.
    """

    penalty: float
    factor: float
    loss: float
    weight: Tensor
    bias: Tensor


def best_ridge(train: Split, val: Split, *, mean: Tensor, divisors: Tensor, learned: Tensor, classes: int) -> Ridge:
    """The head with the lowest held-out loss of all penalties, each at its best temperature.

    Features are centered by `mean` [D] and divided by `divisors` [D]. `learned` [n, F] marks the training images of F
    heads: the first learns from all, each other one from all but a fold. Held out are the validation images and each
    head's fold.
    """
    targets = torch.eye(classes, dtype=torch.float64)[torch.from_numpy(train.labels).long()]
    checked = [~learned[:, fold] for fold in range(1, learned.shape[1])]
    labels = np.concatenate([val.labels, *(train.labels[mask.numpy()] for mask in checked)])
    way = _few if len(train) <= len(mean) else _many
    solve = way(train, mean, divisors, learned, targets)
    found: list[tuple[float, float, float, Tensor, Tensor]] = []
    for penalty in PENALTIES:
        weights, biases = solve(penalty)
        scores = [_scores(val, mean, divisors, weights[0], biases[0], None)]
        scores += [
            _scores(train, mean, divisors, weight, bias, mask)
            for weight, bias, mask in zip(weights[1:], biases[1:], checked, strict=True)
        ]
        loss, factor = _tempered(torch.cat(scores).numpy(), labels)
        found.append((loss, penalty, factor, weights[0], biases[0]))
        if min(range(len(found)), key=lambda at: found[at][0]) < len(found) - PATIENCE:
            break
    loss, penalty, factor, weight, bias = min(found, key=lambda one: one[0])
    return Ridge(penalty, factor, loss, *_raw(factor * weight, factor * bias, mean, divisors))


def ridge_at(
    train: Split, penalty: float, factor: float, *, mean: Tensor, divisors: Tensor, classes: int
) -> tuple[Tensor, Tensor]:
    """Weight [D, K] and bias [K], for raw features, of the head at a penalty, its scores multiplied by `factor`."""
    targets = torch.eye(classes, dtype=torch.float64)[torch.from_numpy(train.labels).long()]
    way = _few if len(train) <= len(mean) else _many
    weights, biases = way(train, mean, divisors, torch.ones(len(train), 1, dtype=torch.bool), targets)(penalty)
    return _raw(factor * weights[0], factor * biases[0], mean, divisors)


def _raw(weight: Tensor, bias: Tensor, mean: Tensor, divisors: Tensor) -> tuple[Tensor, Tensor]:
    """A head of centered and scaled features, for raw ones."""
    raw = weight / divisors[:, None].double()
    return raw.float(), (bias - mean.double() @ raw).float()


def _scores(
    split: Split, mean: Tensor, divisors: Tensor, weight: Tensor, bias: Tensor, counted: Tensor | None
) -> Tensor:
    """Scores [n, K], float64, of a split's images, or of those marked in `counted` [n]."""
    scaled = (weight / divisors[:, None]).float()
    found = torch.cat([(part - mean) @ scaled for part in split.chunks()]).double() + bias
    return found if counted is None else found[counted]


def _tempered(scores: Reals, labels: npt.NDArray[np.int32]) -> tuple[float, float]:
    """The lowest mean loss, in nats, over factors on the scores, and its factor."""
    from scipy.optimize import minimize_scalar  # a tenth of a second that a run without a probe does without

    own = np.arange(len(labels)), labels.astype(np.int64)

    def loss(power: float) -> float:
        logits = np.exp(power) * scores
        top = logits.max(axis=1)
        return float((np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top - logits[own]).mean())

    best = minimize_scalar(loss, bounds=(0.0, _HOTTEST), method="bounded", options={"xatol": 0.01})
    return float(best.fun), float(np.exp(best.x))


def _few(train: Split, mean: Tensor, divisors: Tensor, learned: Tensor, targets: Tensor) -> _Solve:
    """Solved by the Gram matrix of the images: for no more images than features."""
    features = torch.cat([(part - mean) / divisors for part in train.chunks()])
    products = (features @ features.T).double()
    sets = []
    for fold in range(learned.shape[1]):
        at = learned[:, fold].nonzero()[:, 0]
        own = products[at][:, at]
        center = own.mean(dim=0)
        sets.append((at, center, own - center - center[:, None] + center.mean(), targets[at]))
    scale = products.diagonal().mean().clamp(min=_LEAST)

    def solve(penalty: float) -> tuple[list[Tensor], list[Tensor]]:
        weights, biases = [], []
        for at, center, own, wanted in sets:
            mean_wanted = wanted.mean(dim=0)
            shares = _solved(own, penalty * scale, wanted - mean_wanted)
            weights.append((features[at].T @ shares.float()).double())
            biases.append(mean_wanted - center @ shares)
        return weights, biases

    return solve


def _many(train: Split, mean: Tensor, divisors: Tensor, learned: Tensor, targets: Tensor) -> _Solve:
    """Solved by the covariance of the features: for more images than features."""
    width, folds = len(mean), learned.shape[1]
    squares = torch.zeros(folds, width, width, dtype=torch.float64)
    sums, crossed = torch.zeros(folds, width, dtype=torch.float64), torch.zeros(folds, width, targets.shape[1]).double()
    start = 0
    for part in train.chunks():
        place = slice(start, start + len(part))
        start += len(part)
        scaled = (part - mean) / divisors
        for fold in range(folds):
            own = scaled[learned[place, fold]]
            squares[fold] += (own.T @ own).double()
            sums[fold] += own.double().sum(dim=0)
            crossed[fold] += own.double().T @ targets[place][learned[place, fold]]
    sets = []
    for fold in range(folds):
        count = int(learned[:, fold].sum())
        center, mean_wanted = sums[fold] / count, targets[learned[:, fold]].mean(dim=0)
        own = squares[fold] - count * torch.outer(center, center)
        sets.append((own, center, crossed[fold] - count * torch.outer(center, mean_wanted), mean_wanted))
    scale = (squares[0].diagonal().sum() / len(train)).clamp(min=_LEAST)

    def solve(penalty: float) -> tuple[list[Tensor], list[Tensor]]:
        weights = [_solved(own, penalty * scale, wanted) for own, _, wanted, _ in sets]
        biases = [level - center @ weight for weight, (_, center, _, level) in zip(weights, sets, strict=True)]
        return weights, biases

    return solve


def _solved(products: Tensor, penalty: Tensor, wanted: Tensor) -> Tensor:
    """x of (products + penalty * identity) x = wanted."""
    ridged = products + penalty * torch.eye(len(products), dtype=torch.float64)
    return torch.cholesky_solve(wanted, torch.linalg.cholesky(ridged))
