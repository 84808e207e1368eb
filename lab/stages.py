"""Probes on pooled features of several stages, with and without flips, beside the last stage alone; ridge and logistic.

    python lab/stages.py FOLDER --weights FILE --data NAME=DATA:SIZE:TRAIN:SPLITS [...]

Of the images of DATA, those of its test side left out (the test folder, else val, else the drawn one of seed 0), TRAIN
are drawn to train on and 0.18 times as many to choose on, by another seed for each of SPLITS; the others test the
heads, at most 1,500 of them. Images of one group stay together. Each stage's features are divided by their common
deviation before the probe's own scalings. FOLDER keeps the features (NAME.npz), and readings.jsonl. Prints a table in
Markdown: means over splits, and the paired change against the last stage without flips.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from probe import learnable
from sklearn.metrics import f1_score

from upcycle import device
from upcycle.data.splits import components
from upcycle.evaluation.forward import predict_logits
from upcycle.model.network import Network
from upcycle.task import Task
from upcycle.training.logistic import best_heads
from upcycle.training.loss import Loss
from upcycle.training.probe import learners, scales
from upcycle.training.rows import Split

Reals = npt.NDArray[np.float64]
STAGES = 3
"""The last stages that are read, as timm counts them."""
KINDS = {
    "4": (1, False),
    "4 flip": (1, True),
    "3+4 flip": (2, True),
    "2+3+4 flip": (3, True),
}
"""How many of the last stages, and whether the mirrored image's features are averaged in."""
RIDGE = tuple(10.0 ** np.arange(-4, 3.5, 0.5))
MOST_TESTED = 1_500


def pooled(model: Network, images: torch.Tensor) -> torch.Tensor:
    """The means over the places of the last stages' maps, the first stage first, [n, D]."""
    with device.autocast(model.machine):
        _, maps = model.body.forward_intermediates(images, indices=STAGES)
    return torch.cat([each.float().mean(dim=(2, 3)) for each in maps], dim=1)


def features(file: Path, data: Path, size: int, weights_file: Path, threads: int) -> None:
    """Write features of the images and of their mirror images, labels and groups of those that are no test images."""
    with learnable(data, size, weights_file, threads) as (index, frames, network, model, machine):
        options = {"preprocessing": network.preprocessing, "machine": machine, "workers": machine.feeders}
        at = np.arange(len(index))
        plain = predict_logits(model, frames, at, output=lambda images: pooled(model, images), **options)
        mirror = predict_logits(model, frames, at, output=lambda images: pooled(model, images.flip(3)), **options)
        np.savez(file, plain=plain, mirror=mirror, labels=index.labels, groups=components(index))


def ridge(train: Reals, targets: Reals, held: Reals, labels: npt.NDArray[np.int64]) -> tuple[Reals, Reals, float]:
    """Weights and biases of ridge regression on one column per class, as log-probabilities at their best temperature.

    The strength and the temperature have the lowest log loss of `held` images.
    """
    mean, center = train.mean(axis=0), targets.mean(axis=0)
    x, y = train - mean, targets - center
    values, vectors = np.linalg.eigh(x @ x.T)
    best = (np.inf, np.empty(0), np.empty(0))
    for strength in RIDGE:
        weight = x.T @ (vectors @ ((vectors.T @ y) / (values + strength * values.mean())[:, None]))
        for scale in np.geomspace(1, 50, 25):
            loss = log_loss(scale * ((held - mean) @ weight + center), labels)
            if loss < best[0]:
                best = (loss, scale * weight, scale * (center - mean @ weight))
    return best[1], best[2], float(best[0])


def log_softmax(logits: Reals) -> Reals:
    """Log-probabilities [n, K] in float64."""
    logits = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))


def log_loss(logits: Reals, labels: npt.NDArray[np.int64]) -> float:
    """The mean negative log-likelihood in nats."""
    return float(-log_softmax(logits)[np.arange(len(labels)), labels].mean())


def scores(logits: Reals, labels: npt.NDArray[np.int64]) -> dict[str, float]:
    """Log loss, accuracy and macro F1."""
    said = logits.argmax(axis=1)
    f1 = f1_score(labels, said, average="macro")
    return {"loss": log_loss(logits, labels), "accuracy": float((said == labels).mean()), "f1": float(f1)}


