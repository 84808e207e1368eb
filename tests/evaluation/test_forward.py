"""Forward passes over many batches: every image's row once, in order, and few waits for an accelerator."""

import numpy as np
import pytest
import torch
from torch import nn

from upcycle.device import Hardware
from upcycle.evaluation import forward

CPU = Hardware("cpu", "fp32", 1, 1, "a processor", (), None, 8.0)


def padded(counts: list[int]) -> list[tuple[torch.Tensor, int]]:
    """Batches of four numbers, counted up; of each the first so many are real."""
    starts = [sum(counts[:at]) for at in range(len(counts))]
    return [
        (torch.arange(start, start + 4).float()[:, None], count) for start, count in zip(starts, counts, strict=True)
    ]


@pytest.mark.parametrize("batches", [1, forward.FETCHED - 1, forward.FETCHED, 2 * forward.FETCHED + 3])
def test_every_image_has_its_row_in_order_and_padding_has_none(batches: int) -> None:
    counts = [4] * (batches - 1) + [1]
    rows = forward.forward(nn.Identity(), padded(counts), CPU, output=lambda model, images, _: 10 * model(images))
    assert np.float32 == rows.dtype
    np.testing.assert_array_equal(10 * np.arange(sum(counts), dtype=np.float32)[:, None], rows)


def test_results_are_fetched_many_batches_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[int] = []
    plain = forward._fetch
    monkeypatch.setattr(forward, "_fetch", lambda queued: (fetched.append(len(queued)), plain(queued))[1])
    forward.forward(nn.Identity(), padded([4] * 40), CPU, output=lambda model, images, _: model(images))
    assert [16, 16, 8] == fetched


def test_progress_is_told_of_every_batch() -> None:
    told: list[int] = []
    forward.forward(
        nn.Identity(), padded([4, 4, 2]), CPU, output=lambda model, images, _: model(images), progress=told.append
    )
    assert [4, 8, 10] == told
