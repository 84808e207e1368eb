"""What a photo costs in memory, so that a million fit: at most a kilobyte each, beside a constant."""

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.data.made import made
from upcycle.audit.findings import Audited
from upcycle.audit.statistics import RECORD, near_duplicates
from upcycle.data.dataset import Dataset
from upcycle.data.found import Found
from upcycle.data.frames import Cache
from upcycle.data.index import Index, index_of
from upcycle.data.index_file import index_from_bytes, index_to_bytes
from upcycle.data.listing import Layout, ListedFile, Listing
from upcycle.data.preprocessing import Preprocessing
from upcycle.data.splits import read_splits, split, write_splits
from upcycle.evaluation.forward import predictions
from upcycle.evaluation.results import read_predictions
from upcycle.jobs.prepare import audit_dataset

MANY = 20_000
MOST = 1000
"""Bytes a photo."""


def bytes_a_photo(work: Callable[[], Any]) -> float:
    """The most that is held at once, per photo, by Python, numpy and Arrow."""
    arrow = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        work()
        return (tracemalloc.get_traced_memory()[1] + pa.total_allocated_bytes() - arrow) / MANY
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def many() -> Index:
    index = made("abcdefghij" * (MANY // 10))
    names = [f"{path[0] * 8}/part-{at // 1000:03}/IMG_{at:08}.jpg" for at, path in enumerate(index.paths.to_pylist())]
    return replace(index, paths=pa.array(names))


def test_an_index_of_listed_files(many: Index) -> None:
    paths = many.paths.to_pylist()

    def work() -> Index:
        rows = [ListedFile(f"{path}", many.classes[at % 10], "", "") for at, path in enumerate(paths)]
        listing = Listing(many.root, Layout(), rows, [], classes=frozenset(many.classes))
        found = Found(many.hashes.copy(), many.widths.copy(), many.heights.copy(), many.formats.copy())
        return index_of(listing, found)

    assert bytes_a_photo(work) < MOST


def test_an_index_as_bytes(many: Index) -> None:
    assert bytes_a_photo(lambda: index_from_bytes(index_to_bytes(many))) < MOST


def test_a_split_written_and_read(many: Index, tmp_path: Path) -> None:
    splits = split(many, seed=0)
    write_splits(tmp_path / "splits.csv", many, splits)
    assert bytes_a_photo(lambda: write_splits(tmp_path / "splits.csv", many, split(many, seed=0))) < MOST
    assert bytes_a_photo(lambda: read_splits(tmp_path / "splits.csv")) < MOST


def test_the_audit_of_a_run(many: Index) -> None:
    empty = np.zeros(MANY, np.int64)
    frames = Cache(
        np.zeros(0, np.uint8), empty, np.zeros((MANY, 2), np.int32), empty.astype(np.uint32), Path("none"), empty > 0
    )
    data = Dataset(many, frames, Preprocessing(), split(many, seed=0))
    assert bytes_a_photo(lambda: audit_dataset(data)) < MOST


def test_near_duplicates(many: Index) -> None:
    random = np.random.default_rng(0)

    def work() -> None:
        statistics = np.zeros(MANY, RECORD)
        statistics["contrast"] = 60
        statistics["pixels"] = many.hashes.astype("S32")
        statistics["perceptual"] = random.integers(0, 2**63, MANY, dtype=np.uint64)
        near_duplicates(Audited(many, statistics=statistics).statistics)

    assert bytes_a_photo(work) < MOST


def test_predictions_written_and_read(many: Index, tmp_path: Path) -> None:
    logits = np.random.default_rng(0).normal(size=(MANY, 10)).astype(np.float32)
    predictions(many, np.arange(MANY), logits).save(tmp_path / "test.csv")
    assert bytes_a_photo(lambda: predictions(many, np.arange(MANY), logits)) < MOST
    assert bytes_a_photo(lambda: read_predictions(tmp_path / "test.csv")) < MOST
