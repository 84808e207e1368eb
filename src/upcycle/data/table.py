"""Which files a manifest names: CSV in its dialects, or Parquet, and the class, split and group it gives each."""

import csv
import io
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from upcycle.data.folders import SPLIT_LIKE, clean, shown
from upcycle.data.listing import Found, Layout, Quarantined, Row, merged, spellings
from upcycle.errors import ConfigError, DataError

COLUMNS = ("path", "label", "split", "group")
_LIKE = {
    "path": (
        *("file", "filename", "filepath", "file_name", "file_path", "image", "image_path", "image_file", "img"),
        *("image_name", "img_name", "image_id", "isic_id", "id"),
    ),
    "label": (
        *("labels", "class", "classes", "class_name", "classname", "target", "category", "y", "species", "diagnosis"),
        *("dx", "benign_malignant"),
    ),
    "split": (
        *("splits", "subset", "partition", "set", "dataset", "usage", "data_split", "split_name", "phase"),
        *("is_test", "is_train", "is_valid"),
    ),
    "group": (
        *("groups", "group_id", "patient", "patient_id", "patientid", "subject", "subject_id", "person_id"),
        *("case_id", "lesion_id", "slide_id", "study_id", "participant_id"),
    ),
}
"""Names that other people's tables have for these columns; near enough to ask."""
TEXTS = (".csv", ".tsv", ".txt")
DELIMITERS = ",;\t|"
MOST_MISSING = 0.5
"""A manifest of which more than this fraction of the files is not found is an error."""
MISSING = "no such file"
_NONE = frozenset(("nan", "none", "null", "na", "n/a", "<na>", "nat"))
"""What programs write where there is no value, in small letters."""


def list_manifest(manifest: Path, layout: Layout) -> tuple[Path, Found]:
    """The folder that paths are relative to, and the images that a CSV or Parquet file lists.

    DataError for a bad row, for columns that may be meant as one of ours, and where most files are not found.
    """
    ending = manifest.suffix.lower()
    if ending not in (*TEXTS, ".parquet"):
        raise DataError(f"{shown(manifest)} is neither a folder nor a .csv or .parquet manifest")
    parquet = _parquet_names(manifest) if ending == ".parquet" else None
    names, lines = (parquet, iter(())) if parquet is not None else _csv(manifest, layout)
    used, notes = _columns(manifest, names, layout)
    root = Path(layout.image_root).absolute() if layout.image_root else manifest.parent.absolute()
    if layout.image_root and not root.is_dir():
        raise ConfigError(f"--image-root {shown(layout.image_root)} is no folder")
    read = _Rows(manifest, root, layout, used, names)
    records = lines if parquet is None else _parquet(manifest, names, {*used.values(), *read.asking})
    for number, record in enumerate(records, 1):
        read.add(number, record)
    return root, read.found(notes)


