"""The Hub's folders of images: lists of file names beside the photos."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.conftest import draw
from upcycle.data.index import index_images
from upcycle.errors import DataError

ROWS = [{"file_name": f"{at}.png", "label": "ab"[at % 2]} for at in range(6)]


def photos(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for at in range(6):
        draw(at % 2, at + len(str(folder))).save(folder / f"{at}.png")
    return folder


def write(folder: Path, kind: str, rows: list[dict[str, str]] = ROWS) -> None:
    if kind == "csv":
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
        (folder / "metadata.csv").write_text("\n".join(lines))
    elif kind == "jsonl":
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    else:
        parquet.write_table(pa.Table.from_pylist(rows), folder / "metadata.parquet")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_list_beside_the_photos_has_their_classes(kind: str, tmp_path: Path) -> None:
    write(photos(tmp_path / "hub"), kind)
    index = index_images(tmp_path / "hub")
    assert ("a", "b") == index.classes
    assert [f"{at}.png" for at in range(6)] == [index.path(at) for at in range(6)]
    assert [0, 1] * 3 == index.labels.tolist()


def test_a_list_for_each_split(tmp_path: Path) -> None:
    write(photos(tmp_path / "train"), "csv")
    write(photos(tmp_path / "validation"), "jsonl")
    index = index_images(tmp_path)
    assert ["train"] * 6 + ["val"] * 6 == index.declared.tolist()
    assert "validation/0.png" == index.path(6)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "a/../../secret.png"])
def test_a_name_that_leads_out_of_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    write(photos(tmp_path / "hub"), "csv", [*ROWS, {"file_name": name, "label": "a"}])
    draw(0, 99).save(tmp_path / "secret.png")
    (tmp_path / "hub" / "a").mkdir()
    with pytest.raises(DataError, match="leads out of the folder: mend its list"):
        index_images(tmp_path / "hub")


def test_a_list_without_file_names_is_one_line(tmp_path: Path) -> None:
    write(photos(tmp_path / "hub"), "csv", [{"id": "1", "label": "a"}])
    with pytest.raises(DataError, match=r"has no such column"):
        index_images(tmp_path / "hub")


def test_lines_that_are_no_objects_are_one_line(tmp_path: Path) -> None:
    (photos(tmp_path / "hub") / "metadata.jsonl").write_text("[1, 2]\n")
    with pytest.raises(DataError, match="is not a readable file of JSON lines"):
        index_images(tmp_path / "hub")


def in_classes(root: Path) -> Path:
    for name in "ab":
        photos(root / name)
    return root


@pytest.mark.parametrize("stray", ["photos.tar", "a/backup.tar", "table.parquet"])
def test_a_stray_archive_beside_class_folders_is_no_data(stray: str, tmp_path: Path) -> None:
    root = in_classes(tmp_path / "photos")
    (root / stray).write_bytes(b"")
    index = index_images(root)
    assert (("a", "b"), 12) == (index.classes, len(index))


@pytest.mark.parametrize("text", ["id,license\n1,free\n", "file_name,caption\n0.png,a cat\n", ""])
def test_a_list_that_names_no_classes_leaves_class_folders_alone(text: str, tmp_path: Path) -> None:
    root = in_classes(tmp_path / "photos")
    (root / "metadata.csv").write_text(text)
    index = index_images(root)
    assert (("a", "b"), 12) == (index.classes, len(index))
