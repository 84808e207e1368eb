"""Logits of images: one fixed batch shape, so an image's logits do not depend on its company."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from upcycle.data.augment import Frames
from upcycle.data.batches import eval_batches
from upcycle.data.index import Index
from upcycle.data.preprocessing import Preprocessing
from upcycle.device import Hardware
from upcycle.evaluation.results import Predictions
from upcycle.model.folding import folded_once
from upcycle.model.network import Network
from upcycle.task import Logits

EVAL_BATCH = 32
"""Images a forward pass; part of the promise that predicting and evaluating agree to the bit."""
FETCHED = 16
"""Forward passes whose results are fetched together: each time an accelerator is waited for."""

_Positions = npt.NDArray[np.int64]
Output = Callable[[Tensor], Tensor]


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
    return forward(model, batches, progress=told)


def predictions(index: Index, positions: _Positions, logits: Logits) -> Predictions:
    """`logits` with the paths, labels and content hashes they belong to."""
    return Predictions(
        classes=index.classes,
        paths=tuple(index.path(int(at)) for at in positions),
        hashes=tuple(index.hash(int(at)) for at in positions),
        groups=tuple(index.group(int(at)) for at in positions),
        labels=index.labels[positions].astype(np.int64),
        logits=logits,
    )


_Item = TypeVar("_Item")


def chunks(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """Lists of `size` items, the last one shorter."""
    chunk: list[_Item] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
