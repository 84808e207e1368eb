"""Photos inside larger files: members of tars as WebDataset has them, rows of Parquet files with an `image` column.

The headers of a tar are read once, and where each photo begins and how long it is are kept in the cache folder: any
photo can then be read by itself, in any order. Nothing is unpacked.
"""

import hashlib
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from upcycle.data.folders import SPLITS, clean, key
from upcycle.data.formats import ENDINGS
from upcycle.data.listing import Layout, ListedFile, Listing, Quarantined
from upcycle.errors import DataError, shown
from upcycle.remote import MOST_BYTES, ROWS, Address, asked, parquet_file
from upcycle.rundir import replacing

TARS, PARQUET = (".tar",), (".parquet",)
_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_BRACES = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")
_MOST_FILES, _MOST_LABEL = 100_000, 65536
"""Files that a pattern may name; bytes of a member that holds a label."""
_BLOCK = 8 * 2**20
_VERSION = 1
_LABELS = ("label", "labels", "cls", "class", "class_name")


def is_archive(data: Path) -> bool:
    """Whether DATA names tars or Parquet files of photos, one or by a pattern; DataError for a packed tar."""
    name = data.name.lower()
    if name.endswith(_PACKED):
        raise DataError(f"{shown(data)} is compressed, so that no photo in it can be read by itself: unpack it to .tar")
    return name.endswith(TARS) or (name.endswith(PARQUET) and (bool(_BRACES.search(data.name)) or has_images(data)))


def expand(data: Path) -> list[Path]:
    """The files that NAME-{000..011}.tar means; the file itself without braces."""
    found = _BRACES.search(data.name)
    if found is None:
        return [data]
    first, last = int(found[1]), int(found[2])
    if not 0 <= last - first < _MOST_FILES:
        raise DataError(f"{shown(data)} names {last - first + 1:,} files: give from one to {_MOST_FILES:,}")
    numbers = (f"{number:0{len(found[1])}}" for number in range(first, last + 1))
    return [data.with_name(f"{data.name[: found.start()]}{number}{data.name[found.end() :]}") for number in numbers]


def has_images(file: Path) -> bool:
    """Whether a Parquet file has an `image` column that holds pictures; False for any other file."""
    import pyarrow as pa

    try:
        schema = parquet_file(file).schema_arrow
    except (OSError, ValueError, pa.ArrowException):
        return False
    return "image" in schema.names and _holds_bytes(schema.field("image").type)


