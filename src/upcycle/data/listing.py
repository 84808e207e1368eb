"""Which files a folder or a manifest names, and the class, split and group it gives each; decodes no image."""

import contextlib
import csv
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from upcycle.errors import DataError

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".jpe", ".jif", ".jfif")
OTHER_PICTURES = (
    *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".ico", ".ppm", ".pgm", ".pbm", ".tga", ".psd", ".xcf"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2"),
)
"""Endings of pictures that are not read."""
BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*")
"""The first bytes of the formats that are read, WebP's aside, which lie further in."""
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Quarantined:
    """A file that is listed but never used; `path` is relative to the data's root."""

    path: str
    reason: str


class Row(NamedTuple):
    """A file to read: its path relative to the root, with "/", its class, and split and group or ""."""

    path: str
    label: str
    split: str
    group: str


class Found(NamedTuple):
    """Files to read, files set aside with a reason, and how many other files there are by ending."""

    rows: list[Row]
    aside: list[Quarantined]
    others: Counter[str]


def shown(text: object) -> str:
    """`text` on one line: control characters and undecodable bytes as escapes."""
    readable = str(text).encode("utf-8", "backslashreplace").decode()
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in readable)


@contextlib.contextmanager
def _entries(folder: Path) -> Iterator[Iterator[os.DirEntry[str]]]:
    """What a folder holds that is not hidden, in the system's order, one at a time."""
    try:
        with os.scandir(folder) as entries:
            yield (entry for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"cannot list the folder {shown(folder)}: {error.strerror or error}") from error


def _folders(folder: Path) -> list[Path]:
    """The folders right below `folder`, by name."""
    with _entries(folder) as entries:
        return sorted(folder / entry.name for entry in entries if _true(entry.is_dir))


def _true(question: Callable[[], bool]) -> bool:
    """What an entry answers; a link that leads back to itself is neither a folder nor a file."""
    try:
        return question()
    except OSError:
        return False


def _walk(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Every file below `folder`; links to folders are followed, but never round a circle."""
    waiting: list[tuple[Path, frozenset[tuple[int, int]]]] = [(folder, frozenset())]
    while waiting:
        below, above = waiting.pop()
        with _entries(below) as entries:
            status = below.stat()
            here = (status.st_dev, status.st_ino)
            if here in above:
                continue
            for entry in entries:
                if _true(entry.is_dir):
                    waiting.append((Path(entry.path), above | {here}))
                else:
                    yield entry


def _is_image(name: str) -> bool:
    return name.lower().endswith(ENDINGS)


def _test_name(name: str, test_split: str | None) -> str:
    """What a row calls the test split, in one spelling: `test_split` where it means that."""
    if test_split is not None and (
        name == test_split or "test" == _split_of(test_split, None) == _split_of(name, None)
    ):
        return test_split
    return name.strip().lower()


def _split_of(name: str, test_split: str | None) -> str | None:
    """The split that a folder or a manifest calls `name`; None when it is not one."""
    if test_split is not None and name == test_split:
        return "test"
    return SPLITS.get(name.strip().lower())


def _has_classes(folder: Path) -> bool:
    """Whether `folder` holds folders that hold images."""
    return any(_is_image(file.name) for below in _folders(folder) for file in _walk(below))


def _split_folders(root: Path, test_split: str | None) -> dict[str, str]:
    """Name of each split folder and the split it is; empty when `root` holds the classes themselves.

    A folder called train that holds images directly is a class of that name.
    """
    names = [folder.name for folder in _folders(root)]
    splits = {name: split for name in names if (split := _split_of(name, test_split))}
    splits = {name: split for name, split in splits.items() if _has_classes(root / name)}
    if test_split is not None and test_split not in splits:
        raise DataError(f"--test-split {shown(test_split)}: there is no {shown(root / test_split)} with class folders")
    if not splits:
        _check_names(root)
    others = [name for name, split in splits.items() if split == "test" and name != test_split]
    if test_split is not None and others:
        raise DataError(f"--test-split {shown(test_split)}: {shown(root)} has a {others[0]} folder already; use that")
    return splits


def _check_names(root: Path) -> None:
    """DataError where the folders that would be classes are all named like splits: their class folders are missing."""
    names = [folder.name for folder in _folders(root) if any(_is_image(file.name) for file in _walk(folder))]
    if len(names) > 1 and all(_split_of(name.rstrip("0123456789_- "), None) for name in names):
        raise DataError(
            f"{shown(root)} has images in {' and '.join(map(shown, names))} but no class folders in them: "
            f"put them into {shown(names[-1])}/CLASS/, or list them with their labels in a CSV manifest"
        )


def _placed(parts: tuple[str, ...], splits: dict[str, str]) -> tuple[str, str] | None:
    """Class and split of a file by the folders it lies in; None when it lies in no class folder."""
    folders = parts[:-1]
    if not splits:
        return (folders[0], "") if folders else None
    if len(folders) < 2 or folders[0] not in splits:
        return None
    return folders[1], splits[folders[0]]


def list_folder(root: Path, *, test_split: str | None) -> Found:
    """The images below `root`, laid out as `split/CLASS/*` or `CLASS/*`."""
    splits = _split_folders(root, test_split)
    found = Found([], [], Counter())
    names: dict[str, str] = {}  # one string a class, not one a file
    for entry in _walk(root):
        relative = Path(entry.path).relative_to(root)
        path, placed = relative.as_posix(), _placed(relative.parts, splits)
        if not _is_image(entry.name):
            why = _unread_picture(entry) if placed is not None else ""
            if why:
                found.aside.append(Quarantined(shown(path), why))
            else:
                found.others[relative.suffix.lower()] += 1
        elif not _is_utf8(path):
            found.aside.append(Quarantined(shown(path), "its name is not UTF-8: rename it"))
        elif not _true(entry.is_file):
            found.aside.append(Quarantined(path, "a broken link, or not a regular file"))
        elif placed is None:
            found.aside.append(Quarantined(path, "lies in no class folder"))
        else:
            label, split = placed
            found.rows.append(Row(path, names.setdefault(label, label), split, ""))
    return found


def _unread_picture(entry: os.DirEntry[str]) -> str:
    """Why a file that seems to be a picture is not read: its name says another kind, or none; "" for any other file."""
    ending = shown(Path(entry.name).suffix.lower())
    if ending in OTHER_PICTURES:
        return f"pictures ending in {ending} are not read: convert it to JPEG or PNG"
    if not _true(entry.is_file):
        return ""
    try:
        with Path(entry.path).open("rb") as file:
            begins = file.read(12)
    except OSError:
        return ""
    if begins.startswith(BEGINNINGS) or (begins.startswith(b"RIFF") and begins.endswith(b"WEBP")):
        return f"a picture by its content, its name {f'ends in {ending}' if ending else 'has no ending'}: rename it"
    return ""


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _csv_rows(manifest: Path) -> Iterator[dict[str, str]]:
    """Rows of a CSV file; DataError for a file that is not UTF-8 CSV with the needed columns."""
    try:
        with manifest.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            _check_columns(manifest, reader.fieldnames or ())
            for row in reader:
                if None in (*row, *row.values()):
                    raise DataError(f"{shown(manifest)}, line {reader.line_num}: not as many values as columns")
                yield row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{shown(manifest)} is not a readable CSV file in UTF-8: {error}") from error


def _parquet_rows(manifest: Path) -> Iterator[dict[str, str]]:
    """Rows of a Parquet file, every value as text, null as ""."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(manifest)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{shown(manifest)} is not a readable Parquet file: {shown(error)}") from error
    _check_columns(manifest, table.column_names)
    for row in table.select([name for name in _COLUMNS if name in table.column_names]).to_pylist():
        yield {name: "" if value is None else str(value) for name, value in row.items()}


