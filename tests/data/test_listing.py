from pathlib import Path

import pytest

from tests.data.test_index import FLAT, numbered, paths, problem, written
from upcycle.data.index import Index, index_images
from upcycle.data.listing import Layout, Unusable
from upcycle.errors import ConfigError, DataError

CLASSES = ("a", "b")


def folders(*names: str, classes: tuple[str, ...] = CLASSES) -> dict[str, bytes]:
    """Two images of each class below each of `names`."""
    return numbered(*(f"{name}/{label}/{at}.png" for name in names for label in classes for at in (1, 2)))


def declared(index: Index) -> dict[str, str]:
    """The side of the first part of each path."""
    return dict(zip((path.split("/")[0] for path in paths(index)), index.declared.tolist(), strict=True))


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (("seg_train", "seg_test"), "--train-split seg_train --test-split seg_test"),
        (("train_images", "test_images"), "--train-split train_images --test-split test_images"),
        (("TrainSet", "ValSet"), "--train-split TrainSet --val-split ValSet"),
        (("trainset", "testdata", "extra"), "--train-split trainset --test-split testdata"),
        (("dev", "holdout"), "--val-split dev --test-split holdout"),
        (
            ("seg_train/seg_train", "seg_test/seg_test"),
            "--train-split seg_train/seg_train --test-split seg_test/seg_test",
        ),
    ],
)
def test_folders_that_are_named_like_splits_are_not_taken_for_classes(
    tmp_path: Path, names: tuple[str, ...], options: str
) -> None:
    message = problem(written(tmp_path, folders(*names)))
    assert f"look like a split, not like classes: give {options}, or --classes-at 1 if they are the classes" in message


@pytest.mark.parametrize("names", [("siteA", "siteB"), ("color", "grayscale"), ("fold0", "fold1", "fold2")])
def test_folders_that_hold_the_same_folders_are_not_taken_for_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    message = problem(written(tmp_path, folders(*names)))
    assert message == (
        f"DATA: {', '.join(names)} each hold the folders a, b, so which are the classes? Give --classes-at 2 for a, b, "
        f"--classes-at 1 for {names[0]}, {names[1]}{' and 1 more' * (len(names) - 2)}, "
        f"or --train-split {names[0]} --test-split {names[-1]}"
    )


def test_nearly_the_same_folders_count_as_the_same(tmp_path: Path) -> None:
    files = folders("siteA", classes=("cat", "dog", "fox")) | folders("siteB", classes=("Cat", "dog "))
    assert "which are the classes?" in problem(written(tmp_path, files))


def test_folders_that_differ_are_parts_of_classes(tmp_path: Path) -> None:
    files = folders("cats", classes=("tabby", "siamese")) | folders("dogs", classes=("pug", "boxer"))
    assert index_images(written(tmp_path, files)).class_counts() == {"cats": 4, "dogs": 4}


def test_the_classes_may_be_at_a_level(tmp_path: Path) -> None:
    root = written(tmp_path, folders("siteA", "siteB"))
    assert index_images(root, Layout(classes_at=1)).class_counts() == {"siteA": 4, "siteB": 4}
    assert index_images(root, Layout(classes_at=2)).class_counts() == {"a": 4, "b": 4}


def test_a_level_keeps_the_split_above_it(tmp_path: Path) -> None:
    index = index_images(written(tmp_path, folders("train/x", "train/y", "test/x")), Layout(classes_at=3))
    assert index.class_counts() == {"a": 6, "b": 6}
    assert declared(index) == {"train": "train", "test": "test"}


def test_splits_may_have_any_name_or_path(tmp_path: Path) -> None:
    root = written(tmp_path, folders("seg_train/seg_train", "seg_test", "dev"))
    layout = Layout(train_split="seg_train/seg_train", val_split="dev", test_split="seg_test")
    assert declared(index_images(root, layout)) == {"seg_train": "train", "dev": "val", "seg_test": "test"}


def test_a_split_that_is_named_must_be_there_and_be_one(tmp_path: Path) -> None:
    root = written(tmp_path, folders("train", "val"))
    with pytest.raises(DataError, match=r"^--val-split dev: there is no .*dev with class folders$"):
        index_images(root, Layout(val_split="dev"))
    with pytest.raises(DataError, match=r"^--train-split val: .* has a train folder already; use that$"):
        index_images(root, Layout(train_split="val"))
    with pytest.raises(ConfigError, match=r"^val cannot be two splits"):
        index_images(root, Layout(val_split="val", test_split="val"))


@pytest.mark.parametrize("inner", ["photos", "images", "x/y"])
def test_one_folder_around_the_classes_is_pointed_out(tmp_path: Path, inner: str) -> None:
    message = problem(written(tmp_path, folders(inner) | {"labels.csv": b"", "README": b""}))
    first = inner.split("/")[0]
    assert message == (
        f"DATA has one folder around the class folders: give DATA/{inner} (or --classes-at 1 if {first} is a class)"
    )


