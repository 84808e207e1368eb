"""How often a promised threshold breaks its promise: at most one time in ten, whatever chose the model.

    python lab/threshold_coverage.py synthetic REPEATS
    python lab/threshold_coverage.py features FOLDER NAME:TRAIN:VAL:SPLITS [...]

synthetic: in each of REPEATS worlds of three classes, 150 validation images choose the best of eight models and its
temperature, and order the thresholds; 300 held images choose one, and 50,000 others show what it really does.
features: the probe is trained on features that `lab/stages.py FOLDER` keeps, for each of SPLITS splits; VAL images
choose its parts, its temperature and the order; the images left are the world. Held images, 300 of them, are drawn from
it with replacement, 40 times for each split, so that its rates are the truth. Prints, for each want: the share of all
draws in which the rule exists and is worse than was asked, its standard error (over splits for features), the share in
which no rule was found, and the mean share of images answered, or the mean recall or precision; then the same of the
operating point on validation images, which promises nothing.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from probe_choices import by, kept

from upcycle.errors import DataError
from upcycle.evaluation.calibration import fit_temperature, scaled
from upcycle.evaluation.results import Predictions
from upcycle.evaluation.thresholds import Rule, Want, operating_point, promised
from upcycle.training.loss import Loss
from upcycle.training.probe import train_probe

CONFIDENCE, HELD, DRAWS = 0.9, 300, 40


def made(logits: np.ndarray, labels: np.ndarray, classes: int) -> Predictions:
    n = len(labels)
    names = tuple(str(at) for at in range(n))
    return Predictions(tuple(map(str, range(classes))), names, ("",) * n, ("",) * n, labels, logits.astype(np.float32))


def truth(rule: Rule, want: Want, world: Predictions) -> tuple[float, float]:
    """What was asked, as it really is, and how useful the rule is: what it answers, or its precision."""
    answers, sure = rule.decide(world.probabilities(), world.classes)
    if want.label is None:
        return float((answers == world.labels)[sure].mean()) if sure.any() else 1.0, float(sure.mean())
    at = world.classes.index(want.label)
    called, there = sure & (answers == at), world.labels == at
    precision = float(there[called].mean()) if called.any() else 1.0
    recall = float(called[there].mean())
    return (precision, recall) if want.kind == "precision" else (recall, precision)


def read(choose: Callable[[], Rule], want: Want, world: Predictions) -> tuple[float, float, float]:
    """Broken or not, none found or not, and the use of the rule; NaN where there is none."""
    try:
        value, use = truth(choose(), want, world)
    except DataError:
        return 0.0, 1.0, math.nan
    return float(value < want.value), 0.0, use


def both(val: Predictions, held: Predictions, world: Predictions, wants: list[Want]) -> np.ndarray:
    """For each want: the promised rule's reading, and the operating point's, [wants, 2, 3]."""
    return np.array(
        [
            [
                read(lambda want=want: promised(want, val, held, confidence=CONFIDENCE), want, world),
                read(lambda want=want: operating_point(want, val), want, world),
            ]
            for want in wants
        ]
    )


def shown(name: str, wants: list[Want], found: np.ndarray) -> None:
    """`found` [units, draws, wants, 2, 3], of independent units."""
    for at, want in enumerate(wants):
        for kind, part in (("promised", found[:, :, at, 0]), ("on validation images", found[:, :, at, 1])):
            rates = part[..., 0].mean(axis=1)
            error = rates.std(ddof=1) / len(rates) ** 0.5
            print(
                f"| {name} | {want} | {kind} | {100 * rates.mean():.1f} ± {100 * error:.1f} | "
                f"{100 * part[..., 1].mean():.1f} | {100 * np.nanmean(part[..., 2]):.1f} |",
                flush=True,
            )


def synthetic(repeats: int) -> None:
    wants = [Want("precision", 0.95), Want("precision", 0.9, "1"), Want("recall", 0.9, "1")]
    found = []
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        quality = rng.normal(2.2, 0.15, 8)

        def world(n: int, rng: np.random.Generator = rng) -> tuple[np.ndarray, np.ndarray]:
            labels = rng.integers(3, size=n)
            return labels, np.eye(3)[labels]

        def predicted(labels: np.ndarray, hot: np.ndarray, model: int, rng: np.random.Generator = rng) -> Predictions:
            return made(2.5 * (quality[model] * hot + rng.normal(0, 1, hot.shape)), labels, 3)  # noqa: B023

        labels, hot = world(150)
        models = [predicted(labels, hot, model) for model in range(8)]
        best = min(range(8), key=lambda model: models[model].log_losses().mean())
        temperature = fit_temperature(models[best])
        sides = [models[best], *(predicted(*world(n), best) for n in (HELD, 50_000))]
        val, held, rest = (scaled(side, temperature) for side in sides)
        found.append([both(val, held, rest, wants)])
    shown(f"synthetic, {repeats} worlds", wants, np.array(found))


def features(folder: Path, words: list[str]) -> None:
    for word in words:
        name, *numbers = word.split(":")
        images, plain, _, widths = kept(folder, name)
        train, val_images, splits = (int(one) for one in numbers)
        classes = len(images.task.classes)
        wants = [Want("precision", 0.97), Want("precision", 0.97, "1"), Want("recall", 0.95, "1")]
        found = []
        for seed in range(splits):
            draw = np.random.default_rng(seed).permutation(images.groups.max() + 1)[images.groups]
            learn, hold, rest = np.split(np.argsort(draw, kind="stable"), [train, train + val_images])
            rows = images.rows(plain, learn), images.rows(plain, hold)
            probe = train_probe(*rows, loss=Loss(images.task), seed=seed, widths=widths)
            val, world = (made(by(probe, plain[at]), images.labels[at], classes) for at in (hold, rest))
            temperature = fit_temperature(val)
            val, world = scaled(val, temperature), scaled(world, temperature)
            rng = np.random.default_rng(seed)
            drawn = [world.part(rng.integers(len(rest), size=HELD)) for _ in range(DRAWS)]
            found.append([both(val, held, world, wants) for held in drawn])
        shown(f"{name}, {splits} splits of {train} and {val_images}", wants, np.array(found))


def main() -> None:
    """Read, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["synthetic", "features"])
    parser.add_argument("words", nargs="+")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print("| images | want | rule | broken, % | none found, % | answered, recall or precision, % |")
    print("|---|---|---|---|---|---|")
    if asked.what == "synthetic":
        synthetic(int(asked.words[0]))
    else:
        features(Path(asked.words[0]), asked.words[1:])


if __name__ == "__main__":
    main()