class _Rows:
    """Rows as they are read, and what is to be known of all of them."""

    def __init__(self, manifest: Path, root: Path, layout: Layout, used: dict[str, int], names: Sequence[str]) -> None:
        self.manifest, self.root, self.layout, self.used = manifest, root, layout, used
        self.rows: dict[str, Row] = {}
        self.missing: set[str] = set()
        self.spelled: dict[str, set[str]] = {}
        self.raw: set[str] = set()
        self.folders: dict[Path, dict[str, str]] = {}
        free = [at for at in range(len(names)) if at not in used.values() and clean(names[at])]
        self.asking = {at: names[at] for at in free} if "split" not in used and not layout.columns.get("split") else {}
        self.sides: dict[int, set[str]] = {}
        self.ungrouped: Counter[str] = Counter()

    def add(self, number: int, record: Sequence[Any]) -> None:
        """Take one row; DataError where it cannot be used."""
        where = f"{shown(self.manifest)}, row {number}"
        given = {name: record[at] for name, at in self.used.items()}
        values = {name: _text(value, f"{where}: {name}") for name, value in given.items()}
        split = self.layout.split_of(values["split"]) if values.get("split") else ""
        if split is None:
            said = f"{where}: split {shown(given['split'])!r} is none of train, val, test and empty"
            word = shown(given["split"])
            raise DataError(f"{said}: give --train-split, --val-split or --test-split {word}")
        if not values["path"] or not values["label"]:
            raise DataError(f"{where}: path and label must not be empty")
        if values["label"] in ("nan", "NaN", "NAN", "<NA>"):
            raise DataError(f"{where}: label {values['label']!r} is a missing value: name the class, or remove the row")
        path = self._path(str(given["path"]))
        if path in self.rows:
            raise DataError(f"{where}: {shown(path)} is listed twice")
        self.raw.add(str(given["label"]))
        group = values.get("group", "")
        if group.casefold() in _NONE:
            self.ungrouped[group] += 1
            group = ""
        self.rows[path] = Row(path, values["label"], split, group)
        if split:
            self.spelled.setdefault(split, set()).add(values["split"])
        for at in list(self.asking):
            value = clean(str(record[at] or "")).casefold()
            if value in SPLIT_LIKE:
                self.sides.setdefault(at, set()).add(SPLIT_LIKE[value])
            elif value:
                del self.asking[at]

    def found(self, notes: Sequence[str]) -> Found:
        """What the manifest names; DataError where all of its rows together cannot be used."""
        self._check()
        labels = {row.label for row in self.rows.values()}
        aside = [
            Quarantined(row.path, MISSING, row.label, row.split, "misplaced")
            for row in self.rows.values()
            if row.path in self.missing
        ]
        return Found(
            [row for row in self.rows.values() if row.path not in self.missing],
            aside,
            Counter(),
            classes=frozenset(labels),
            splits=frozenset(self.spelled),
            notes=(*notes, *merged(iter(self.raw)), *spellings(labels), *self._absent(labels)),
        )

    def _absent(self, labels: set[str]) -> Iterator[str]:
        """What is taken for a missing value, and what is not."""
        for group, count in sorted(self.ungrouped.items()):
            yield f"the group {shown(group)!r} of {count:,} images is taken as none"
        for label in sorted(labels):
            if label.casefold() in _NONE:
                yield f"{shown(label)!r} is taken as a class: remove its rows if it is a missing value"

    def _check(self) -> None:
        name = shown(self.manifest)
        if not self.rows:
            raise DataError(f"{name} lists no images")
        for at, column in self.asking.items():
            if len(self.sides.get(at, ())) > 1:
                raise DataError(_ask(name, "split", column))
        for split, asked in self.layout.asked.items():
            option, spelled = f"--{split}-split {shown(asked)}: ", self.spelled.get(split, set())
            other = sorted(value for value in spelled if not self.layout.is_asked(value, split, asked))
            if len(other) == len(spelled):
                raise DataError(f"{option}no row of {name} has that split")
            if other:
                raise DataError(f"{option}{name} has rows of the split {shown(other[0].lower())} already; use that")
        if len(self.missing) > max(1, MOST_MISSING * len(self.rows)):
            first = min(self.missing)
            raise DataError(
                f"{name}: {len(self.missing):,} of {len(self.rows):,} files are not found, the first "
                f"{shown(self.root / first)}: give the folder they are in with --image-root"
                + ("" if Path(first).suffix else ", and their ending with --image-suffix")
            )

    def _path(self, given: str) -> str:
        """The path as the index keeps it: as it is on disk, relative to the root where it lies below, with "/"."""
        suffix = self.layout.image_suffix
        if suffix and not given.strip().lower().endswith(suffix.lower()):
            given = given.strip() + (suffix if suffix.startswith((".", "_", "-")) else f".{suffix}")
        path = self._there(given)
        if path is None:
            path = Path(given)
            self.missing.add(self._relative(path))
        return self._relative(path)

    def _relative(self, path: Path) -> str:
        if path.is_absolute() and path.is_relative_to(self.root):
            path = path.relative_to(self.root)
        return os.path.normpath(path).replace(os.sep, "/") if ".." in path.parts else path.as_posix()

    def _there(self, given: str) -> Path | None:
        """The file that is meant: by its name as it is, in another Unicode form, or with "/" for each backslash."""
        for text in dict.fromkeys((given, given.strip(), given.replace("\\", "/").strip())):
            try:
                if os.path.lexists(self.root / text):
                    return Path(text)
                path = self._composed(Path(text))
            except (OSError, ValueError):
                continue
            if path is not None:
                return path
        return None

    def _composed(self, path: Path) -> Path | None:
        """`path` by the names that folders really have, compared in Unicode's composed form."""
        here = Path(path.anchor)
        for part in path.parts[1 if path.anchor else 0 :]:
            folder = self.root / here
            if part in ("..", ".") or os.path.lexists(folder / part):
                here /= part
                continue
            if folder not in self.folders:
                self.folders[folder] = (
                    {clean(file.name): file.name for file in folder.iterdir()} if folder.is_dir() else {}
                )
            name = self.folders[folder].get(clean(part))
            if name is None:
                return None
            here /= name
        return here


