"""Features of the frozen network, computed once for all images and kept in the cache folder."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL
import timm
import torch
from torch import nn

from upcycle.data.augment import Frames
from upcycle.data.batches import eval_batches
from upcycle.data.folder import Index
from upcycle.device import Machine, autocast
from upcycle.errors import StorageError, WeightsError
from upcycle.evaluation.predict import EVAL_BATCH, forward, outputs
from upcycle.model import zoo
from upcycle.rundir import replacing

VERSION = 1


def extract(
    model: nn.Module,
    index: Index,
    frames: Frames,
    *,
    network: zoo.Network,
    machine: Machine,
    folder: Path,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> npt.NDArray[np.float32]:
    """Un-augmented features [n, D] of every image of `index`, by the frozen `model`: a memory map.

    Kept in `folder` under a key of everything they depend on: images, weights, preprocessing,
    precision, threads and versions. A file that cannot be read is computed again; where there is no
    room the features are computed once more and held in memory.
    """
    path = folder / "features" / f"{_key(index, network, machine)}.npy"
    kept = _read(path, len(index))
    if kept is not None:
        return kept

    def batches() -> Iterator[npt.NDArray[np.float32]]:
        everything = np.arange(len(index), dtype=np.int64)
        padded = eval_batches(
            frames,
            everything,
            preprocessing=network.preprocessing,
            batch_size=EVAL_BATCH,
            device=machine.device,
            prefetch=2 * workers,
            workers=workers,
        )
        told = None if progress is None else lambda done: progress(done, len(index))
        for rows in outputs(model, padded, machine, output=_features, progress=told):
            if not np.isfinite(rows).all():
                raise WeightsError(
                    f"weights from {network.weights_source} give features that are not finite: use others"
                )
            yield rows

    try:
        _write(path, batches(), len(index))
    except StorageError:
        return np.concatenate(list(batches()))
    written = _read(path, len(index))
    return written if written is not None else np.concatenate(list(batches()))


def _write(path: Path, batches: Iterator[npt.NDArray[np.float32]], images: int) -> None:
    """Write the rows as one .npy file while they are computed."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        for number, rows in enumerate(batches):
            if number == 0:
                facts = {"descr": "<f4", "fortran_order": False, "shape": (images, rows.shape[1])}
                np.lib.format.write_array_header_1_0(file, facts)
            file.write(np.ascontiguousarray(rows, "<f4").data)


def head_logits(
    model: nn.Module, features: npt.NDArray[np.float32], positions: npt.NDArray[np.int64], machine: Machine
) -> npt.NDArray[np.float32]:
    """Logits [n, outputs] from the `features` [N, D] at `positions` [n]: to the bit what the whole network gives."""

    def batches() -> Iterator[tuple[torch.Tensor, int]]:
        for start in range(0, len(positions), EVAL_BATCH):
            some = torch.from_numpy(features[positions[start : start + EVAL_BATCH]])
            padded = torch.nn.functional.pad(some, (0, 0, 0, EVAL_BATCH - len(some)))
            yield padded.to(machine.device), len(some)

    return forward(model, batches(), machine, output=lambda model, some, _: model.get_classifier()(some))  # type: ignore[operator]


def _features(model: nn.Module, images: torch.Tensor, machine: Machine) -> torch.Tensor:
    with autocast(machine):
        return zoo.features(model, images)


def _read(path: Path, images: int) -> npt.NDArray[np.float32] | None:
    """The memory map of a whole file of so many rows; None for any other."""
    try:
        features = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if features.dtype != np.float32 or features.ndim != 2 or len(features) != images:
        return None
    whole = all(np.isfinite(features[start : start + 4096]).all() for start in range(0, images, 4096))
    return features if whole else None


def _key(index: Index, network: zoo.Network, machine: Machine) -> str:
    facts = {
        "version": VERSION,
        "arch": network.arch,
        "weights": network.weights_sha256,
        "preprocessing": {key: value for key, value in network.preprocessing.to_dict().items() if key != "source"},
        "device": machine.device,
        "precision": machine.precision,
        "threads": machine.threads,
        "versions": [torch.__version__, timm.__version__, PIL.__version__, np.__version__],
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for at in range(len(index)):
        digest.update(index.hash(at).encode())
    return digest.hexdigest()
