"""Photos in tars and in Parquet files: where they are, their classes and splits, and files that mean harm."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.conftest import draw
from upcycle.audit.checks import run_checks
from upcycle.audit.findings import Audited
from upcycle.data import archives
from upcycle.data.archives import expand
from upcycle.data.decode import load_image
from upcycle.data.index import Index, index_images
from upcycle.data.listing import Layout
from upcycle.data.preprocessing import Preprocessing
from upcycle.data.splits import split
from upcycle.errors import DataError

DECODING = Preprocessing(size=32).decoding


def png(kind: int, number: int) -> bytes:
    buffer = io.BytesIO()
    draw(kind, number).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes], *, kind: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def samples(start: int = 0, count: int = 6) -> dict[str, bytes]:
    """Photos with their classes beside, as WebDataset has them."""
    found: dict[str, bytes] = {}
    for at in range(start, start + count):
        found[f"{at:06d}.png"] = png(at % 2, at)
        found[f"{at:06d}.cls"] = str(at % 2).encode()
    return found


def read(index: Index, tmp_path: Path) -> list[bytes]:
    return [index.file(at).read_bytes() for at in range(len(index))]


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_members_of_a_tar_are_photos_with_their_classes(kind: int, tmp_path: Path) -> None:
    long = f"{'x' * 90}/{'y' * 60}"
    members = {**samples(), f"{long}.png": png(0, 50), f"{long}.json": json.dumps({"label": 1}).encode()}
    index = index_images(write_tar(tmp_path / "photos.tar", members, kind=kind))
    assert ("0", "1") == index.classes
    assert [members[index.path(at).partition("/")[2]] for at in range(7)] == read(index, tmp_path)
    assert [0, 1] * 3 + [1] == index.labels.tolist()
    first = next(at for at in range(7) if index.path(at).endswith("/000000.png"))
    assert f"photos.tar#000000000512+{len(png(0, 0))}/000000.png" == index.path(first)


def test_shards_by_a_pattern_or_a_folder_and_their_splits(tmp_path: Path) -> None:
    for number in range(3):
        write_tar(tmp_path / "shards" / f"train-{number:03d}.tar", samples(10 * number))
    write_tar(tmp_path / "shards" / "test-000.tar", samples(90, 4))
    whole = index_images(tmp_path / "shards")
    assert 22 == len(whole)
    assert {"train": 18, "test": 4} == {name: (whole.declared == name).sum() for name in ("train", "test")}
    some = index_images(tmp_path / "shards" / "train-{000..001}.tar")
    assert 12 == len(some)
    asked = index_images(tmp_path / "shards", Layout(val_split="test"))
    assert 4 == (asked.declared == "val").sum()


def test_classes_of_folders_in_a_tar(tmp_path: Path) -> None:
    members = {f"{name}/{at}.png": png(kind, at) for kind, name in enumerate(("cat", "dog")) for at in range(3)}
    assert ("cat", "dog") == index_images(write_tar(tmp_path / "a.tar", members)).classes


def test_headers_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "a.tar", samples())
    memory = tmp_path / "cache" / "scans"
    first = index_images(path, memory=memory)

    def never(*_: object) -> Any:
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(archives, "_read_tar", never)
        assert read(first, tmp_path) == read(index_images(path, memory=memory), tmp_path)
    write_tar(path, samples(20, 8))
    assert 8 == len(index_images(path, memory=memory))


def test_members_that_mean_harm_are_photos_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "harm.tar"
    with tarfile.open(path, "w") as tar:
        for name, content in {
            **samples(),
            "../../outside.png": png(0, 70),
            "../../outside.cls": b"0",
            "/etc/absolute.png": png(1, 71),
            "/etc/absolute.cls": b"1",
            "empty.png": b"",
            "empty.cls": b"0",
            "none.png": png(0, 72),
            "huge.cls": b"9" * 100_000,
            "bad.json": b"{",
        }.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for name, kind in (("link.png", tarfile.SYMTYPE), ("hard.png", tarfile.LNKTYPE), ("dir.png", tarfile.DIRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        for content in (png(0, 80), png(1, 81)):  # twice the same name
            info = tarfile.TarInfo("twice.png")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    index = index_images(path, trainable=False)
    names = [index.path(at).partition("/")[2] for at in range(len(index))]
    assert 8 == len(names)
    assert "../../outside.png" in names
    assert not any("link" in name or "hard" in name or "dir" in name for name in names)
    reasons = {file.path.partition("/")[2]: file.reason for file in index.quarantined}
    assert "has no label" == reasons["none.png"] == reasons["twice.png"]
    assert "empty file (zero bytes)" == reasons["empty.png"]
    assert not (tmp_path.parent / "outside.png").exists()


def test_the_name_of_a_member_leads_to_no_other_file(tmp_path: Path) -> None:
    """One that looks like a place in a tar of its own is still read where it is."""
    write_tar(tmp_path / "secret.tar", {"a.png": png(1, 90)})
    names = ["x/../secret.tar/a.png", "secret.tar#512+80/a.png", "../secret.tar/secret.tar#512+80/b.png"]
    members = {name: png(0, at) for at, name in enumerate(names)}
    index = index_images(write_tar(tmp_path / "in" / "harm.tar", members), trainable=False)
    assert sorted(members.values()) == sorted(read(index, tmp_path))


def test_a_member_whose_name_is_not_utf8_is_left_out(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {**samples(), "\udcff.png": png(0, 30), "\udcff.cls": b"0"})
    index = index_images(path)
    assert 6 == len(index)
    assert ["its name is not UTF-8: rename it"] == [file.reason for file in index.quarantined]


@pytest.mark.parametrize("size", ["99999999999999999999999", "-5", "1e5", "9223372036854775000"])
def test_a_size_that_cannot_be_is_no_traceback(size: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in samples().items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.pax_headers = {"size": size} if name == "000003.png" else {}
            tar.addfile(info, io.BytesIO(content))
    with pytest.raises(DataError, match=r"^[^\n]+$"):
        index_images(path)


def test_members_have_the_ending_of_their_format(tmp_path: Path) -> None:
    index = index_images(write_tar(tmp_path / "a.tar", samples()))
    assert not [one for one in run_checks(Audited(index, split(index, seed=0))) if one.kind == "wrong-ending"]


@pytest.mark.parametrize("cut", [100, 700, 1500])
def test_a_tar_that_is_cut_short_is_no_traceback(cut: int, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", samples())
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"^[^\n]+$"):
        index_images(path)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.tar.gz", b"", "is compressed, so that no photo in it can be read by itself: unpack it to .tar"),
        ("a.tar", b"no tar at all" * 100, "is no tar that can be read"),
        ("a-{000..999999}.tar", None, "names 1,000,000 files: give from one to 100,000"),
        ("b-{5..4}.tar", None, "names 0 files: give from one to 100,000"),
        ("gone.tar", None, "does not exist: give a tar that does"),
    ],
)
def test_what_is_no_tar_is_one_line(name: str, content: bytes | None, expected: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        index_images(tmp_path / name)
    assert expected in str(error.value)


def test_a_pattern_keeps_its_zeros() -> None:
    assert ["a-08.tar", "a-09.tar", "a-10.tar"] == [path.name for path in expand(Path("a-{08..10}.tar"))]


# ---------------------------------------------------------------- Parquet


def write_parquet(path: Path, count: int, *, names: bool = True, label: str = "label", groups: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": png(at % 2, at + 7 * count), "path": f"{at}.png"} for at in range(count)]
    table = pa.table({"image": images, label: pa.array([at % 2 for at in range(count)], pa.int64())})
    if names:
        info = {"info": {"features": {label: {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    parquet.write_table(table, path, row_group_size=groups)
    return path


def test_rows_of_a_parquet_file_are_photos(tmp_path: Path) -> None:
    index = index_images(write_parquet(tmp_path / "train.parquet", 10))
    assert ("cat", "dog") == index.classes
    assert 10 == len(index)
    where = [index.path(at) for at in range(10)]
    at = where.index("train.parquet#7")
    assert png(1, 77) == index.file(at).read_bytes()
    assert "dog" == index.label(at)
    assert np.array_equal(load_image(index.file(at), DECODING), load_image(png(1, 77), DECODING))


def test_shards_of_a_dataset_of_the_hub(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", 6)
    write_parquet(tmp_path / "data" / "train-00001-of-00002.parquet", 8)
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", 4)
    (tmp_path / "README.md").write_text("a card")
    index = index_images(tmp_path)
    assert {"train": 14, "test": 4} == {name: (index.declared == name).sum() for name in ("train", "test")}
    assert ("0", "1") == index_images(write_parquet(tmp_path / "plain.parquet", 5, names=False)).classes


def test_a_parquet_file_without_classes_says_which_columns_it_has(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", 4, label="animal")
    with pytest.raises(DataError, match=r"has no column of classes \(it has: image, animal\): give --label-column"):
        index_images(path)
    assert ("cat", "dog") == index_images(path, Layout(columns={"label": "animal"})).classes


def test_rows_without_a_photo_or_a_class_are_left_out(tmp_path: Path) -> None:
    images = [{"bytes": png(at % 2, at), "path": None} for at in range(6)]
    images[1], images[2] = None, {"bytes": None, "path": "elsewhere.png"}  # type: ignore[call-overload]
    table = pa.table({"image": images, "label": ["a", "b", "a", "b", None, "b"]})
    parquet.write_table(table, tmp_path / "a.parquet")
    index = index_images(tmp_path / "a.parquet", trainable=False)
    assert ["a.parquet#0", "a.parquet#3", "a.parquet#5"] == [index.path(at) for at in range(3)]
    assert {"a.parquet#1", "a.parquet#2", "a.parquet#4"} == {file.path for file in index.quarantined}


def test_a_manifest_in_parquet_is_still_one(tmp_path: Path) -> None:
    draw(0, 1).save(tmp_path / "1.png")
    draw(1, 2).save(tmp_path / "2.png")
    parquet.write_table(pa.table({"path": ["1.png", "2.png"], "label": ["a", "b"]}), tmp_path / "list.parquet")
    assert 2 == len(index_images(tmp_path / "list.parquet", trainable=False))
