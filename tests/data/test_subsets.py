import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.data.made import made
from upcycle.data.subsets import nested


def test_every_smaller_part_lies_within_the_next_and_classes_keep_their_shares() -> None:
    index = made("a" * 300 + "b" * 100)
    small, large = nested(index, np.arange(400), [40, 200], seed=3)
    assert (40, 200) == (len(small), len(large))
    assert set(small) <= set(large)
    assert [30, 10] == np.bincount(index.labels[small]).tolist()
    assert [150, 50] == np.bincount(index.labels[large]).tolist()


def test_a_rare_class_has_an_image_in_the_smallest_part() -> None:
    index = made("a" * 300 + "b" * 2)
    (small,) = nested(index, np.arange(302), [20], seed=0)
    assert 1 == int((index.labels[small] == 1).sum())


@given(st.lists(st.integers(0, 9), min_size=12, max_size=60), st.integers(1, 60), st.integers(0, 5))
def test_groups_are_whole_in_every_part(groups: list[int], size: int, seed: int) -> None:
    names = [f"g{number}" for number in groups]
    index = made("ab" * (len(names) // 2) + "a" * (len(names) % 2), groups=names)
    (part,) = nested(index, np.arange(len(names)), [size], seed=seed)
    inside = {names[at] for at in part}
    assert len(part) == sum(name in inside for name in names) > 0


def test_the_choice_depends_on_the_content_and_the_seed_not_on_the_order() -> None:
    index = made("ab" * 50)
    turned = index.take(np.arange(100)[::-1].copy())
    (one,), (two,) = (nested(some, np.arange(100), [20], seed=1) for some in (index, turned))
    assert set(index.hashes[one]) == set(turned.hashes[two])
    (other,) = nested(index, np.arange(100), [20], seed=2)
    assert set(one) != set(other)
