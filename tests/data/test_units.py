import tracemalloc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.data.made import made
from upcycle.data.splits import split
from upcycle.data.units import Units, units


def members(found: Units) -> list[list[int]]:
    return [found.positions[begin:end].tolist() for begin, end in zip(found.starts, found.starts[1:], strict=False)]


def test_chains_of_groups_and_copies_are_one_unit() -> None:
    index = made("aabba", contents=[0, 1, 1, 3, 4], groups=["p", "p", "", "", ""])
    assert sorted(map(sorted, members(units(index, np.arange(5), seed=0)))) == [[0, 1, 2], [3], [4]]


def test_only_images_of_the_pool_are_in_units() -> None:
    index = made("aabb", contents=[0, 0, 0, 3])
    assert sorted(map(sorted, members(units(index, np.array([1, 2, 3]), seed=0)))) == [[1, 2], [3]]


def test_an_empty_pool_has_no_units() -> None:
    found = units(made("ab"), np.empty(0, np.int64), seed=0)
    assert len(found) == 0
    assert found.rarest_first() == []


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 6)), min_size=1, max_size=30))
def test_the_columns_agree_with_each_other(images: list[tuple[str, int]]) -> None:
    index = made("".join(label for label, _ in images), contents=[content for _, content in images])
    found = units(index, np.arange(len(index)), seed=1)
    for label in range(len(index.classes)):
        holders, holding = found.of_class(label)
        counted = [index.labels[unit].tolist().count(label) for unit in members(found)]
        assert holders.tolist() == [at for at, count in enumerate(counted) if count]
        assert holding.tolist() == [count for count in counted if count]
    chosen = np.arange(0, len(found), 2)
    kept = sorted(image for unit in members(found)[::2] for image in unit)
    assert found.images(chosen).tolist() == kept
    assert found.tally(chosen).tolist() == np.bincount(index.labels[kept], minlength=len(index.classes)).tolist()
    assert members(found.take(chosen)) == members(found)[::2]


def test_splitting_costs_few_bytes_an_image() -> None:
    index = made("ab" * 10_000)
    tracemalloc.start()
    try:
        split(index, seed=0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak / len(index) < 350
