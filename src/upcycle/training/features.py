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

from upcycle.data.batches import eval_batches
from upcycle.data.cache import Cache
from upcycle.data.folder import Index
from upcycle.device import Machine, autocast
from upcycle.errors import StorageError, WeightsError
from upcycle.evaluation.predict import EVAL_BATCH, forward
from upcycle.model import zoo
from upcycle.rundir import replacing

VERSION = 1


def extract(
    model: nn.Module,
    index: Index,
    cache: Cache,
    *,
    network: zoo.Network,
    machine: Machine,
    folder: Path,
    progress: Callable[[int, int], None] | None = None,
) -> npt.NDArray[np.float32]:
    """Un-augmented features [n, D] of every image of `index`, by the frozen `model`.

    Kept in `folder` under a key of everything they depend on: images, weights, preprocessing,
    precision, threads and versions. A file that cannot be read is computed again; where there is no
    room the features are used without being kept.
    """
    path = folder / "features" / f"{_key(index, network, machine)}.npy"
    kept = _read(path, len(index))
    if kept is not None:
        return kept
    everything = np.arange(len(index), dtype=np.int64)
    batches = eval_batches(
        cache, everything, preprocessing=network.preprocessing, batch_size=EVAL_BATCH, device=machine.device
    )
    told = None if progress is None else lambda done: progress(done, len(index))
    features = forward(model, batches, machine, output=_features, progress=told)
    if not np.isfinite(features).all():
        raise WeightsError(f"weights from {network.weights_source} give features that are not finite: use others")
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.save(file, features)
    except StorageError:
        return features
    return features


def head_logits(model: nn.Module, features: npt.NDArray[np.float32], machine: Machine) -> npt.NDArray[np.float32]:
    """Logits [n, outputs] of images from their features [n, D]: to the bit what the whole network gives."""

    def batches() -> Iterator[tuple[torch.Tensor, int]]:
        for start in range(0, len(features), EVAL_BATCH):
            some = torch.from_numpy(features[start : start + EVAL_BATCH])
            padded = torch.nn.functional.pad(some, (0, 0, 0, EVAL_BATCH - len(some)))
            yield padded.to(machine.device), len(some)

    return forward(model, batches(), machine, output=lambda model, some, _: model.get_classifier()(some))  # type: ignore[operator]


def _features(model: nn.Module, images: torch.Tensor, machine: Machine) -> torch.Tensor:
    with autocast(machine):
        return zoo.features(model, images)


def _read(path: Path, images: int) -> npt.NDArray[np.float32] | None:
    try:
        features = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    whole = features.dtype == np.float32 and features.ndim == 2 and len(features) == images
    return features if whole and np.isfinite(features).all() else None


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
