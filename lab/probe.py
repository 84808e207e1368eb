"""The mean of three scalings' heads beside the better one of two, or an earlier checkout's probe, on the same features.

    python lab/probe.py FOLDER --weights FILE --data NAME=DATA:SIZE:TRAIN:SPLITS [...] [--against CHECKOUT]

Of the images of DATA, those of its test folder left out (val where there is no test), TRAIN are drawn to train on and
0.18 times as many to choose the head on, by another seed for each of SPLITS; the others test it. Images of one group
stay together. The mean is compared with the best head of the scalings "common" and "each", and with the probe of
CHECKOUT; seconds are the processor's, of the training alone. FOLDER keeps the features (NAME.npz). Prints a table in
Markdown.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
MADE = """
import json, sys, time
import numpy as np
import torch
from upcycle.data.preprocessing import Decoding
from upcycle.training import probe
file, train, splits, threads = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads(threads)
made = np.load(file)
features, labels, groups = made["features"], made["labels"], made["groups"]
classes = int(labels.max()) + 1

def scores(weight, bias, at):
    logits = (features[at] @ weight.numpy() + bias.numpy()).astype(np.float64)
    if classes == 2:
        logits = np.hstack([np.zeros_like(logits), logits])
    logits -= logits.max(axis=1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return {"loss": -logs[np.arange(len(at)), labels[at]].mean(), "accuracy": (logs.argmax(1) == labels[at]).mean()}

for seed in range(splits):
    order = np.argsort(np.random.default_rng(seed).permutation(groups.max() + 1)[groups], kind="stable")
    *sides, tested = np.split(order, [train, train + round(0.18 * train)])
    named = [probe.Split(features, side, labels[side], groups[side]) for side in sides]
    found, started = {"seed": seed}, time.process_time()
    if hasattr(probe, "CANDIDATES"):  # one head, trained with a schedule
        from upcycle.recipes import phases, resolve
        from upcycle.training.objective import Objective
        goal = Objective(1 if classes == 2 else classes)
        head = probe.train_probe(*named, phase=phases(resolve({}), train)[0], objective=goal, seed=seed)
        found["before"] = scores(head.weight.T, head.bias, tested)
    else:
        from upcycle.task import Task
        from upcycle.training.loss import Loss
        loss = Loss(Task.of([str(at) for at in range(classes)]))
        heads = probe.best_heads(*named, loss=loss, seed=seed)
        best = min((one for one in heads if one.scaling != "between"), key=lambda one: one.loss)
        found["chosen"] = scores(best.weight, best.bias, tested)
        mean = [torch.stack([getattr(one, part) for one in heads]).mean(dim=0) for part in ("weight", "bias")]
        found["mean"] = scores(*mean, tested)
    found["seconds"] = time.process_time() - started
    print(json.dumps(found), flush=True)
"""


@contextlib.contextmanager
def learnable(data: Path, size: int, weights_file: Path, threads: int = 0) -> Iterator[Any]:
    """The images of `data` that are no test images, decoded, and the network: index, frames, spec, model, machine."""
    from upcycle import device
    from upcycle.data import frames as cache
    from upcycle.data.index import index_images
    from upcycle.data.listing import Layout
    from upcycle.data.splits import split
    from upcycle.model.network import create, load_body, spec_of
    from upcycle.model.sources import get_weights, preprocessing_for, resolve_arch

    machine = device.detect(device="cpu", threads=threads)
    device.apply(machine, 0)
    arch = resolve_arch("resnet50")
    weights = get_weights(arch, str(weights_file))
    assert weights is not None
    unseen = "val" if (data / "val").exists() and not (data / "test").exists() else None
    index = index_images(data, Layout(test_split=unseen))
    apart = split(index, seed=0)
    index = index.take(np.sort(np.concatenate([apart.train, apart.val])))
    seen = preprocessing_for(arch, weights, input_file=None, image_size=size, crop_pct=None)
    with tempfile.TemporaryDirectory() as temporary:
        frames, failures = cache.open_cache(index, seen.decoding, root=Path(temporary), threads=machine.threads)
        index, frames = index.without(failures), frames.without(failures)
        network = spec_of(arch, index.classes, seen, weights)
        model = create(network, machine)
        load_body(model, weights, arch)
        yield index, frames, network, model, machine


def features(file: Path, data: Path, size: int, weights_file: Path) -> None:
    """Write features, labels and groups of the images of `data` that are no test images."""
    from upcycle.data.splits import components
    from upcycle.evaluation.forward import extract

    with learnable(data, size, weights_file) as (index, frames, network, model, machine):
        root = Path(frames.path).parent
        found = extract(model, index, frames, network=network, machine=machine, folder=root, workers=machine.feeders)
        np.savez(file, features=found, labels=index.labels, groups=components(index))


def readings(checkout: Path, *words: object) -> list[dict[str, Any]]:
    """Scores and seconds of the heads of every split, by the code of a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src")}
    command = [str(word) for word in (sys.executable, "-c", MADE, *words)]
    made = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return [json.loads(line) for line in made.stdout.splitlines()]


def row(name: str, befores: list[dict[str, Any]], afters: list[dict[str, Any]]) -> str:
    """A row of the table: means, and the paired change with its standard error."""
    cells = [name, str(len(befores))]
    for key, scale, digits in (("loss", 1, 4), ("accuracy", 100, 2)):
        before, after = (np.array([one[key] for one in some]) * scale for some in (befores, afters))
        error = (after - before).std(ddof=1) / len(before) ** 0.5
        cells.append(f"{before.mean():.{digits}f} to {after.mean():.{digits}f}")
        cells.append(f"{(after - before).mean():+.{digits}f} ± {error:.{digits}f}")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    print(f"| set, training images | splits | log loss | change | accuracy, % | change |\n{'|---' * 6}|")
    for given in asked.data:
        name, _, words = given.partition("=")
        data, size, train, splits = words.rsplit(":", 3)
        file = asked.folder / f"{name}.npz"
        if not file.exists():
            features(file, Path(data), int(size), asked.weights)
        after = readings(ROOT, file, train, splits, asked.threads)
        means = [one["mean"] for one in after]
        print(row(f"{name}, {train}, chosen", [one["chosen"] for one in after], means), flush=True)
        if asked.against:
            before = readings(asked.against, file, train, splits, asked.threads)
            print(row(f"{name}, {train}, checkout", [one["before"] for one in before], means))
            ratios = sorted(one["seconds"] / two["seconds"] for one, two in zip(before, after, strict=True))
            times = [float(np.median([one["seconds"] for one in some])) for some in (before, after)]
            print(f"CPU s {times[0]:.1f} to {times[1]:.1f}, {ratios[0]:.1f} to {ratios[-1]:.1f} times", flush=True)


if __name__ == "__main__":
    main()
