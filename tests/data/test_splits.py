import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.made import made
from upcycle.audit.findings import Audited
from upcycle.data.index import Index, index_images
from upcycle.data.splits import Recorded, Splits, Units, changes, folds, read_splits, split, units, write_splits
from upcycle.errors import ConfigError, DataError, RunError

ASSETS = Path(__file__).parents[3] / "shared" / "assets" / "data"
NAMES = ("train", "val", "test")


def counts(index: Index, splits: Splits) -> dict[str, dict[str, int]]:
    return {name: index.take(splits.of(name)).class_counts() for name in NAMES}


def hashes(index: Index, positions: np.ndarray) -> list[str]:
    return sorted(index.hash(i) for i in positions)


def covers(index: Index, splits: Splits) -> bool:
    """Whether each image is in exactly one split, each split sorted."""
    parts = [splits.of(name).tolist() for name in NAMES]
    return sorted(i for part in parts for i in part) == list(range(len(index))) and parts == [
        sorted(part) for part in parts
    ]


def crossing(index: Index, parts: list[np.ndarray]) -> list[str]:
    """Groups and contents that are on more than one side."""
    sides: dict[str, set[int]] = {}
    for side, positions in enumerate(parts):
        for i in positions.tolist():
            for key in filter(None, (index.group(i), index.hash(i))):
                sides.setdefault(key, set()).add(side)
    return [key for key, found in sides.items() if len(found) > 1]


@st.composite
def indexes(draw: st.DrawFn) -> Index:
    """Up to 60 images of two or three classes, some in groups, some byte-identical, within and across classes."""
    n = draw(st.integers(6, 60))
    labels = draw(st.text("abc", min_size=n, max_size=n).filter(lambda text: len(set(text)) > 1))
    contents = draw(st.lists(st.integers(0, 3 * n), min_size=n, max_size=n))
    groups = draw(st.lists(st.sampled_from(["", "", "", *"pqrstuvw"]), min_size=n, max_size=n))
    return made(labels, contents=contents, groups=groups)


def test_what_is_missing_is_split_off_by_class() -> None:
    index = made("a" * 100 + "b" * 40)
    assert counts(index, split(index, seed=0)) == {
        "train": {"a": 70, "b": 28},
        "val": {"a": 15, "b": 6},
        "test": {"a": 15, "b": 6},
    }


def test_the_fractions_are_of_all_images_when_both_are_missing() -> None:
    index = made("a" * 100 + "b" * 100)
    splits = split(index, seed=0, val_fraction=0.2, test_fraction=0.5)
    assert counts(index, splits) == {
        "train": {"a": 30, "b": 30},
        "val": {"a": 20, "b": 20},
        "test": {"a": 50, "b": 50},
    }


def test_a_declared_test_set_is_kept_and_validation_comes_from_train() -> None:
    index = made("a" * 50 + "b" * 50, declared=(["train"] * 40 + ["test"] * 10) * 2)
    splits = split(index, seed=0)
    assert splits.test.tolist() == [*range(40, 50), *range(90, 100)]
    assert counts(index, splits)["val"] == {"a": 6, "b": 6}


def test_a_declared_validation_set_is_kept_and_test_comes_from_train() -> None:
    index = made("a" * 50 + "b" * 50, declared=(["train"] * 40 + ["val"] * 10) * 2)
    splits = split(index, seed=0)
    assert splits.val.tolist() == [*range(40, 50), *range(90, 100)]
    assert counts(index, splits)["test"] == {"a": 6, "b": 6}


def test_splits_that_are_all_declared_are_kept() -> None:
    index = made("ababab", declared=["train", "train", "val", "val", "test", "test"])
    splits = split(index, seed=0)
    assert [splits.of(name).tolist() for name in NAMES] == [[0, 1], [2, 3], [4, 5]]
    assert splits.train.dtype == np.int64


