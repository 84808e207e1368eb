"""What a network gives for images: logits, and the features of a frozen one, computed once and kept in a folder.

Batches have one fixed shape, so that what an image gives does not depend on its company.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL
import pyarrow as pa
import timm
import torch
from torch import Tensor, nn

from upcycle.data.augment import Frames, on_device
from upcycle.data.dataset import eval_batches
from upcycle.data.frames import rules, written_in
from upcycle.data.index import Index
from upcycle.data.preprocessing import Preprocessing
from upcycle.device import Hardware
from upcycle.errors import StorageError, WeightsError
from upcycle.evaluation.results import Predictions
from upcycle.model.checkpoint import forget_made
from upcycle.model.folding import folded_once
from upcycle.model.network import ModelSpec, Network
from upcycle.rundir import replacing
from upcycle.task import Logits
from upcycle.world import ALONE, World

EVAL_BATCH = 32
"""Images a forward pass; part of the promise that predicting and evaluating agree to the bit."""
FETCHED = 16
"""Forward passes whose results are fetched together: each time an accelerator is waited for."""

_VERSION = 2
"""Of the kept features."""
PART = 32 * EVAL_BATCH
"""Images whose features are kept as soon as they are computed: what a killed run loses, at most."""

_Positions = npt.NDArray[np.int64]
Output = Callable[[Tensor], Tensor]
OUTPUTS: dict[str, Callable[[Network, Tensor], Tensor]] = {
    "logits": lambda model, images: model(images),
    "features": lambda model, images: model.features(images),
    "mirrored features": lambda model, images: model.features(images.flip(3)),
    "turned by 1": lambda model, images: model(images.rot90(1, (2, 3))),
    "turned by 2": lambda model, images: model(images.rot90(2, (2, 3))),
    "turned by 3": lambda model, images: model(images.rot90(3, (2, 3))),
}
"""What a network gives for images, by names that processes tell each other."""


def forward(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, int]],
    *,
    output: Output | None = None,
    progress: Callable[[int], None] | None = None,
) -> Logits:
    """`output`, else what `model` gives, of every image, [n, outputs] fp32; batches come padded, with their numbers.

    `progress` is told of images that have been queued: an accelerator may still be at work on the last ones.
    """
    model.eval()
    output = output or model
    fetched: list[Logits] = []
    queued: list[Tensor] = []
    done = 0
    with folded_once(model):
        for images, count in batches:
            with torch.inference_mode():
                queued.append(output(images)[:count].float())
            if len(queued) == FETCHED:
                fetched.append(_fetch(queued))
            done += count
            if progress is not None:
                progress(done)
    return np.concatenate([*fetched, _fetch(queued)] if queued else fetched)


def _fetch(queued: list[Tensor]) -> Logits:
    """The rows of all that is `queued`, which is emptied."""
    rows: Logits = torch.cat(queued).cpu().numpy()
    queued.clear()
    return rows


def predict_logits(
    model: Network,
    frames: Frames,
    positions: _Positions,
    *,
    preprocessing: Preprocessing,
    machine: Hardware,
    workers: int,
    output: str | Output = "logits",
    progress: Callable[[int, int], None] | None = None,
    world: World = ALONE,
) -> Logits:
    """Logits [n, outputs] of the images at `positions`, or another of the `OUTPUTS`, or what a function gives.

    In rank 0 of a `world` whose processes have the same frames, each computes its share, by the weights of rank 0; the
    rows have the bits that one process gives.
    """
    shares, total = world.rows(len(positions), EVAL_BATCH), len(positions)
    if not world.alone and not world.follows:
        world.tell("outputs", output=output, positions=positions.tolist(), **told_of(model))
    if not world.alone:
        world.sync(list(model.state_dict().values()))
        forget_made(model)
    share = shares[world.place.rank]
    batches = eval_batches(
        frames,
        positions[share],
        preprocessing=preprocessing,
        batch_size=EVAL_BATCH,
        device=machine.device,
        workers=workers,
    )
    done = None if progress is None else lambda done: progress(min(world.size * done, total), total)
    if share.stop == share.start and world.follows:
        return np.empty((0, 0), np.float32)
    computed = partial(OUTPUTS[output], model) if isinstance(output, str) else output
    rows = forward(model, batches, output=computed, progress=done)
    return rows if world.alone else world.gather(rows, shares)


def told_of(model: Network) -> dict[str, object]:
    """What other processes are told of a network beside its weights."""
    return {"stages": model.stages, "views": model.views, "temperature": model.temperature}


def predictions(index: Index, positions: _Positions, logits: Logits) -> Predictions:
    """`logits` with the paths, labels and content hashes they belong to."""
    return Predictions(
        classes=index.classes,
        paths=tuple(index.paths.take(pa.array(positions)).to_pylist()),
        hashes=tuple(index.hashes[positions].astype("U64").tolist()),
        groups=tuple(map(sys.intern, index.groups.take(pa.array(positions)).to_pylist())),
        labels=index.labels[positions].astype(np.int64),
        logits=logits,
    )


# ---------------------------------------------------------------- features


def extract(
    model: Network,
    index: Index,
    frames: Frames,
    *,
    network: ModelSpec,
    machine: Hardware,
    folder: Path,
    workers: int,
    positions: _Positions | None = None,
    known: _Positions | None = None,
    mirrored: bool = False,
    progress: Callable[[int, int], None] | None = None,
    world: World = ALONE,
) -> npt.NDArray[np.float32]:
    """Un-augmented features [n, D] of every image of `index`, or of those at `positions`, by the frozen `model`.

    A memory map; of the mirror images where they are `mirrored`. Kept in `folder` under a key of everything they depend
    on: images, weights, stages, preprocessing, precision, threads and versions. They are written in parts as they are
    computed, each with its checksum, and put together at the end: a part that is there is not computed again, one that
    is damaged is. Where those of the images at `known` are kept under their own key, they are copied, not computed. A
    folder that cannot be written is read, and a temporary one written; where there is no room the features are held in
    memory.
    """
    everything = np.arange(len(index), dtype=np.int64) if positions is None else positions
    total = len(everything)
    name = partial(_file, index, network=network, machine=machine, mirrored=mirrored)
    if (kept := _kept(folder, name(everything), total)) is not None:
        return kept
    path = written_in(folder, "features") / name(everything)
    parts = path.with_suffix(".parts")
    earlier = None if known is None else _kept(folder, name(known), len(known))
    places = np.full(len(index), -1, np.int64)
    if earlier is not None:
        places[known] = np.arange(len(earlier))

    def computed(done: int, positions: _Positions) -> npt.NDArray[np.float32]:
        new = places[positions] < 0
        if earlier is None or new.all():
            return forwarded(done, positions)
        rows = earlier[places[positions]]  # those of new images are replaced
        if new.any():
            rows[new] = forwarded(done + len(new) - int(new.sum()), positions[new])
        return rows

    def forwarded(done: int, positions: _Positions) -> npt.NDArray[np.float32]:
        rows = predict_logits(
            model,
            frames,
            positions,
            preprocessing=network.preprocessing,
            machine=machine,
            workers=workers,
            output="mirrored features" if mirrored else "features",
            progress=None if progress is None else lambda more, _: progress(done + more, total),
            world=world,
        )
        if not np.isfinite(rows).all():
            raise WeightsError(f"weights from {network.weights_source} give features that are not finite: use others")
        return rows

    held = []
    for number, start in enumerate(range(0, total, PART)):
        some = everything[start : start + PART]
        held.append(_part(parts / f"{number:06}.npy", some, partial(computed, start)))
    try:
        _write(path, held, total)
    except StorageError:
        return np.concatenate(held)
    shutil.rmtree(parts, ignore_errors=True)
    written = _read(path, total)
    return written if written is not None else np.concatenate(held)


def _kept(folder: Path, name: str, images: int) -> npt.NDArray[np.float32] | None:
    """So many rows that are kept in `folder`, or where they are written in its place; None where they are not."""
    own = folder / "features"
    if (kept := _read(own / name, images)) is not None:
        return kept
    written = written_in(folder, "features")
    return _read(written / name, images) if written != own else None


def _part(
    path: Path,
    positions: npt.NDArray[np.int64],
    computed: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float32]],
) -> npt.NDArray[np.float32]:
    """The features at `positions`: those kept in `path`, or computed and, where there is room, kept."""
    kept = _read(path, len(positions))
    if kept is not None:
        return kept
    rows = computed(positions)
    try:
        _write(path, [rows], len(rows))
    except StorageError:
        return rows
    written = _read(path, len(positions))
    return written if written is not None else rows


def _write(path: Path, parts: Sequence[npt.NDArray[np.float32]], images: int) -> None:
    """Write the rows as one .npy file with the sha256 of its numbers behind them."""
    digest = hashlib.sha256()
    with replacing(path) as temporary, temporary.open("wb") as file:
        facts = {"descr": "<f4", "fortran_order": False, "shape": (images, parts[0].shape[1])}
        np.lib.format.write_array_header_1_0(file, facts)
        for rows in parts:
            numbers = np.ascontiguousarray(rows, "<f4").data
            digest.update(numbers)
            file.write(numbers)
        file.write(digest.digest())


def head_logits(
    model: Network, features: npt.NDArray[np.float32], positions: npt.NDArray[np.int64], machine: Hardware
) -> npt.NDArray[np.float32]:
    """Logits [n, outputs] from the `features` [N, D] at `positions` [n]: to the bit what the whole network gives."""

    def batches() -> Iterator[tuple[torch.Tensor, int]]:
        for start in range(0, len(positions), EVAL_BATCH):
            some = torch.from_numpy(features[positions[start : start + EVAL_BATCH]])
            padded = torch.nn.functional.pad(some, (0, 0, 0, EVAL_BATCH - len(some)))
            yield on_device(padded, machine.device), len(some)

    return forward(model, batches(), output=model.head)


def _read(path: Path, images: int) -> npt.NDArray[np.float32] | None:
    """The memory map of a whole file of so many rows; None for any other."""
    try:
        features = np.load(path, mmap_mode="r", allow_pickle=False)
        with path.open("rb") as file:
            file.seek(-hashlib.sha256().digest_size, os.SEEK_END)
            expected = file.read()
    except Exception:  # a damaged header makes numpy raise nearly anything
        return None
    if features.dtype != np.float32 or features.ndim != 2 or len(features) != images:
        return None
    digest = hashlib.sha256()
    for start in range(0, images, 4096):
        digest.update(np.ascontiguousarray(features[start : start + 4096]).data)
    return features if digest.digest() == expected else None


def _file(index: Index, positions: _Positions, *, network: ModelSpec, machine: Hardware, mirrored: bool) -> str:
    """The name of a file of features: all that they depend on."""
    facts = {
        "version": _VERSION,
        "arch": network.arch,
        "weights": network.weights_sha256,
        "preprocessing": {
            key: value
            for key, value in network.preprocessing.to_dict().items()
            if key != "source" and (key, value) != ("scale", None)
        },
        **({"rules": found} if (found := rules(index)) else {}),
        **({"stages": network.stages} if network.stages > 1 else {}),
        **({"mirrored": True} if mirrored else {}),
        "device": machine.device,
        "precision": machine.precision,
        "fold_bn": machine.fold_bn,
        "threads": machine.threads,
        **({"tf32": False} if machine.device == "cuda" else {}),
        "versions": [torch.__version__, timm.__version__, PIL.__version__, np.__version__],
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for at in positions.tolist():
        digest.update(index.hash(at).encode())
    return f"{digest.hexdigest()}.npy"
