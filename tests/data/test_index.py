import csv
import errno
import hashlib
import io
import os
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.data.made import made
from upcycle.audit.findings import Audited
from upcycle.data import decode, isolation
from upcycle.data.formats import FORMATS, Format
from upcycle.data.index import Index, in_order, index_images
from upcycle.data.listing import Layout, Quarantined, Unusable
from upcycle.errors import DataError, UpcycleError

ASSETS = Path(__file__).parents[3] / "shared" / "assets" / "data"


def picture(shade: int, size: tuple[int, int] = (4, 3), kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("L", size, shade).save(buffer, kind)
    return buffer.getvalue()


def written(root: Path, files: dict[str, bytes]) -> Path:
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def numbered(*paths: str) -> dict[str, bytes]:
    """A different picture for each path."""
    return {path: picture(shade) for shade, path in enumerate(paths)}


FLAT = numbered("ants/1.png", "ants/2.png", "bees/1.png", "bees/2.png")


def manifest(root: Path, rows: list[dict[str, str]], name: str = "list.csv") -> Path:
    with (root / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return root / name


def paths(index: Index) -> list[str]:
    return [index.path(i) for i in range(len(index))]


def problem(data: Path, test_split: str | None = None) -> str:
    """The message, which must be one line, with the data's own folder cut out."""
    with pytest.raises(DataError) as caught:
        index_images(data, Layout(test_split=test_split))
    message = str(caught.value)
    assert message.isprintable()
    return message.replace(str(data), "DATA").replace(str(data.parent), "..")


def test_class_folders_give_labels_hashes_and_sizes(tmp_path: Path) -> None:
    index = index_images(written(tmp_path, FLAT))
    assert paths(index) == ["ants/1.png", "ants/2.png", "bees/1.png", "bees/2.png"]
    assert index.classes == ("ants", "bees")
    assert index.labels.tolist() == [0, 0, 1, 1]
    assert index.labels.dtype == np.int32
    assert index.declared.tolist() == ["", "", "", ""]
    assert index.groups.to_pylist() == ["", "", "", ""]
    assert index.widths.tolist() == [4, 4, 4, 4]
    assert index.heights.tolist() == [3, 3, 3, 3]
    assert index.hash(2) == hashlib.sha256(FLAT["bees/1.png"]).hexdigest()
    assert index.label(2) == "bees"
    assert index.file(2) == tmp_path / "bees/1.png"
    assert index.class_counts() == {"ants": 2, "bees": 2}
    assert index.quarantined == ()


def test_split_folders_are_declared_under_their_common_spellings(tmp_path: Path) -> None:
    files = numbered(
        "Training/a/1.png",
        "Training/b/1.png",
        "valid/a/1.png",
        "valid/b/1.png",
        "test/a/1.png",
        "test/b/1.png",
    )
    index = index_images(written(tmp_path, files))
    assert index.declared.tolist() == ["train", "train", "test", "test", "val", "val"]
    assert index.classes == ("a", "b")


def test_val_and_test_may_be_missing(tmp_path: Path) -> None:
    index = index_images(written(tmp_path, {f"train/{path}": content for path, content in FLAT.items()}))
    assert index.declared.tolist() == ["train"] * 4


def test_a_folder_called_train_that_holds_images_is_a_class(tmp_path: Path) -> None:
    index = index_images(written(tmp_path, numbered("train/1.png", "train/2.png", "bus/1.png", "bus/2.png")))
    assert index.classes == ("bus", "train")


@pytest.mark.parametrize("names", [("test", "train"), ("test1", "train"), ("Train", "test", "val")])
def test_split_folders_without_class_folders_are_no_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    message = problem(written(tmp_path, numbered(*(f"{name}/{at}.png" for name in names for at in (1, 2)))))
    listed = " and ".join(sorted(names))
    assert message == (
        f"DATA has images in {listed} but no class folders in them: put them into {max(names)}/CLASS/, "
        "or list them with their labels in a CSV manifest, or give --classes-at 1 if these are the classes"
    )


def test_any_folder_can_be_declared_the_test_set(tmp_path: Path) -> None:
    files = numbered("train/a/1.png", "train/b/1.png", "val/a/1.png", "val/b/1.png")
    assert index_images(written(tmp_path, files), Layout(test_split="val")).declared.tolist() == [
        "train",
        "train",
        "test",
        "test",
    ]


def test_a_folder_of_another_name_can_be_declared_the_test_set(tmp_path: Path) -> None:
    files = numbered("train/a/1.png", "train/b/1.png", "2019/a/1.png", "2019/b/1.png")
    assert index_images(written(tmp_path, files), Layout(test_split="2019")).declared.tolist() == [
        "test",
        "test",
        "train",
        "train",
    ]


def test_a_test_split_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    message = problem(written(tmp_path, FLAT), test_split="val")
    assert message == "--test-split val: there is no DATA/val with class folders"


def test_two_test_sets_are_an_error(tmp_path: Path) -> None:
    files = numbered("train/a/1.png", "train/b/1.png", "val/a/1.png", "test/a/1.png")
    message = problem(written(tmp_path, files), test_split="val")
    assert message == "--test-split val: DATA has a test folder already; use that"


def test_deeper_folders_count_for_their_class(tmp_path: Path) -> None:
    index = index_images(written(tmp_path, numbered("a/2019/x/1.png", "a/2.png", "b/1.png", "b/2.png")))
    assert index.class_counts() == {"a": 2, "b": 2}


def test_endings_count_in_any_case_and_other_files_are_ignored(tmp_path: Path) -> None:
    files = FLAT | {
        "ants/.hidden.png": b"",
        ".git/x/1.png": b"",
        "ants/notes.txt": b"",
        "bees/3.JPeG": picture(9),
    }
    assert index_images(written(tmp_path, files)).class_counts() == {"ants": 2, "bees": 3}


def test_pictures_that_are_not_read_are_told(tmp_path: Path) -> None:
    files = FLAT | {
        "ants/photo.jfif": picture(8, (9, 9), "JPEG"),
        "ants/phone.JXL": b"whatever",
        "ants/scan.dcm": b"whatever",
        "ants/x.png?w=200": picture(5),
        "ants/renamed.txt": picture(7),
        "ants/bare": picture(6, (9, 9), "WEBP"),
        "ants/notes.txt": b"about ants",
        "cover.jxl": b"in no class folder",
    }
    index = index_images(written(tmp_path, files))
    assert {"ants": 6, "bees": 2} == index.class_counts()  # by their content
    assert {
        "ants/phone.JXL": "unsupported image format .jxl: convert it to JPEG or PNG",
        "ants/scan.dcm": "unsupported file extension .dcm: convert it to JPEG or PNG",
    } == {file.path: file.reason for file in index.quarantined}


@pytest.mark.parametrize(
    "format", [format for format in FORMATS if format.name != "HEIC"], ids=lambda format: format.name
)
def test_every_format_is_read(tmp_path: Path, format: Format) -> None:
    kind, endings = format.pillow[0], format.endings
    files = {f"{name}/{i}{endings[i % len(endings)]}": picture(i, (7, 5), kind) for name in "ab" for i in range(2)}
    index = index_images(written(tmp_path, files))
    assert set(index.formats.tolist()) == {format.name.encode()}
    assert (index.widths.tolist(), index.heights.tolist()) == ([7] * 4, [5] * 4)


def test_odd_names_survive(tmp_path: Path) -> None:
    names = ["a b/ü.png", "a b/new\nline.png", 'ß,"/,.png', "ß,\"/'.png"]
    assert paths(index_images(written(tmp_path, numbered(*names)))) == sorted(names)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_a_name_that_is_not_utf8_is_quarantined(tmp_path: Path) -> None:
    written(tmp_path, FLAT)
    (tmp_path / "ants" / os.fsdecode(b"\xff.png")).write_bytes(picture(9))
    assert index_images(tmp_path).quarantined == (Quarantined(r"ants/\udcff.png", "its name is not UTF-8: rename it"),)


def test_what_cannot_be_read_is_quarantined_with_its_reason(tmp_path: Path) -> None:
    bad = {
        "ants/cut.jpg": picture(1, kind="JPEG")[:20],
        "ants/empty.png": b"",
        "bees/text.jpg": b"hello",
        "stray.png": picture(3),
    }
    index = index_images(written(tmp_path, FLAT | bad))
    assert paths(index) == sorted(FLAT)
    assert [file.path for file in index.quarantined] == sorted(bad)
    assert [file.reason for file in index.quarantined] == [
        "its header cannot be read: damaged, cut short or of an unknown kind",
        "empty file (zero bytes)",
        "not a JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF, JPEG 2000, PNM or HEIC image",
        "is not in a class folder",
    ]


@pytest.mark.skipif(os.name == "nt", reason="paths are short on Windows")
def test_folders_may_lie_deep(tmp_path: Path) -> None:
    root = written(tmp_path / "data", {f"{label}/1.png": picture(7) for label in ("ants", "bees")})
    deep = root / "bees" / "/".join("d" * 1200)
    subprocess.run(["mkdir", "-p", deep], check=True)  # pathlib recurses
    (deep / "2.png").write_bytes(picture(8))
    try:
        assert index_images(root, trainable=False).class_counts() == {"ants": 1, "bees": 2}
    finally:
        subprocess.run(["rm", "-r", root], check=True)  # shutil recurses, and so would the clean-up of tmp_path


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_to_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    written(tmp_path, {f"real/{path}": content for path, content in FLAT.items()})
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in ("ants", "bees"):
        (linked / name).symlink_to(tmp_path / "real" / name)
    (tmp_path / "real" / "ants" / "circle").symlink_to(tmp_path / "real" / "ants")
    (linked / "ants" / "gone.png").symlink_to("nowhere")
    index = index_images(linked)
    assert paths(index) == sorted(FLAT)
    assert index.quarantined == (Quarantined("ants/gone.png", "a broken link, or not a regular file"),)


def test_byte_identical_images_are_found_within_and_across_classes(tmp_path: Path) -> None:
    same, other = picture(7), picture(8)
    files = {"a/1.png": same, "a/2.png": other, "a/3.png": other, "b/1.png": same, "b/2.png": picture(9)}
    index = index_images(written(tmp_path, files))
    assert index.duplicates() == [(0, 3), (1, 2)]
    assert Audited(index).of_several_classes(index.duplicates()) == [(0, 3)]


@given(st.lists(st.integers(0, 5), min_size=2, max_size=12))
def test_duplicates_are_the_images_of_equal_bytes(contents: list[int]) -> None:
    index = made("ab" * len(contents), contents=contents * 2)
    same = [tuple(at for at, other in enumerate(contents * 2) if other == one) for one in set(contents)]
    assert index.duplicates() == sorted(same)


def test_images_that_fail_later_move_to_the_quarantine(tmp_path: Path) -> None:
    index = index_images(written(tmp_path, FLAT | numbered("ants/0.png", "bees/0.png")))
    left = index.without({4: Unusable("damaged"), 0: Unusable("torn", "truncated")})
    assert paths(left) == ["ants/1.png", "ants/2.png", "bees/0.png", "bees/2.png"]
    assert left.labels.tolist() == [0, 0, 1, 1]
    assert left.quarantined == (Quarantined("ants/0.png", "torn"), Quarantined("bees/1.png", "damaged"))
    assert [file.kind for file in left.quarantined] == ["truncated", "unreadable"]


def test_a_class_that_loses_its_images_later_is_an_error(tmp_path: Path) -> None:
    index = index_images(written(tmp_path, FLAT))
    with pytest.raises(DataError, match=r"class 'ants' in .* has one usable image"):
        index.without({0: Unusable("torn")})


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    assert problem(tmp_path / "no") == "DATA does not exist: give a folder of images or a manifest"


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    message = problem(tmp_path)
    assert message == "no images in DATA (it is empty); expected DATA/CLASS/*.jpg and the like"


def test_a_shortage_of_the_system_is_not_held_against_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(path: Path) -> tuple[str, decode.Header]:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(isolation.DECODERS, "header", short)
    with pytest.raises(
        UpcycleError, match="cannot be read now .*Too many open files.*: run again, with fewer --threads"
    ):
        index_images(written(tmp_path, FLAT))


def test_a_folder_without_images_says_what_is_there(tmp_path: Path) -> None:
    message = problem(written(tmp_path, {"a/1.csv": b"", "a/2.csv": b"", "README": b""}))
    assert message.startswith("no images in DATA (1 without an ending, 2 .csv); expected")
    message = problem(written(tmp_path, {"a/1.jxl": b"", "a/2.jxl": b""}))
    assert message.endswith("a/1.jxl: unsupported image format .jxl: convert it to JPEG or PNG")


def test_a_folder_of_bad_images_says_why(tmp_path: Path) -> None:
    message = problem(written(tmp_path, {"a/1.png": b"", "b/1.png": b""}))
    assert message == "none of the 2 images in DATA can be used; the first, a/1.png: empty file (zero bytes)"


def test_images_outside_class_folders_are_not_used(tmp_path: Path) -> None:
    message = problem(written(tmp_path, numbered("1.png", "2.png")))
    assert message == "none of the 2 images in DATA can be used; the first, 1.png: is not in a class folder"


def test_one_class_is_an_error(tmp_path: Path) -> None:
    message = problem(written(tmp_path, numbered("a/1.png", "a/2.png")))
    assert message == "only one class, 'a', in DATA: two are needed at least"


@pytest.mark.parametrize(
    ("content", "said", "also"),
    [
        (picture(5), "one usable image", ""),
        (b"", "no usable image (its one file: empty file)", ", or give --drop-empty-classes"),
    ],
)
def test_a_class_with_less_than_two_images_is_an_error(tmp_path: Path, content: bytes, said: str, also: str) -> None:
    message = problem(written(tmp_path, FLAT | {"wasps\nx/1.png": content}))
    expected = rf"class 'wasps\\nx' in DATA has {said}: add some, or remove the class{also}"
    assert message == expected


def test_a_class_that_train_lacks_is_an_error(tmp_path: Path) -> None:
    files = numbered("train/a/1.png", "train/b/1.png", "val/a/1.png", "val/b/1.png", "val/c/1.png", "val/c/2.png")
    message = problem(written(tmp_path, files))
    assert message == "class 'c' of the val split has no usable image in train, in DATA"


def test_split_folders_without_train_are_an_error(tmp_path: Path) -> None:
    message = problem(written(tmp_path, {f"test/{path}": content for path, content in FLAT.items()}))
    assert message == "no images in the training split of DATA: put some in train/CLASS/"


def test_a_csv_manifest_gives_labels_splits_and_groups(tmp_path: Path) -> None:
    root = written(tmp_path / "lists", numbered("x/1.png", "x/2.png", "x/new\nline, ü.png"))
    outside = written(tmp_path, numbered("far.png")) / "far.png"
    rows = [
        {"path": "x/2.png", "label": "a", "split": "training", "group": "p1"},
        {"path": str(root / "x/1.png"), "label": "b", "split": "", "group": ""},
        {"path": "x/new\nline, ü.png", "label": "b", "split": "Valid", "group": "p2"},
        {"path": str(outside), "label": "a", "split": "test", "group": "p1"},
    ]
    index = index_images(manifest(root, rows))
    assert paths(index) == [str(outside), "x/1.png", "x/2.png", "x/new\nline, ü.png"]
    assert [index.label(i) for i in range(4)] == ["a", "b", "a", "b"]
    assert index.declared.tolist() == ["test", "", "train", "val"]
    assert [index.group(i) for i in range(4)] == ["p1", "", "p1", "p2"]
    assert index.file(0) == outside
    assert index.root == root


def test_a_parquet_manifest_is_read_too(tmp_path: Path) -> None:
    written(tmp_path, numbered("1.png", "2.png", "3.png", "4.png"))
    table = pa.table({"path": [f"{i}.png" for i in range(1, 5)], "label": [0, 1, 0, 1], "group": ["g", None, "g", "h"]})
    pq.write_table(table, tmp_path / "list.parquet")
    index = index_images(tmp_path / "list.parquet")
    assert index.classes == ("0", "1")
    assert index.groups.to_pylist() == ["g", "", "g", "h"]


def test_missing_files_of_a_manifest_are_quarantined(tmp_path: Path) -> None:
    written(tmp_path, FLAT)
    rows = [{"path": path, "label": path[:4]} for path in [*FLAT, "ants/9.png"]]
    assert index_images(manifest(tmp_path, rows)).quarantined == (Quarantined("ants/9.png", "no such file"),)


def test_a_split_value_of_a_manifest_can_be_declared_the_test_set(tmp_path: Path) -> None:
    written(tmp_path, FLAT)
    rows = [{"path": path, "label": path[:4], "split": "train" if "1" in path else "fold3"} for path in FLAT]
    assert index_images(manifest(tmp_path, rows), Layout(test_split="fold3")).declared.tolist() == ["train", "test"] * 2


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (("train", "val", "val", "test"), "--test-split val: DATA has rows of the split test already; use that"),
        (("train", "test", "test", "test"), "--test-split val: no row of DATA has that split"),
        (("train", "Val", "val", "test"), "--test-split val: DATA has rows of the split test already; use that"),
    ],
)
def test_a_manifest_has_one_test_set(tmp_path: Path, splits: tuple[str, ...], message: str) -> None:
    rows = [{"path": path, "label": path[:4], "split": name} for path, name in zip(FLAT, splits, strict=True)]
    assert problem(manifest(tmp_path, rows), test_split="val") == message