def test_what_is_missing_is_drawn_from_the_undeclared_images_where_there_are_some() -> None:
    index = made("ab" * 60, declared=["train"] * 40 + [""] * 80)
    splits = split(index, seed=0)
    assert counts(index, splits) == {name: {"a": n, "b": n} for name, n in (("train", 48), ("val", 6), ("test", 6))}
    assert set(range(40)) <= set(splits.train.tolist())


def test_few_undeclared_images_are_drawn_from_together_with_those_declared_train() -> None:
    index = made("ab" * 60, declared=["train"] * 99 + ["test"] * 20 + [""])
    assert {"a": 8, "b": 8} == counts(index, split(index, seed=0))["val"]


def test_an_undeclared_copy_of_an_image_declared_train_trains() -> None:
    index = made("ab" * 60, declared=["train"] * 40 + [""] * 80, contents=[*range(80), *range(40)])
    splits = split(index, seed=0)
    assert {*range(40), *range(80, 120)} <= set(splits.train.tolist())
    assert covers(index, splits)


def test_undeclared_images_join_the_split_of_their_group_and_of_their_copies() -> None:
    index = made(
        "aabbabab",
        declared=["test", "", "val", "", "", "", "train", "train"],
        groups=["p", "p", "", "", "", "", "", ""],
        contents=[0, 1, 2, 2, 4, 5, 6, 7],
    )
    splits = split(index, seed=0)
    assert [splits.of(name).tolist() for name in NAMES] == [[4, 5, 6, 7], [2, 3], [0, 1]]