_COLUMNS = ("path", "label", "split", "group")


def _check_columns(manifest: Path, columns: Iterable[str]) -> None:
    missing = [name for name in ("path", "label") if name not in columns]
    if missing:
        there = ", ".join(map(shown, columns)) or "none"
        raise DataError(f"{shown(manifest)} has no column {missing[0]!r} (it has: {there}); needed are path and label")


def _manifest_path(root: Path, path: str) -> str:
    """The path as the index keeps it: relative to `root` where it lies below, with "/"."""
    file = Path(path)
    if file.is_absolute() and file.is_relative_to(root):
        file = file.relative_to(root)
    return file.as_posix()


def list_manifest(manifest: Path, *, test_split: str | None) -> Found:
    """The images a CSV or Parquet file lists, paths relative to its folder; DataError for a bad row."""
    kinds = {".csv": _csv_rows, ".parquet": _parquet_rows}
    if manifest.suffix.lower() not in kinds:
        raise DataError(f"{shown(manifest)} is neither a folder nor a .csv or .parquet manifest")
    rows: dict[str, Row] = {}
    tests: set[str] = set()  # what the test split is called
    for number, row in enumerate(kinds[manifest.suffix.lower()](manifest), 1):
        where = f"{shown(manifest)}, row {number}"
        split = _split_of(row.get("split", ""), test_split) if row.get("split", "").strip() else ""
        if split is None:
            raise DataError(f"{where}: split {shown(row['split'])!r} is none of train, val, test and empty")
        if not row["path"] or not row["label"]:
            raise DataError(f"{where}: path and label must not be empty")
        path = _manifest_path(manifest.parent.absolute(), row["path"])
        if path in rows:
            raise DataError(f"{where}: {shown(path)} is listed twice")
        rows[path] = Row(path, row["label"], split, row.get("group", ""))
        if split == "test":
            tests.add(_test_name(row["split"], test_split))
    if not rows:
        raise DataError(f"{shown(manifest)} lists no images")
    if test_split is not None:
        asked = f"--test-split {shown(test_split)}: "
        if test_split not in tests:
            raise DataError(f"{asked}no row of {shown(manifest)} has that split")
        if len(tests) > 1:
            other = min(tests - {test_split})
            raise DataError(f"{asked}{shown(manifest)} has rows of the split {shown(other)} already; use that")
    return Found(list(rows.values()), [], Counter())