def _holds_bytes(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(kind.field(at).name == "bytes" for at in range(kind.num_fields))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def list_archives(root: Path, files: Sequence[str], layout: Layout, cache: Path) -> Listing:
    """The photos in these tars or Parquet files below `root`; DataError, in one line, where one cannot be read."""
    rows: list[ListedFile] = []
    excluded: list[Quarantined] = []
    address = root if isinstance(root, Address) else Address(f"file://{root.absolute()}")
    for name in files:
        split, file = _split_of(name, layout), address / name
        found = _of_tar(file, name, cache) if name.lower().endswith(TARS) else _of_parquet(file, name, layout)
        for path, label in found:
            if path != path.encode(errors="replace").decode():
                excluded.append(Quarantined(shown(path), "its name is not UTF-8: rename it", "", split, "misplaced"))
            elif label:
                rows.append(ListedFile(path, label, split, ""))
            else:
                excluded.append(Quarantined(shown(path), "has no label", "", split, "misplaced"))
    return Listing(
        address,
        layout,
        rows,
        excluded,
        classes=frozenset(row.label for row in rows),
        splits=frozenset(row.split for row in rows) - {""},
    )


def _split_of(name: str, layout: Layout) -> str:
    """The split that a file's folder or the first word of its name says; "" for none."""
    path = PurePosixPath(name)
    for word in (*path.parts[:-1], re.split(r"[-_.]", path.name)[0]):
        for split, asked_for in layout.asked.items():
            if layout.is_asked(word, split, asked_for):
                return split
        if key(word) in SPLITS:
            return SPLITS[key(word)]
    return ""


# ---------------------------------------------------------------- tars


class _Member(NamedTuple):
    """A photo in a tar: its name, where it is, and its class, "" where there is none."""

    name: str
    start: int
    size: int
    label: str


def _of_tar(file: Address, name: str, cache: Path) -> Iterator[tuple[str, str]]:
    """Path and class of each photo; paths sort as the members lie."""
    for member in _members(file, cache):
        yield f"{name}#{member.start:012}+{member.size}/{member.name}", member.label


def _members(file: Address, cache: Path) -> list[_Member]:
    """The photos of a tar, by its headers, which are read where they are not kept."""
    try:
        facts = asked(file, lambda store, path: store.info(path))
    except FileNotFoundError:
        raise DataError(f"{shown(file)} does not exist: give a tar that does") from None
    state = [_VERSION, str(file), facts.get("size"), str(facts.get("ETag") or facts.get("mtime") or "")]
    kept = cache / "tars" / f"{hashlib.sha256(json.dumps(state).encode()).hexdigest()}.json"
    try:
        return [_Member(*row) for row in json.loads(kept.read_bytes())]
    except (OSError, ValueError, TypeError):
        pass
    try:
        found = asked(file, lambda store, path: _read_tar(store.open(path, "rb", block_size=_BLOCK)))
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise DataError(f"{shown(file)} is no tar that can be read ({shown(error)}): make it again") from None
    try:
        with replacing(kept) as temporary:
            temporary.write_text(json.dumps(found))
    except DataError:
        raise
    except Exception:
        pass
    return found


def _read_tar(opened: IO[bytes]) -> list[_Member]:
    """The photos of a tar with their classes: those of KEY.cls or KEY.json beside KEY.jpg, else of their folder."""
    photos: list[tuple[str, str, int, int]] = []
    labels: dict[str, str] = {}
    with opened, tarfile.open(fileobj=opened, mode="r:") as tar:
        for member in tar:
            tar.members = []  # type: ignore[attr-defined]  # it would keep all of them
            if not member.isreg() or member.sparse:
                continue
            path = PurePosixPath(member.name)
            stem, _, ending = path.name.partition(".")
            own = str(path.with_name(stem)) if stem else member.name
            if f".{ending}".lower().endswith(ENDINGS):
                photos.append((own, member.name, member.offset_data, min(member.size, MOST_BYTES + 1)))
            elif ending.lower() in ("cls", "json", "txt") and member.size <= _MOST_LABEL:
                content = tar.extractfile(member)
                if content is not None and (label := _label(ending.lower(), content.read())):
                    labels[own] = label
    return [
        _Member(name, start, size, labels.get(own) or clean(PurePosixPath(name).parent.name))
        for own, name, start, size in photos
    ]


def _label(ending: str, content: bytes) -> str:
    """The class that a member beside a photo names; "" for none."""
    text = content.decode("utf-8", "replace").strip()
    if ending == "cls":
        return clean(text)
    if ending != "json":
        return ""
    try:
        values = json.loads(text)
    except ValueError:
        return ""
    value = next((values[name] for name in _LABELS if name in values), "") if isinstance(values, dict) else ""
    return clean(str(value)) if isinstance(value, str | int) and not isinstance(value, bool) else ""


# ---------------------------------------------------------------- Parquet


def _of_parquet(file: Address, name: str, layout: Layout) -> Iterator[tuple[str, str]]:
    """Path and class of each row."""
    import pyarrow as pa

    ROWS.forget(str(file))
    try:
        opened = parquet_file(file)
        schema = opened.schema_arrow
        if "image" not in schema.names or not _holds_bytes(schema.field("image").type):
            raise DataError(f"{shown(file)} has no column `image` that holds pictures")
        column = layout.columns.get("label") or next((one for one in _LABELS if one in schema.names), None)
        if column not in schema.names:
            there = ", ".join(schema.names)
            raise DataError(f"{shown(file)} has no column of classes (it has: {there}): give --label-column")
        names = _class_names(schema.metadata or {}, str(column))
        values = opened.read(columns=[column]).column(column).to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{shown(file)} is not a readable Parquet file: {shown(error)}") from error
    for row, value in enumerate(values):
        known = names[value] if isinstance(value, int) and 0 <= value < len(names) else value
        yield f"{name}#{row}", clean(str(known)) if isinstance(known, str | int) else ""


def _class_names(metadata: Mapping[bytes, bytes], column: str) -> list[str]:
    """The names of the classes that the Hub's `datasets` writes into a schema; [] where there are none."""
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][column]["names"]
        return [str(name) for name in names] if isinstance(names, list) else []
    except (LookupError, TypeError, ValueError):
        return []