def test_the_test_split_may_be_spelled_as_splits_are(tmp_path: Path) -> None:
    written(tmp_path, FLAT)
    rows = [{"path": path, "label": path[:4], "split": "train" if "1" in path else "Test "} for path in FLAT]
    assert index_images(manifest(tmp_path, rows), Layout(test_split="test")).declared.tolist() == ["train", "test"] * 2


def test_the_index_that_pandas_writes_is_left_alone(tmp_path: Path) -> None:
    written(tmp_path, FLAT)
    lines = [",path,label", *(f"{at},{path},{path[:4]}" for at, path in enumerate(FLAT))]
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert len(index_images(tmp_path / "list.csv")) == 4


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"file": "a", "label": "b"}],
            "has no column 'path' (it has: file, label); needed are path and label; or give --path-column file",
        ),
        (
            [{"path": "a", "label": "b", "split": "dev"}],
            "row 1: split 'dev' is none of train, val, test and empty: "
            "give --train-split, --val-split or --test-split dev",
        ),
        ([{"path": "a", "label": ""}], "row 1: path and label must not be empty"),
        ([{"path": "a", "label": "b"}, {"path": "./a", "label": "c"}], "row 2: a is listed twice"),
    ],
)
def test_a_bad_manifest_is_an_error(tmp_path: Path, rows: list[dict[str, str]], message: str) -> None:
    assert problem(manifest(tmp_path, rows)) in (f"DATA {message}", f"DATA, {message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"path,label\na.png\n", "DATA, line 2: not as many values as columns"),
        (b"path,label\na.png,b,c\n", "DATA, line 2: not as many values as columns"),
        (
            b"path,label\n\xff,a\n",
            "DATA is not a readable CSV file in UTF-8: 'utf-8' codec can't decode byte 0xff",
        ),
        (b'path,label\n"a,b\n', "DATA is not a readable CSV file in UTF-8: unexpected end of data"),
        (b"", "DATA has no column 'path' (it has: none); needed are path and label"),
        (b"path,label\n", "DATA lists no images"),
    ],
)
def test_a_damaged_csv_manifest_is_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    file = written(tmp_path, {"list.csv": content}) / "list.csv"
    assert problem(file).startswith(message)


