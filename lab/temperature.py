"""What the prior of the temperature was chosen by: test log loss and calibration error, with and without.

    python lab/temperature.py logits FOLDER OUT NAME:TRAIN:VAL:SPLITS [...]
    python lab/temperature.py table OUT

`logits` trains the probe on features that `lab/stages.py FOLDER` keeps, for each of SPLITS splits (TRAIN images train,
VAL choose, at most 1,500 others score), and keeps the logits of both sides in OUT/NAME-TRAIN-VAL.npz. `table` fits a
temperature on the validation side for each strength of the prior, and prints the mean change of test log loss and of
the expected calibration error (points) from no temperature, with its standard error over splits. Each set is read as
it is, and as a model that is twice as sure of itself, as fine-tuning is.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from probe_choices import by, kept

from upcycle.evaluation.calibration import _binned, fit_temperature, scaled
from upcycle.evaluation.results import Predictions
from upcycle.training.loss import Loss
from upcycle.training.probe import train_probe

KEYS = ("val", "val_labels", "test", "test_labels")
PRIORS = (1e9, 0.5, 0.2, 0.15, 0.1, 0.05)


def logits(folder: Path, out: Path, words: list[str]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for word in words:
        name, *numbers = word.split(":")
        images, plain, _, widths = kept(folder, name)
        rows: dict[str, list[np.ndarray]] = {"val": [], "test": [], "val_labels": [], "test_labels": []}
        train_images, val_images, splits = (int(one) for one in numbers)
        for seed, (learn, hold, tested) in enumerate(images.sides(train_images, val_images, splits)):
            sides = images.rows(plain, learn), images.rows(plain, hold)
            probe = train_probe(*sides, loss=Loss(images.task), seed=seed, widths=widths)
            for side, at in (("val", hold), ("test", tested)):
                rows[side].append(by(probe, plain[at]).astype(np.float32))
                rows[f"{side}_labels"].append(images.labels[at])
        np.savez(out / f"{name}-{train_images}-{val_images}.npz", **{key: np.array(made) for key, made in rows.items()})
        print(word, flush=True)


def predictions(logits: np.ndarray, labels: np.ndarray) -> Predictions:
    columns = logits.reshape(len(labels), -1).astype(np.float32)
    names, n = tuple(map(str, range(max(2, columns.shape[1])))), len(labels)
    return Predictions(names, tuple(map(str, range(n))), ("",) * n, ("",) * n, labels, columns)


def table(out: Path) -> None:
    print(
        "| set, training and validation images | logits times | log loss, ECE in % | change of both by prior: none | "
        + " | ".join(map(str, PRIORS[1:]))
        + " |"
    )
    print("|---" * (3 + len(PRIORS)) + "|")
    for file in sorted(out.glob("*.npz")):
        found = np.load(file)
        for sharper in (1, 2):
            sides = [
                (predictions(sharper * val, here), predictions(sharper * test, there))
                for val, here, test, there in zip(*(found[key] for key in KEYS), strict=True)
            ]
            before = np.array([reading(test) for _, test in sides])
            cells = [file.stem, str(sharper), f"{before[:, 0].mean():.4f}, {before[:, 1].mean():.2f}"]
            for prior in PRIORS:
                after = [reading(scaled(test, fit_temperature(val, prior=prior))) for val, test in sides]
                change = np.array(after) - before
                error = change.std(axis=0, ddof=1) / len(change) ** 0.5
                cells.append(
                    f"{change[:, 0].mean():+.4f} ± {error[0]:.4f}, {change[:, 1].mean():+.2f} ± {error[1]:.2f}"
                )
            print(f"| {' | '.join(cells)} |", flush=True)


def reading(test: Predictions) -> tuple[float, float]:
    confidence, right, place = _binned(test)
    return float(test.log_losses().mean()), 100 * float(
        np.abs(np.bincount(place, confidence - right)).sum() / len(test)
    )


def main() -> None:
    """Read, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["logits", "table"])
    parser.add_argument("words", nargs="+")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.what == "logits":
        folder, out, *words = asked.words
        logits(Path(folder), Path(out), words)
    else:
        table(Path(asked.words[0]))


if __name__ == "__main__":
    main()
