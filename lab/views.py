"""How much of a frame, at which size, suits a frozen network: the probe's held-out loss, view by view.

    python lab/views.py FOLDER --weights FILE --data NAME=DATA [NAME=DATA ...] [--sizes 128,224]
        [--crops 0.875,1] [--interpolations bilinear] [--heads probe,scikit-learn] [--folds 5]
        [--test-split NAME]

A view is an input size, the fraction of the short side that the crop keeps, and an interpolation. Images of the test
split are left out. The others are cross-validated: each is predicted once by a probe, as `--recipe probe` trains it,
that was chosen and trained without it; or by scikit-learn's logistic regression, its strength of 7 powers of ten chosen
on the same validation images. Differences are paired, image by image, with their standard error, against the first row
at the same size: the error is that of the images, with folds and heads as they are, so it is somewhat too small.
FOLDER/views.json keeps the readings as they come; a run that is ended early goes on where it was. FOLDER/views.md is
the table.
"""

import argparse
import itertools
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from upcycle import device
from upcycle.data.frames import open_cache
from upcycle.data.index import Index, index_images
from upcycle.data.listing import Layout
from upcycle.data.splits import Splits, folds, split
from upcycle.evaluation.forward import extract
from upcycle.model.network import ModelSpec, create, load_body
from upcycle.model.sources import get_weights, preprocessing_for, resolve_arch
from upcycle.rundir import read_json, write_json
from upcycle.task import Task
from upcycle.training.loss import Loss
from upcycle.training.probe import Features, Split, train_probe


def view(data: Path, values: dict[str, Any], asked: argparse.Namespace, machine: device.Hardware) -> dict[str, Any]:
    """Cross-validated losses and hits of heads that see `data` by a view, by head."""
    arch = resolve_arch(asked.arch)
    weights = get_weights(arch, str(asked.weights))
    own = preprocessing_for(arch, weights, input_file=None, image_size=None, crop_pct=None)
    index = index_images(data, Layout(test_split=asked.test_split))
    apart = split(index, seed=0)
    index = index.take(np.sort(np.concatenate([apart.train, apart.val])))
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        seen = replace(own, **values)
        frames, failures = open_cache(index, seen.decoding, root=root, threads=machine.threads)
        index, frames = index.without(failures), frames.without(failures)
        network = ModelSpec(arch, Task.of(index.classes), seen, "file", weights.sha256 if weights else "")
        model = create(network)
        if weights is not None:
            load_body(model, weights, arch)
        options: dict[str, Any] = {"network": network, "machine": machine, "folder": root, "workers": machine.feeders}
        features = np.array(extract(model, index, frames, **options))
    found = {}
    for head in asked.heads.split(","):
        losses, hits = np.zeros(len(index)), np.zeros(len(index), bool)
        for fold in folds(index, k=asked.folds, seed=0):
            logs = HEADS[head](features, index, fold)
            truth = index.labels[fold.test]
            losses[fold.test] = -logs[np.arange(len(truth)), truth]
            hits[fold.test] = logs.argmax(1) == truth
        found[head] = {"losses": losses.round(6).tolist(), "hits": hits.astype(int).tolist()}
    return found


def probed(features: Features, index: Index, fold: Splits) -> npt.NDArray[np.float64]:
    """Log probabilities of the fold's test images by the probe of its other images, [n, K]."""
    sides = [Split(features, part, index.labels[part]) for part in (fold.train, fold.val)]
    task = Task.of(index.classes)
    probe = train_probe(*sides, loss=Loss(task), seed=0)
    return -task.costs(features[fold.test] @ probe.weight.numpy().T + probe.bias.numpy())


def by_scikit_learn(features: Features, index: Index, fold: Splits) -> npt.NDArray[np.float64]:
    """The same by logistic regression."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    tried = []
    for strength in np.logspace(-5, 1, 7):
        model = LogisticRegression(C=strength, max_iter=2000).fit(features[fold.train], index.labels[fold.train])
        tried.append((log_loss(index.labels[fold.val], model.predict_proba(features[fold.val])), strength, model))
    best = min(tried, key=lambda one: one[0])[2]
    return np.asarray(np.log(best.predict_proba(features[fold.test]).clip(1e-15)))


HEADS = {"probe": probed, "scikit-learn": by_scikit_learn}


def table(readings: list[dict[str, Any]]) -> str:
    """Markdown: a row a view."""
    lines = [
        "| data | images | px | crop | interpolation | head | log loss | less the first | accuracy | less the first |"
    ]
    lines.append("|---" * 10 + "|")
    for one in readings:
        same = [other for other in readings if (other["data"], other["size"]) == (one["data"], one["size"])]
        less, better = (np.subtract(one[name], same[0][name]) for name in ("losses", "hits"))
        errors = [some.std(ddof=1) / len(some) ** 0.5 for some in (less, better)]
        mean, right = np.mean(one["losses"]), np.mean(one["hits"])
        lines.append(
            f"| {one['data']} | {len(less)} | {one['size']} | {one['crop_pct']:g} | {one['interpolation']} "
            f"| {one['head']} | {mean:.4f} | {less.mean():+.4f} ± {errors[0]:.4f} "
            f"| {right:.4f} | {better.mean():+.4f} ± {errors[1]:.4f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--sizes", default="128,224")
    parser.add_argument("--crops", default="0.875,1")
    parser.add_argument("--interpolations", default="bilinear")
    parser.add_argument("--heads", default="probe")
    parser.add_argument("--test-split")
    parser.add_argument("--folds", type=int, default=5)
    asked = parser.parse_args()
    machine = device.detect(device="cpu")
    device.apply(machine, 0)
    asked.folder.mkdir(parents=True, exist_ok=True)
    kept = asked.folder / "views.json"
    weights = get_weights(resolve_arch(asked.arch), str(asked.weights))
    facts = {"arch": asked.arch, "weights": weights and weights.sha256, "folds": asked.folds}
    facts |= {"precision": machine.precision, "threads": machine.threads}
    facts |= {"versions": device.environment(machine)["versions"], "test_split": asked.test_split}
    found: dict[str, Any] = read_json(kept) if kept.exists() else {"of": facts, "readings": []}
    if found["of"] != facts:
        raise SystemExit(f"{kept} holds readings of {found['of']}, and these are of {facts}: use another FOLDER")
    readings = found["readings"]
    sizes, crops = asked.sizes.split(","), asked.crops.split(",")
    for given, size, interpolation, crop in itertools.product(
        asked.data, sizes, asked.interpolations.split(","), crops
    ):
        name, _, data = given.partition("=")
        values = {"size": int(size), "crop_pct": float(crop), "interpolation": interpolation}
        seen = {"data": name, **values}
        there = {one["head"] for one in readings if seen.items() <= one.items()}
        if there >= set(asked.heads.split(",")):
            continue
        for head, scored in view(Path(data), values, asked, machine).items():
            if head not in there:
                readings.append({**seen, "head": head, **scored})
                print(table(readings).splitlines()[-1], flush=True)
        write_json(kept, found)
    readings.sort(key=lambda one: (one["data"], one["size"]))  # what is first at a size stays first
    versions = ", ".join(f"{name} {value}" for name, value in facts["versions"].items())
    where = f"{machine.processor}, {machine.threads} threads, {machine.precision}; {versions}"
    text = f"{where}; {asked.folds} folds; {asked.arch}, weights {str(facts['weights'])[:12]}\n\n{table(readings)}"
    (asked.folder / "views.md").write_text(text)


if __name__ == "__main__":
    main()