def test_the_seed_decides() -> None:
    index = made("a" * 50 + "b" * 50)
    drawn = [split(index, seed=seed).test.tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


@given(order=st.permutations(range(30)))
@settings(max_examples=25, deadline=None)
def test_the_choice_depends_on_content_not_on_order_or_names(order: list[int]) -> None:
    labels, groups = "aabbb" * 6, ["", "p", "", "q", ""] * 6
    first = made(labels, groups=groups)
    second = made("".join(labels[i] for i in order), contents=order, groups=[groups[i] for i in order])
    one, other = split(first, seed=3), split(second, seed=3)
    assert [hashes(first, one.of(name)) for name in NAMES] == [hashes(second, other.of(name)) for name in NAMES]


def test_an_image_more_moves_few_others() -> None:
    index = made("a" * 100 + "b" * 100)
    more = made("a" * 100 + "b" * 101)
    before, after = (set(hashes(i, split(i, seed=0).train)) for i in (index, more))
    assert len(before - after) <= 2


@given(index=indexes(), seed=st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_groups_and_copies_are_never_on_two_sides(index: Index, seed: int) -> None:
    try:
        splits = split(index, seed=seed)
    except DataError:
        return
    assert covers(index, splits)
    assert crossing(index, [splits.of(name) for name in NAMES]) == []
    assert Audited(index, splits).across(index.duplicates()) == []


@given(sizes=st.lists(st.lists(st.integers(1, 12), min_size=3, max_size=12), min_size=2, max_size=4))
@settings(max_examples=100, deadline=None)
def test_three_groups_of_a_class_are_enough_for_every_split(sizes: list[list[int]]) -> None:
    groups = [
        (label, f"{label}{g}")
        for label, row in zip("abcd", sizes, strict=False)
        for g, n in enumerate(row)
        for _ in range(n)
    ]
    index = made("".join(label for label, _ in groups), groups=[group for _, group in groups])
    found = counts(index, split(index, seed=0))
    assert all(count > 0 for side in found.values() for count in side.values())


def test_the_share_of_a_class_is_as_near_as_its_groups_allow() -> None:
    index = made("a" * 100 + "b" * 100, groups=[f"g{i // 5}" for i in range(200)])
    assert counts(index, split(index, seed=0))["test"] == {"a": 15, "b": 15}


def test_groups_that_mix_classes_still_give_every_class_to_every_split() -> None:
    index = made("aaab" * 12, groups=[f"g{i // 4}" for i in range(48)])
    found = counts(index, split(index, seed=0))
    assert found == {
        "train": {"a": 24, "b": 8},
        "val": {"a": 6, "b": 2},
        "test": {"a": 6, "b": 2},
    }


@pytest.mark.parametrize("seed", range(8))
def test_a_rare_class_tied_to_a_common_one_still_reaches_every_split(seed: int) -> None:
    index = made("ab" * 3 + "a" * 60, groups=["p", "p", "q", "q", "r", "r", *[""] * 60])
    assert [side["b"] for side in counts(index, split(index, seed=seed)).values()] == [1, 1, 1]


def test_a_class_that_cannot_be_shared_out_is_an_error() -> None:
    with pytest.raises(DataError) as caught:
        split(made("a" * 20 + "bb"), seed=0)
    assert str(caught.value) == (
        "class 'b' cannot be shared out: 2 different images or groups for train, test, val, so test would have none; "
        "add images, use smaller groups, or put them into split folders yourself"
    )


def test_copies_count_as_one_image_when_a_class_is_shared_out() -> None:
    with pytest.raises(DataError, match="class 'b' cannot be shared out: 1 different"):
        split(made("a" * 20 + "bbb", contents=[*range(20), 20, 20, 20]), seed=0)


def test_without_a_test_fraction_all_images_train_or_validate() -> None:
    splits = split(made("ab" * 20), seed=0, test_fraction=0)
    assert (34, 6, 0) == (len(splits.train), len(splits.val), len(splits.test))
    assert ("val",) == splits.held_out
    two = split(made("aabb"), seed=0, test_fraction=0)
    assert (2, 2, 0) == (len(two.train), len(two.val), len(two.test))


def test_a_declared_test_set_is_used_without_a_test_fraction() -> None:
    splits = split(made("ab" * 10, declared=["test"] * 4 + [""] * 16), seed=0, test_fraction=0)
    assert [0, 1, 2, 3] == splits.test.tolist()
    assert ("val", "test") == splits.held_out


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ({"val_fraction": 0.0}, "val_fraction 0.0 is out of range: use more than 0, less than 1"),
        ({"test_fraction": 1.5}, "test_fraction 1.5 is out of range: use more than 0, less than 1"),
        (
            {"val_fraction": 0.5, "test_fraction": 0.5},
            "val_fraction and test_fraction leave nothing to train on: use less than 1 together",
        ),
    ],
)
def test_fractions_out_of_range_are_errors(fractions: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        split(made("ababab"), seed=0, **fractions)
    assert str(caught.value) == message


@given(index=indexes(), k=st.integers(2, 4), seed=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_each_image_is_tested_in_exactly_one_fold(index: Index, k: int, seed: int) -> None:
    try:
        made_folds = folds(index, k=k, seed=seed)
    except DataError:
        return
    tested = Counter(i for fold in made_folds for i in fold.test.tolist())
    assert tested == dict.fromkeys(range(len(index)), 1)
    for fold in made_folds:
        assert covers(index, fold)
        assert crossing(index, [fold.of(name) for name in NAMES]) == []


def test_folds_are_stratified_and_even() -> None:
    index = made("a" * 50 + "b" * 21)
    found = [counts(index, fold) for fold in folds(index, k=5, seed=0)]
    assert [fold["test"]["a"] for fold in found] == [10] * 5
    assert sorted(fold["test"]["b"] for fold in found) == [4, 4, 4, 4, 5]
    assert [fold["val"]["a"] for fold in found] == [6] * 5


def test_folds_are_even_in_images_where_groups_differ_in_size() -> None:
    index = made("a" * 14 + "b" * 12, groups=[*"pppppqqqqrrrss", *[""] * 12])
    assert [counts(index, fold)["test"] for fold in folds(index, k=2, seed=0)] == [{"a": 7, "b": 6}] * 2


def test_what_cannot_be_divided_goes_to_different_folds() -> None:
    index = made("a" * 5 + "b" * 5)
    assert [len(fold.test) for fold in folds(index, k=2, seed=0)] == [5, 5]


def test_more_folds_than_images_of_a_class_are_an_error() -> None:
    with pytest.raises(
        DataError, match="class 'b' cannot be shared out: 4 different images or groups for 0, 1, 2, 3, 4,"
    ):
        folds(made("a" * 20 + "bbbb"), k=5, seed=0)


def test_one_fold_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"^folds 1 is out of range: use 2 at least$"):
        folds(made("abab"), k=1, seed=0)


@pytest.mark.skipif(not ASSETS.exists(), reason="needs ../shared/assets")
def test_the_copies_among_real_photos_stay_on_one_side() -> None:
    index = index_images(ASSETS / "flowers5")
    splits = split(index, seed=0)
    assert covers(index, splits)
    assert len(index.duplicates()) == 6
    assert Audited(index, splits).across(index.duplicates()) == []


def test_groups_on_several_declared_sides_are_drawn_again_where_asked() -> None:
    groups = [f"p{at // 3}" for at in range(60)]
    index = made("ab" * 30, groups=groups, declared=["train", "val", "test"] * 20)
    assert crossing(index, [split(index, seed=0).of(name) for name in NAMES])
    drawn = split(index, seed=0, regroup=True)
    assert [] == crossing(index, [drawn.of(name) for name in NAMES])
    assert covers(index, drawn)
    assert all(len(drawn.of(name)) for name in NAMES)


def test_groups_on_one_declared_side_stay_there_when_others_are_drawn_again() -> None:
    groups = ["p", "p", *map(str, range(18))]
    index = made("ab" * 10, groups=groups, declared=["train", "test", *["train"] * 10, *["val"] * 4, *["test"] * 4])
    drawn = split(index, seed=0, regroup=True)
    assert [list(range(12)), [12, 13, 14, 15], [16, 17, 18, 19]] == [drawn.of(name).tolist() for name in NAMES]


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


def test_splits_are_written_and_read_whatever_the_names(tmp_path: Path) -> None:
    odd = ["a/,.jpg", 'a/".jpg', "a/new\nline.jpg", "a/re\rturn.jpg", "b/ü ß.jpg", "b/''.jpg"]
    index = replace(made("aaaabb", declared=["train", "val", "test"] * 2), paths=pa.array(odd))
    index = replace(index, groups=pa.array(["", "p,q", "", "\n", "", "x"]))
    write_splits(tmp_path / "splits.csv", index, split(index, seed=0))
    rows = read_splits(tmp_path / "splits.csv")
    assert [row.path for row in rows] == odd
    assert [row.group for row in rows] == ["", "p,q", "", "\n", "", "x"]
    assert rows[1] == Recorded('a/".jpg', "a", "val", "p,q", index.hash(1))


@pytest.mark.parametrize(
    "content", ["", "path,label\n", "path,label,split,group,sha256\na,b\n", 'path,label,split,group,sha256\n"a']
)
def test_a_damaged_splits_file_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "splits.csv").write_text(content)
    with pytest.raises(RunError, match=r"splits.csv (is no splits file|cannot be read): .+"):
        read_splits(tmp_path / "splits.csv")


def test_a_missing_splits_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"splits.csv is missing$"):
        read_splits(tmp_path / "splits.csv")


def test_what_changed_is_counted_by_kind() -> None:
    rows = [Recorded(f"{name}.jpg", "a", "train", "", name * 64) for name in "abcd"]
    now = [rows[0]._replace(label="b"), rows[1]._replace(sha256="f" * 64, split="val"), rows[2]]
    now.append(Recorded("e\n.jpg", "a", "train", "", "e" * 64))
    now.append(Recorded("f.jpg", "a", "train", "", "f" * 64))
    assert (
        "1 gone: d.jpg, 2 new: e\\n.jpg, ..., 1 of other content: b.jpg, 1 of another class: a.jpg, "
        "1 in another split: b.jpg"
    ) == changes(rows, now)
    assert "" == changes(rows, rows)