def test_one_folder_around_the_splits_is_pointed_out(tmp_path: Path) -> None:
    assert "give DATA/photos (or" in problem(written(tmp_path, folders("photos/train", "photos/val")))


def test_one_folder_around_the_classes_of_a_split_is_pointed_out(tmp_path: Path) -> None:
    message = problem(written(tmp_path, folders("train/images", "val/images")))
    assert message == (
        "DATA/train has one folder around the class folders: give --train-split train/images, or move them up"
    )


@pytest.mark.parametrize("name", ["dev", "eval", "holdout", "set2"])
def test_another_split_beside_train_is_not_ignored(tmp_path: Path, name: str) -> None:
    assert problem(written(tmp_path, folders("train", name))) == (
        f"DATA has {name} beside train, which looks like another split: "
        f"give --val-split {name}, --test-split {name}, or --classes-at 1 if both are classes, or move it elsewhere"
    )


def test_other_folders_beside_a_whole_split_are_listed(tmp_path: Path) -> None:
    index = index_images(written(tmp_path, folders("train", "val", "test", "holdout")))
    assert {file.path.split("/")[0] for file in index.quarantined} == {"holdout"}


def test_split_folders_below_the_classes_are_told_to_be_flattened(tmp_path: Path) -> None:
    index = index_images(written(tmp_path, folders("cats", "dogs", classes=("train", "test"))))
    assert index.class_counts() == {"cats": 4, "dogs": 4}
    assert index.notes == (
        "the folders test, train below cats, dogs are not taken for a split: "
        "put the split above the classes, as in test/CLASS/",
    )


@pytest.mark.parametrize("content", [{"val/a/x.heic": b"ftypheic"}, {"val/a/1.png": b"", "val/b/1.png": b""}])
def test_a_declared_split_without_usable_images_is_an_error(tmp_path: Path, content: dict[str, bytes]) -> None:
    message = problem(written(tmp_path, folders("train") | content))
    assert message.startswith("the val split of DATA has no usable image (")
    assert message.endswith("mend its files, or remove it to have one drawn")


def test_a_declared_split_of_empty_class_folders_is_an_error(tmp_path: Path) -> None:
    root = written(tmp_path, folders("train"))
    for label in CLASSES:
        (root / "val" / label).mkdir(parents=True)
    assert "the val split of DATA has no usable image (its folder is empty)" in problem(root)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("c/1.jxl", "its one file: unsupported image format .jxl"),
        ("c/1.npy", "its one file: unsupported file extension .npy"),
        ("c/sub/1", "its one file: no file extension, and its content is no supported image format"),
        ("c/1.jpg", "its one file: not a JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF, JPEG 2000, PNM or HEIC image"),
    ],
)
def test_a_class_that_loses_all_its_files_is_an_error(tmp_path: Path, name: str, said: str) -> None:
    root = written(tmp_path, FLAT | {name: b"whatever it is"})
    message = problem(root)
    assert message.startswith(f"class 'c' in DATA has no usable image ({said}")
    assert message.endswith("or give --drop-empty-classes")
    index = index_images(root, Layout(drop_empty_classes=True))
    assert index.classes == ("ants", "bees")
    assert index.class_counts() == {"ants": 2, "bees": 2}
    assert index.notes[0].startswith(f"class 'c' is dropped: {said}")


def test_an_empty_class_folder_is_an_error(tmp_path: Path) -> None:
    root = written(tmp_path, FLAT)
    (root / "c").mkdir()
    assert problem(root).startswith("class 'c' in DATA has no usable image (its folder is empty)")
    assert index_images(root, Layout(drop_empty_classes=True)).classes == ("ants", "bees")


def test_a_class_that_is_dropped_first_keeps_the_others_labels(tmp_path: Path) -> None:
    index = index_images(written(tmp_path, FLAT | {"a/1.jxl": b"x"}), Layout(drop_empty_classes=True))
    assert [index.label(at) for at in range(4)] == ["ants", "ants", "bees", "bees"]
    assert index.without({0: Unusable("damaged"), 1: Unusable("damaged")}, trainable=False).class_counts() == {
        "bees": 2
    }


def test_one_class_that_is_left_says_where_the_others_went(tmp_path: Path) -> None:
    root = written(tmp_path, numbered("a/1.png", "a/2.png") | {"b/1.jxl": b"x"})
    with pytest.raises(DataError, match=r"only one class, 'a', .* class 'b' is dropped: its one file: unsupported"):
        index_images(root, Layout(drop_empty_classes=True))


def test_a_folder_of_texts_is_no_class_and_told(tmp_path: Path) -> None:
    index = index_images(written(tmp_path, FLAT | {"annotations/1.xml": b"<a/>", "__MACOSX/ants/1.png": b""}))
    assert index.classes == ("ants", "bees")
    assert index.notes == ("the folder annotations holds no images (1 .xml) and is no class",)