def readings(file: Path, train: int, splits: int) -> list[dict[str, dict[str, float]]]:
    """Scores of each kind of head on each split."""
    made = np.load(file)
    labels, groups = made["labels"].astype(np.int64), made["groups"]
    classes = int(labels.max()) + 1
    task = Task.of([str(at) for at in range(classes)])
    widths = [made["plain"].shape[1] // 7 * share for share in (1, 2, 4)]  # of a ResNet's stages 2, 3 and 4
    found = []
    for seed in range(splits):
        order = np.argsort(np.random.default_rng(seed).permutation(groups.max() + 1)[groups], kind="stable")
        learn, hold, tested = np.split(order, [train, train + round(0.18 * train)])
        tested = tested[:MOST_TESTED]
        outcome: dict[str, dict[str, float]] = {}
        logits: dict[str, Reals] = {}
        for name, (stages, flip) in KINDS.items():
            started = time.process_time()
            whole = (made["plain"] + made["mirror"]) / 2 if flip else made["plain"]
            blocks = np.split(whole, np.cumsum(widths)[:-1], axis=1)[-stages:]
            scaled = np.hstack([block / block[learn].std(axis=0).mean() for block in blocks]).astype(np.float32)
            sides = [Split(scaled, side, made["labels"][side], groups[side]) for side in (learn, hold)]
            mean, scalings = scales(sides[0], (scaled.shape[1],))
            marks = learners(*sides, seed)
            heads = best_heads(*sides, scalings=scalings, mean=mean, learned=marks, loss=Loss(task))
            weight = torch.stack([one.weight for one in heads]).mean(dim=0).numpy()
            bias = torch.stack([one.bias for one in heads]).mean(dim=0).numpy()

            def given(at: npt.NDArray[np.int64]) -> Reals:
                out = (scaled[at] @ weight + bias).astype(np.float64)  # noqa: B023
                return np.hstack([np.zeros_like(out), out]) if classes == 2 else out

            logits[name] = given(tested)
            outcome[name] = scores(logits[name], labels[tested]) | {
                "held": log_loss(given(hold), labels[hold]),
                "seconds": time.process_time() - started,
            }
            started = time.process_time()
            wide = scaled.astype(np.float64)
            one_hot = np.eye(classes)[labels[learn]]
            weights, biases, held = ridge(wide[learn], one_hot, wide[hold], labels[hold])
            logits[f"{name} ridge"] = wide[tested] @ weights + biases
            outcome[f"{name} ridge"] = scores(logits[f"{name} ridge"], labels[tested]) | {
                "held": held,
                "seconds": time.process_time() - started,
            }
            both = (log_softmax(logits[name]) + log_softmax(logits[f"{name} ridge"])) / 2
            outcome[f"{name} both"] = scores(both, labels[tested])
        flips = [name for name in KINDS if "flip" in name]
        chosen = min(flips, key=lambda name: outcome[name]["held"])
        outcome["chosen of flips"] = scores(logits[chosen], labels[tested])
        outcome["mean of flips"] = scores(sum(log_softmax(logits[name]) for name in flips) / 3, labels[tested])
        every = [name for name in logits if "flip" in name]
        outcome["mean of flips, both"] = scores(sum(log_softmax(logits[name]) for name in every) / 6, labels[tested])
        held = np.array([outcome[name]["held"] for name in every])
        shares = np.exp(-(held - held.min()) * len(hold) / 4)
        weighed = sum(
            share * log_softmax(logits[name]) for share, name in zip(shares / shares.sum(), every, strict=True)
        )
        outcome["weighed by held-out loss"] = scores(weighed, labels[tested])
        found.append(outcome)
    return found


def main() -> None:
    """Read, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(asked.threads)
    print(f"| set, training images | head | log loss | change | F1, % | change |\n{'|---' * 6}|")
    for words in asked.data:
        name, _, rest = words.partition("=")
        data, size, train, splits = rest.rsplit(":", 3)
        file = asked.folder / f"{name}.npz"
        if not file.exists():
            features(file, Path(data), int(size), asked.weights, asked.threads)
        found = readings(file, int(train), int(splits))
        with (asked.folder / "readings.jsonl").open("a") as out:
            out.writelines(
                json.dumps({"set": name, "train": int(train), "seed": at, **one}) + "\n" for at, one in enumerate(found)
            )
        for head in found[0]:
            cells = [f"{name}, {train}", head]
            for key, scale, digits in (("loss", 1, 4), ("f1", 100, 2)):
                now, last = (np.array([one[kind][key] for one in found]) * scale for kind in (head, "4"))
                error = (now - last).std(ddof=1) / len(found) ** 0.5
                cells += [f"{now.mean():.{digits}f}", f"{(now - last).mean():+.{digits}f} ± {error:.{digits}f}"]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