def test_a_damaged_parquet_manifest_is_an_error(tmp_path: Path) -> None:
    file = written(tmp_path, {"list.parquet": b"PAR1"}) / "list.parquet"
    assert problem(file).startswith("DATA is not a readable Parquet file: ")


def test_another_file_is_no_manifest(tmp_path: Path) -> None:
    file = written(tmp_path, {"list.xlsx": b""}) / "list.xlsx"
    assert problem(file) == "DATA is neither a folder nor a .csv or .parquet manifest"


def test_progress_counts_to_the_end(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    index_images(written(tmp_path, FLAT), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (4, 4)


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_order(threads: int) -> None:
    assert list(in_order(lambda i: i * i, range(100), threads=threads)) == [i * i for i in range(100)]


def test_an_error_in_a_thread_reaches_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda i: 1 // (i - 50), range(100), threads=2))


def test_little_is_computed_ahead_of_what_is_used() -> None:
    computed: list[int] = []
    results = in_order(computed.append, range(10_000), threads=2)
    next(results)
    results.close()
    assert len(computed) < 100


@pytest.mark.skipif(not ASSETS.exists(), reason="needs ../shared/assets")
def test_the_duplicates_and_label_conflicts_of_real_photos_are_found() -> None:
    index = index_images(ASSETS / "flowers5")
    assert len(index) == 4317
    assert [len(run) for run in index.duplicates()] == [2] * 6
    conflicts = Audited(index).of_several_classes(index.duplicates())
    assert {index.label(i) for run in conflicts for i in run} >= {"rose", "tulip"}
    assert len(conflicts) == 4