def _text(value: Any, where: str) -> str:
    """A value of the manifest as text; DataError for one that is no name or number."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        if where.endswith(": label"):
            raise DataError(f"{where} is missing: name the class, or remove the row")
        return ""
    if isinstance(value, list | tuple | dict | bytes):
        what = "several values" if isinstance(value, list | tuple) else "neither text nor a number"
        raise DataError(f"{where} holds {what}: give one name or number")
    return clean(str(value))


def _ask(manifest: str, ours: str, theirs: str) -> str:
    column = shown(theirs.strip())
    return (
        f"{manifest} has a column {column!r}, which may be the {ours}: give --{ours}-column {column}, "
        f"or --{ours}-column none to leave it unused"
    )


def _columns(manifest: Path, names: Sequence[str], layout: Layout) -> tuple[dict[str, int], list[str]]:
    """Where each of our columns is, and what to say of the others; DataError for one missing or doubled."""
    name, keys = shown(manifest), [clean(column).casefold() for column in names]
    used: dict[str, int] = {}
    for ours in COLUMNS:
        asked = layout.columns.get(ours)
        key = clean(asked).casefold() if asked is not None else ours
        if key == "none" and ours in ("split", "group"):
            continue
        if keys.count(key) > 1:
            raise DataError(f"{name} has two columns {key!r}: remove or rename one of them")
        if key in keys:
            used[ours] = keys.index(key)
        elif asked is not None:
            raise DataError(f"--{ours}-column {shown(asked)}: {name} has no such column (it has: {_list(names)})")
    free = [column for at, column in enumerate(names) if at not in used.values() and keys[at]]
    for ours in ("path", "label"):
        if ours not in used:
            near = _near(ours, free)
            hint = f"; or give --{ours}-column {shown(near)}" if near else ""
            raise DataError(f"{name} has no column {ours!r} (it has: {_list(names)}); needed are path and label{hint}")
    for ours in ("split", "group"):
        near = _near(ours, free) if ours not in used and ours not in layout.columns else None
        if near:
            raise DataError(_ask(name, ours, near))
    unused = [column for column in free if not clean(column).casefold().startswith("unnamed:")]
    return used, [f"columns of {shown(manifest.name)} that are not used: {_list(unused)}"] if unused else []


def _near(ours: str, names: Sequence[str]) -> str | None:
    """The first of `names` that may be meant as one of our columns."""
    for name in names:
        key = clean(name).casefold().replace(" ", "_").replace("-", "_")
        mistyped = sorted(key) == sorted(ours) or (len(key) > len(ours) and key.startswith(ours))
        if key in _LIKE[ours] or key == ours or mistyped:
            return name
    return None


def _list(names: Iterable[str]) -> str:
    return ", ".join(shown(name.strip()) for name in names) or "none"


def _decoded(manifest: Path) -> str:
    """The text of a CSV file: UTF-8, or UTF-16 where it begins with that mark."""
    content = manifest.read_bytes()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    if b"\0" in content[:2]:  # no text in UTF-8 begins so
        return content.decode("utf-16-be" if content[:1] == b"\0" else "utf-16-le")
    return content.decode("utf-8-sig")


def _separator(first: str, layout: Layout) -> str:
    """What separates the columns of a header: that by which most of our columns are found, else the commonest."""
    wanted = {*COLUMNS, *(clean(name).casefold() for name in layout.columns.values())}

    def found(delimiter: str) -> tuple[int, int]:
        names = next(csv.reader([first], delimiter=delimiter, skipinitialspace=True), [])
        return len(wanted & {clean(name).casefold() for name in names}), first.count(delimiter)

    return max(DELIMITERS, key=found)  # the first of equals, which is the comma


def _csv(manifest: Path, layout: Layout) -> tuple[list[str], Iterator[list[str]]]:
    """The columns of a CSV file and its rows; DataError for a file that is none."""
    try:
        text = _decoded(manifest)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{shown(manifest)} is not a readable CSV file in UTF-8: {error}") from error
    first = text.lstrip("\r\n").partition("\n")[0]
    delimiter = _separator(first[:100_000], layout)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter, skipinitialspace=True)
    rows = _records(manifest, reader)
    columns = next(rows, [])
    return columns, _whole(manifest, rows, reader, len(columns))


def _records(manifest: Path, reader: Any) -> Iterator[list[str]]:
    """Rows of a CSV file, blank lines left out."""
    try:
        yield from (row for row in reader if any(field.strip() for field in row))
    except csv.Error as error:
        if "field limit" in str(error):
            raise DataError(
                f"{shown(manifest)}, line {reader.line_num}: a field of more than 128 KiB: is a quote left open?"
            ) from error
        raise DataError(f"{shown(manifest)} is not a readable CSV file in UTF-8: {error}") from error


def _whole(manifest: Path, rows: Iterator[list[str]], reader: Any, width: int) -> Iterator[list[str]]:
    """The rows, each with as many values as there are columns."""
    for row in rows:
        while len(row) > width and not row[-1].strip():
            row = row[:-1]
        if len(row) != width:
            raise DataError(f"{shown(manifest)}, line {reader.line_num}: not as many values as columns")
        yield row


def _parquet_names(manifest: Path) -> list[str]:
    """The columns of a Parquet file; DataError for a file that is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(manifest) as file:
            return list(file.schema_arrow.names)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{shown(manifest)} is not a readable Parquet file: {shown(error)}") from error


def _parquet(manifest: Path, names: Sequence[str], needed: set[int]) -> Iterator[list[Any]]:
    """The rows of a Parquet file, None in the columns that are not `needed`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    chosen = [at for at in sorted(needed) if names.count(names[at]) == 1]
    try:
        with pq.ParquetFile(manifest) as file:
            table = file.read(columns=[names[at] for at in chosen])
            columns = {at: table.column(names[at]).to_pylist() for at in chosen}
    except (OSError, ValueError, OverflowError, pa.ArrowException) as error:
        raise DataError(f"{shown(manifest)} is not a readable Parquet file: {shown(error)}") from error
    for row in range(table.num_rows):
        yield [columns[at][row] if at in columns else None for at in range(len(names))]
