"""What the probe's parts were chosen by: heads, views in training, training again, BatchNorm statistics, turned images.

    python lab/probe_choices.py heads|views|refit FOLDER NAME:TRAIN:VAL:SPLITS [...]
    python lab/probe_choices.py statistics|turned DATA:SIZE:TRAIN:VAL:SPLITS [...] --weights FILE

The first three read the features that `lab/stages.py FOLDER` keeps (ResNet-50's stages 2 to 4, of images and of their
mirror images); the last two compute them. Images of no test side are read: TRAIN images train, VAL choose, at most
1,500 others score, drawn by another seed for each of SPLITS; images of one group stay together. Prints means over
splits of log loss and macro F1 (points), and the paired change from the first line with its standard error.

heads: logistic regression's three scalings, ridge, and their mean, on each number of stages. views: trained on images,
on means with their mirror images, or on both as rows; scored on images and on means. refit: the probe, and it trained
again on VAL too. statistics: BatchNorm's as pretrained, estimated on 512 images, and the mean of both. turned: the
change of the validation loss by turning the images, of all eight views, and of the flip.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from probe import learnable
from sklearn.metrics import f1_score
from torch import nn

from upcycle.data.splits import components
from upcycle.evaluation.forward import predict_logits
from upcycle.task import Task
from upcycle.training.logistic import best_heads
from upcycle.training.loss import Loss
from upcycle.training.probe import Probe, learners, refitted, scales, train_probe
from upcycle.training.ridge import best_ridge
from upcycle.training.rows import Split

Reals = npt.NDArray[np.float64]
Features = npt.NDArray[np.float32]
Sides = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]
MOST_TESTED = 1_500
ESTIMATED = 512


class Images:
    """Labels and groups of the images of a set, their splits, and scores of logits [n, outputs]."""

    def __init__(self, labels: npt.NDArray[np.int32], groups: npt.NDArray[np.int32]) -> None:
        self.labels, self.groups = labels.astype(np.int32), groups.astype(np.int32)
        self.task = Task.of([str(at) for at in range(int(labels.max()) + 1)])

    def sides(self, train: int, val: int, splits: int) -> Iterator[Sides]:
        for seed in range(splits):
            draw = np.random.default_rng(seed).permutation(self.groups.max() + 1)[self.groups]
            learn, hold, tested = np.split(np.argsort(draw, kind="stable"), [train, train + val])
            yield learn, hold, tested[:MOST_TESTED]

    def rows(self, features: Features, at: npt.NDArray[np.int64]) -> Split:
        return Split(features, at, self.labels[at], self.groups[at])

    def losses(self, logits: Reals, at: npt.NDArray[np.int64]) -> Reals:
        chances = self.task.probabilities(logits.astype(np.float32))
        return np.asarray(-np.log(chances[np.arange(len(at)), self.labels[at]]))

    def scores(self, logits: Reals, at: npt.NDArray[np.int64]) -> tuple[float, float]:
        said = self.task.probabilities(logits.astype(np.float32)).argmax(axis=1)
        return float(self.losses(logits, at).mean()), 100 * float(f1_score(self.labels[at], said, average="macro"))


def by(probe: Probe, features: Features) -> Reals:
    """Logits of features [n, D] by a probe, which may read the first of them alone."""
    weight, bias = probe.weight.numpy(), probe.bias.numpy()
    return np.asarray(features[:, : weight.shape[1]] @ weight.T + bias, np.float64)


def shown(name: str, found: dict[str, list[tuple[float, float]]]) -> None:
    first = np.array(next(iter(found.values())))
    for kind, values in found.items():
        made = np.array(values)
        change = made - first
        error = change.std(axis=0, ddof=1) / len(made) ** 0.5 if len(made) > 1 else np.full(2, np.nan)
        print(
            f"{name}, {kind}: log loss {made[:, 0].mean():.4f} ({change[:, 0].mean():+.4f} ± {error[0]:.4f}), "
            f"F1 {made[:, 1].mean():.2f} ({change[:, 1].mean():+.2f} ± {error[1]:.2f})",
            flush=True,
        )


def kept(folder: Path, name: str) -> tuple[Images, Features, Features, tuple[int, ...]]:
    """A set's images, their features and those of the mirror images, the last stage first, and the stages' widths."""
    made = np.load(folder / f"{name}.npz")
    narrow = made["plain"].shape[1] // 7

    def last_first(rows: Features) -> Features:
        return np.hstack([rows[:, 3 * narrow :], rows[:, narrow : 3 * narrow], rows[:, :narrow]]).astype(np.float32)

    plain, mirror = last_first(made["plain"]), last_first(made["mirror"])
    return Images(made["labels"], made["groups"]), plain, mirror, (4 * narrow, 2 * narrow, narrow)


def heads(folder: Path, name: str, numbers: list[int]) -> None:
    images, plain, _, widths = kept(folder, name)
    found: dict[str, list[tuple[float, float]]] = {}
    classes = len(images.task.classes)
    for seed, (learn, hold, tested) in enumerate(images.sides(*numbers)):
        for stages in (1, 2, 3):
            own = widths[:stages]
            features = plain[:, : sum(own)]
            train, val = images.rows(features, learn), images.rows(features, hold)
            mean, scalings = scales(train, own)
            marks = learners(train, val, seed)
            made = best_heads(train, val, scalings=scalings, mean=mean, learned=marks, loss=Loss(images.task))
            ridge = best_ridge(train, val, mean=mean, divisors=scalings["between"], learned=marks, classes=classes)
            rows = features[tested]
            weight, bias = (
                torch.stack(parts).mean(dim=0).numpy()
                for parts in zip(*((h.weight, h.bias) for h in made), strict=True)
            )
            of_ridge, level = ridge.weight.numpy(), ridge.bias.numpy()
            if classes == 2:
                of_ridge, level = of_ridge[:, 1:] - of_ridge[:, :1], level[1:] - level[:1]
            logistic, other = rows @ weight + bias, rows @ of_ridge + level
            for kind, logits in (("logistic", logistic), ("ridge", other), ("mean", (logistic + other) / 2)):
                found.setdefault(f"{kind}, {stages} stages", []).append(images.scores(logits, tested))
    shown(name, found)


def views(folder: Path, name: str, numbers: list[int]) -> None:
    images, plain, mirror, widths = kept(folder, name)
    both = (plain + mirror) / 2
    found: dict[str, list[tuple[float, float]]] = {}
    for seed, (learn, hold, tested) in enumerate(images.sides(*numbers)):
        stacked = images.rows(np.vstack([plain, mirror]), learn)
        twice = Split(
            stacked.features,
            np.concatenate([learn, learn + len(plain)]),
            np.tile(stacked.labels, 2),
            np.tile(images.groups[learn], 2),
        )
        trains = {"images": images.rows(plain, learn), "means": images.rows(both, learn), "both as rows": twice}
        for kind, train in trains.items():
            val = images.rows(both if kind == "means" else plain, hold)
            probe = train_probe(train, val, loss=Loss(images.task), seed=seed, widths=widths)
            for scored, rows in (("images", plain), ("means", both)):
                found.setdefault(f"trained on {kind}, scored on {scored}", []).append(
                    images.scores(by(probe, rows[tested]), tested)
                )
    shown(name, found)


def refit(folder: Path, name: str, numbers: list[int]) -> None:
    images, plain, _, widths = kept(folder, name)
    found: dict[str, list[tuple[float, float]]] = {}
    for learn, hold, tested in images.sides(*numbers):
        train, val = images.rows(plain, learn), images.rows(plain, hold)
        probe = train_probe(train, val, loss=Loss(images.task), seed=0, widths=widths)
        every = images.rows(plain, np.concatenate([learn, hold]))
        again = refitted(probe, every, loss=Loss(images.task), widths=widths)
        for kind, one in (("probe", probe), ("trained again", again)):
            found.setdefault(kind, []).append(images.scores(by(one, plain[tested]), tested))
    shown(name, found)


# ---------------------------------------------------------------- with the network


def statistics(data: Path, size: int, numbers: list[int], weights: Path) -> None:
    with learnable(data, size, weights, 1) as (index, frames, network, model, machine):
        images = Images(index.labels, components(index))
        model.read(3)
        widths = model.widths(size)
        options = {"preprocessing": network.preprocessing, "machine": machine, "workers": 0}
        norms = [one for one in model.body.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
        at = np.arange(len(index))

        def features() -> Features:
            return predict_logits(model, frames, at, output=model.features, **options)

        made = {"pretrained": features()}
        before = [(one.running_mean.clone(), one.running_var.clone()) for one in norms]
        drawn = np.random.default_rng(5).permutation(len(index))[:ESTIMATED]
        for one in norms:
            one.reset_running_stats()
            one.momentum = None  # the plain mean over batches

        def learning(inputs: torch.Tensor) -> torch.Tensor:
            for one in norms:
                one.train()
            return model.features(inputs)  # type: ignore[no-any-return]

        predict_logits(model, frames, drawn, output=learning, **options)
        model.eval()
        made["estimated"] = features()
        for one, (mean, variance) in zip(norms, before, strict=True):
            one.running_mean.add_(mean).div_(2)
            one.running_var.add_(variance).div_(2)
        made["mean of both"] = features()
    found: dict[str, list[tuple[float, float]]] = {}
    for learn, hold, tested in images.sides(*numbers):
        for kind, rows in made.items():
            train, val = images.rows(rows, learn), images.rows(rows, hold)
            probe = train_probe(train, val, loss=Loss(images.task), seed=0, widths=widths)
            found.setdefault(kind, []).append(images.scores(by(probe, rows[tested]), tested))
    shown(data.name, found)


def turned(data: Path, size: int, numbers: list[int], weights: Path) -> None:
    with learnable(data, size, weights, 1) as (index, frames, network, model, machine):
        images = Images(index.labels, components(index))
        model.read(3)
        widths = model.widths(size)
        options = {"preprocessing": network.preprocessing, "machine": machine, "workers": 0}
        learn, hold, _ = next(images.sides(*numbers))
        features = np.empty((len(index), sum(widths)), np.float32)
        both = np.concatenate([learn, hold])
        features[both] = predict_logits(model, frames, both, output=model.features, **options)
        train, val = images.rows(features, learn), images.rows(features, hold)
        probe = train_probe(train, val, loss=Loss(images.task), seed=0, widths=widths)

        def seen(quarter: int, *, flip: bool = False) -> Features:
            def output(inputs: torch.Tensor) -> torch.Tensor:
                return model.features((inputs.flip(3) if flip else inputs).rot90(quarter, (2, 3)))  # type: ignore[no-any-return]

            return predict_logits(model, frames, hold, output=output, **options)

        views = {(quarter, flip): seen(quarter, flip=flip) for quarter in range(4) for flip in (False, True)}
    upright = images.losses(by(probe, views[0, False]), hold)
    cases = {f"turned by {90 * quarter}": views[quarter, False] for quarter in (1, 2, 3)}
    cases |= {"with its mirror image": np.mean([views[0, False], views[0, True]], axis=0)}
    cases |= {"all eight": np.mean(list(views.values()), axis=0)}
    for kind, rows in cases.items():
        change = images.losses(by(probe, rows), hold) - upright
        guess = np.log(len(images.task.classes))
        print(
            f"{data.name}, {kind}: {change.mean():+.4f} ± {change.std(ddof=1) / len(hold) ** 0.5:.4f} of a loss of "
            f"{upright.mean():.4f}, {100 * change.mean() / guess:+.1f} % of guessing",
            flush=True,
        )


def main() -> None:
    """Read, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["heads", "views", "refit", "statistics", "turned"])
    parser.add_argument("words", nargs="+")
    parser.add_argument("--weights", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.what in ("statistics", "turned"):
        for words in asked.words:
            data, size, *numbers = words.rsplit(":", 4)
            {"statistics": statistics, "turned": turned}[asked.what](
                Path(data), int(size), [int(one) for one in numbers], asked.weights
            )
        return
    folder, *sets = asked.words
    for words in sets:
        name, *numbers = words.split(":")
        {"heads": heads, "views": views, "refit": refit}[asked.what](Path(folder), name, [int(one) for one in numbers])


if __name__ == "__main__":
    main()
