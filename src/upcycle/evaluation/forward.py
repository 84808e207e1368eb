"""Logits of images: one fixed batch shape, so an image's logits do not depend on its company."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from upcycle.data.augment import Frames
from upcycle.data.batches import eval_batches
from upcycle.data.folder import Index
from upcycle.data.preprocessing import Preprocessing
from upcycle.device import Hardware
from upcycle.evaluation.predictions import Predictions
from upcycle.model import zoo
from upcycle.model.folding import Kept, folded

EVAL_BATCH = 32
"""Images a forward pass; part of the promise that predicting and evaluating agree to the bit."""
FETCHED = 16
"""Forward passes whose results are fetched together: each time an accelerator is waited for."""

Positions = npt.NDArray[np.int64]
Logits = npt.NDArray[np.float32]
Output = Callable[[nn.Module, Tensor, Hardware], Tensor]


def forward(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, int]],
    machine: Hardware,
    *,
    output: Output = zoo.logits,
    progress: Callable[[int], None] | None = None,
) -> Logits:
    """`output` of every image, [n, outputs] fp32; batches come padded, with their number of images.

    `progress` is told of images that have been queued: an accelerator may still be at work on the last ones.
    """
    model.eval()
    kept: Kept = {}
    fetched: list[Logits] = []
    queued: list[Tensor] = []
    done = 0
    for images, count in batches:
        with torch.inference_mode(), folded(model, machine, kept):
            queued.append(output(model, images, machine)[:count].float())
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


def predict(
    model: nn.Module,
    frames: Frames,
    positions: Positions,
    *,
    preprocessing: Preprocessing,
    machine: Hardware,
    workers: int,
    progress: Callable[[int, int], None] | None = None,
) -> Logits:
    """Logits [n, outputs] of the images at `positions`."""
    batches = eval_batches(
        frames,
        positions,
        preprocessing=preprocessing,
        batch_size=EVAL_BATCH,
        device=machine.device,
        workers=workers,
    )
    told = None if progress is None else lambda done: progress(done, len(positions))
    return forward(model, batches, machine, progress=told)


def predictions(index: Index, positions: Positions, logits: Logits) -> Predictions:
    """`logits` with the paths, labels and content hashes they belong to."""
    return Predictions(
        classes=index.classes,
        paths=tuple(index.path(int(at)) for at in positions),
        hashes=tuple(index.hash(int(at)) for at in positions),
        groups=tuple(index.group(int(at)) for at in positions),
        labels=index.labels[positions].astype(np.int64),
        logits=logits,
    )


Item = TypeVar("Item")


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last one shorter."""
    chunk: list[Item] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