def test_names_that_differ_in_blanks_or_unicode_form_are_one_class(tmp_path: Path) -> None:
    files = numbered("cat/1.png", "cat /2.png", "caf\u00e9/1.png", "cafe\u0301/2.png")
    index = index_images(written(tmp_path, files))
    assert index.class_counts() == {"caf\u00e9": 2, "cat": 2}
    assert index.notes == (
        "'cafe\\u0301' and 'caf\u00e9' differ in blanks or in Unicode's form alone: taken as one class, 'caf\u00e9'",
        "'cat' and 'cat ' differ in blanks or in Unicode's form alone: taken as one class, 'cat'",
    )


def test_names_that_differ_by_case_are_told(tmp_path: Path) -> None:
    index = index_images(written(tmp_path, numbered("cat/1.png", "cat/2.png", "Cat/1.png", "Cat/2.png")))
    assert index.classes == ("Cat", "cat")
    assert index.notes == (
        "the classes 'Cat' and 'cat' differ by case or by what is hardly seen: "
        "give them one name if they are one class",
    )


def test_files_that_are_recognized_by_content_are_told(tmp_path: Path) -> None:
    picture = FLAT["ants/1.png"]
    index = index_images(written(tmp_path, FLAT | {"c/1": picture, "c/x.jpg_large": picture, "c/y.png?w=200": picture}))
    assert index.class_counts()["c"] == 3
    assert index.notes == ("class 'c' holds 3 files with no usable ending, recognized by content",)


def test_options_of_manifests_are_refused_for_folders(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--split-column is for a manifest, and .* is a folder: leave it out$"):
        index_images(written(tmp_path, FLAT), Layout(columns={"split": "none"}))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("images_part_1/1.png", "images_part_2/1.png"), "look like parts of one set, not like classes"),
        (("images_001/images/1.png", "images_002/images/1.png"), "look like parts of one set, not like classes"),
        (("images/1.png", "annotations/trimaps/1.png"), "annotations, images are kinds of picture, not classes"),
        (("JPEGImages/1.png", "SegmentationClass/1.png"), "are kinds of picture, not classes"),
        (
            ("yes/1.png", "no/1.png", "brain/yes/1.png", "brain/no/1.png"),
            "brain holds folders named as those beside it",
        ),
        (("seg_train/seg_train/a/1.png", "seg_train/seg_train/b/1.png", "seg_pred/1.png"), "look like a split"),
        (
            ("dataset/a/1.png", "dataset/b/1.png", "figures/1.png"),
            "one folder around the class folders: give DATA/dataset",
        ),
        (("siteA/a/1.png", "siteA/b/1.png", "siteB/a/1.png", "siteC/b/1.png"), "which are the classes?"),
        (
            ("COVID/images/1.png", "COVID/masks/1.png", "ok/images/1.png", "ok/masks/1.png"),
            "which are kinds of picture",
        ),
    ],
)
def test_folders_of_sets_as_they_are_handed_out_are_not_taken_for_classes(
    tmp_path: Path, names: tuple[str, ...], said: str
) -> None:
    assert said in problem(written(tmp_path, numbered(*names)))


@pytest.mark.parametrize(
    "names",
    [
        ("class_1", "class_2"),
        ("train", "bus", "plane"),
        ("bullet_train", "tram"),
        ("test", "control"),
        ("images", "text"),
        ("set", "other"),
    ],
)
def test_plain_classes_are_classes_whatever_their_names(tmp_path: Path, names: tuple[str, ...]) -> None:
    files = numbered(*(f"{name}/{at}.png" for name in names for at in (1, 2)))
    index = index_images(written(tmp_path, files))
    assert sorted(names) == list(index.classes)
    assert index.notes == ()


def test_flat_images_beside_a_split_are_listed(tmp_path: Path) -> None:
    index = index_images(written(tmp_path, folders("Train") | numbered("Test/1.png", "test-multiple/1.png")))
    assert {"Test/1.png", "test-multiple/1.png"} == {file.path for file in index.quarantined}


def test_all_images_below_folders_of_a_class_are_told(tmp_path: Path) -> None:
    files = folders("fruit", classes=("apple", "pear")) | folders("veg", classes=("leek", "kale"))
    assert index_images(written(tmp_path, files)).notes == (
        "the folders apple, kale, leek and 1 more below fruit, veg are taken as parts of these classes: "
        "give --classes-at 2 if they are the classes",
    )


@pytest.mark.parametrize("name", [".", "", "/x", "../x"])
def test_a_split_outside_data_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="give the name of a folder below DATA"):
        index_images(written(tmp_path, folders("a", "te")), Layout(train_split=name))


def test_names_that_look_the_same_are_told(tmp_path: Path) -> None:
    index = index_images(written(tmp_path, numbered("1/1.png", "1/2.png", "1.0/1.png", "1.0/2.png")))
    assert index.notes == (
        "the classes '1' and '1.0' differ by case or by what is hardly seen: give them one name if they are one class",
    )
