"""Shares of batches and rows, and messages between real processes."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.processes import scripts
from upcycle.world import ALONE, Part, Place, World

TALK = """
import json, sys
import numpy as np, torch
from upcycle.rendezvous import joined, place_in
import os
with joined(place_in(os.environ)) as world:
    rank, size = world.place.rank, world.size
    if rank == 0:
        world.tell("short", rate=0.1 + 0.2)
        world.tell("long", text="x" * 5000)
        heard = None
    else:
        heard = [world.hear(), len(world.hear()["text"])]
    said = world.reports("rank " + "é" * rank)
    tensors = [torch.full((2, 3), float(rank)), torch.full((4,), rank), torch.tensor(rank + 0.5)]
    world.sync(tensors)
    shares = world.rows(70, 32)
    rows = np.arange(140, dtype=np.float32).reshape(70, 2)[shares[rank]]
    whole = world.gather(rows, shares)
    numbers = torch.tensor([0.1, 1e8, -3e-7][:] , dtype=torch.float32) * (rank + 1) / 3
    sums = [world.add(numbers.clone(), pairwise=one).tolist() for one in (False, True)]
    right = bool((whole[:, 0] == np.arange(0, 140, 2)[: len(whole)]).all())
    print(json.dumps([heard, said, [one.tolist() for one in tensors], len(whole), right, sums]))
"""


@given(images=st.integers(0, 300), size=st.integers(1, 9))
def test_parts_of_a_batch_are_all_of_it_in_order(images: int, size: int) -> None:
    parts = [World(Place(rank, size, 0, 1)).part(images) for rank in range(size)]
    assert (0, images) == (parts[0].start, parts[-1].stop)
    assert all(one.stop == after.start for one, after in pairwise(parts))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(images=st.integers(1, 300), levels=st.integers(0, 3), more=st.integers(0, 2), shard=st.integers(1, 40))
def test_parts_in_shards_begin_where_shards_do(images: int, levels: int, more: int, shard: int) -> None:
    size, shards = 2**levels, 2 ** (levels + more)
    parts = [World(Place(rank, size, 0, 1)).part(images, shard=shard, shards=shards) for rank in range(size)]
    assert images == sum(map(len, parts))
    assert all(one.stop == after.start for one, after in pairwise(parts))
    assert all(part.start % shard == 0 or part.start == images for part in parts)


@given(total=st.integers(1, 500), size=st.integers(1, 9))
def test_rows_are_shared_in_whole_multiples_and_rank_0_has_some(total: int, size: int) -> None:
    shares = World(Place(0, size, 0, 1)).rows(total, 32)
    assert list(range(total)) == [row for share in shares for row in range(share.start, share.stop)]
    assert all(share.start % 32 == 0 or share.start == total for share in shares)
    assert shares[0].stop


def test_one_process_has_everything() -> None:
    assert Part(0, 7, 7) == ALONE.part(7)
    assert ALONE.alone
    assert not ALONE.follows


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_talk(size: int) -> None:
    found = [json.loads(text) for text in scripts(TALK, size)]
    for rank, (heard, said, tensors, rows, right, _) in enumerate(found):
        assert heard == (None if rank == 0 else [{"order": "short", "rate": 0.1 + 0.2}, 5000])
        assert ["rank " + "é" * one for one in range(size)] == said
        assert [[[0.0] * 3] * 2, [0] * 4, 0.5] == tensors
        assert rank or (rows, right) == (70, True)
    sums = [one[-1] for one in found]
    assert all(one == sums[0] for one in sums)
    assert sums[0][0] == pytest.approx(sums[0][1])


def test_a_process_that_is_gone_is_one_line() -> None:
    script = """
import os, signal, torch
from upcycle.errors import LostError
from upcycle.rendezvous import joined, place_in
with joined(place_in(os.environ)) as world:
    if world.follows:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        world.add(torch.ones(3), pairwise=False)
    except LostError as error:
        print(error)
"""
    (said,) = [text for text in scripts(script, 2, codes=(0, -9)) if text]
    assert said.startswith("another process of this training has gone (")
    assert said.strip().endswith("run the same command again with --resume")
