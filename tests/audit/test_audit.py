from tests.data.made import made
from upcycle.audit.audit import leaks, warnings
from upcycle.data.splits import split


def test_copies_in_two_declared_splits_are_leaks() -> None:
    index = made("aabbab", contents=[0, 0, 2, 3, 0, 3], declared=["train", "train", "train", "val", "test", "test"])
    assert leaks(index, split(index, seed=0)) == [(0, 1, 4), (3, 5)]


def test_balanced_data_of_some_size_has_no_warnings() -> None:
    index = made("a" * 200 + "b" * 200)
    assert warnings(index, split(index, seed=0)) == []


def test_small_and_uneven_splits_are_warned_about() -> None:
    index = made("a" * 60 + "b" * 8)
    assert warnings(index, split(index, seed=0)) == [
        "the val split has only 10 images: its metrics are rough",
        "the test split has only 10 images: its metrics are rough",
        "class 'b' has only 6 images to train on",
        "the classes are uneven: 42 images of 'a' to train on, 6 of 'b' (see --class-weights)",
    ]


def test_a_declared_split_without_a_class_is_warned_about() -> None:
    index = made("ab" * 200 + "a" * 60, declared=["train", "train", "test", "test"] * 100 + ["val"] * 60)
    assert warnings(index, split(index, seed=0)) == ["the val split has no image of class 'b'"]


def test_duplicates_conflicts_and_leaks_are_named() -> None:
    contents = [*range(400)]
    for copy, of in ((4, 0), (1, 0), (6, 2), (12, 8), (20, 16), (399, 24)):
        contents[copy] = of
    index = made("ab" * 200, contents=contents, declared=["train"] * 240 + ["val"] * 80 + ["test"] * 80)
    assert warnings(index, split(index, seed=0)) == [
        "5 sets of byte-identical images: a/0000.jpg = b/0001.jpg = a/0004.jpg; a/0002.jpg = a/0006.jpg; "
        "a/0008.jpg = a/0012.jpg; and 2 more",
        "2 sets of byte-identical images with different labels: a/0000.jpg = b/0001.jpg = a/0004.jpg; "
        "a/0024.jpg = b/0399.jpg",
        "1 set of byte-identical images in more than one split: a/0024.jpg = b/0399.jpg",
    ]
