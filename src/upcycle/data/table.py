"""Which files a manifest names: CSV in its dialects, or Parquet, and the class, split and group it gives each."""

import contextlib
import csv
import io
import json
import math
import os
import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from upcycle.data.folders import SPLIT_LIKE, clean, key
from upcycle.data.listing import Layout, ListedFile, Listing, Quarantined, alike
from upcycle.errors import ConfigError, DataError, shown
from upcycle.remote import Address, has_secret, is_address, parquet_file, place

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
_ENDINGS = (".csv", ".tsv", ".txt")
_DELIMITERS = ",;\t|"
_MOST_MISSING = 0.5
"""A manifest of which more than this fraction of the files is not found is an error."""
_NONE = frozenset(("nan", "none", "null", "na", "n/a", "<na>", "nat"))
"""What programs write where there is no value, in small letters."""


_RowsOf = Callable[[set[int]], Iterable[Sequence[object]]]
"""The rows of a table, with the values of the columns at the positions that are asked for."""


def list_manifest(manifest: Path, layout: Layout) -> Listing:
    """The images that a CSV or Parquet file lists.

    DataError for a bad row, for columns that may be meant as one of ours, and where most files are not found.
    """
    ending = manifest.suffix.lower()
    if ending not in (*_ENDINGS, ".parquet", ".jsonl"):
        raise DataError(f"{shown(manifest)} is neither a folder nor a .csv or .parquet manifest")
    if ending == ".jsonl":
        names, rows = _json_lines(manifest)
    else:
        names, rows = _parquet(manifest) if ending == ".parquet" else _csv(manifest, layout)
    used = _columns(shown(manifest), names, layout)
    root = place(layout.image_root).absolute() if layout.image_root else manifest.parent.absolute()
    if layout.image_root and not root.is_dir():
        raise ConfigError(f"--image-root {shown(layout.image_root)} is no folder")
    read = _Rows(manifest, root, layout, used, names)
    for number, record in enumerate(rows({*used.values(), *read.asking}), 1):
        read.add(number, record)
    return read.listing()


class _Rows:
    """Rows as they are read, and what concerns all of them."""

    def __init__(self, manifest: Path, root: Path, layout: Layout, used: dict[str, int], names: list[str]) -> None:
        self.manifest, self.root, self.layout, self.used, self.names = manifest, root, layout, used, names
        self.rows: dict[str, ListedFile] = {}
        self.missing: set[str] = set()
        self.labels: set[str] = set()
        self.split_values: dict[str, set[str]] = {}
        self.ungrouped: Counter[str] = Counter()
        self.folders: dict[Path, dict[str, str]] = {}
        self.unused = [at for at in range(len(names)) if at not in used.values() and clean(names[at])]
        # columns whose values so far all name splits, and which those are
        asked = "split" in used or layout.columns.get("split")
        self.asking: dict[int, set[str]] = {} if asked else {at: set() for at in self.unused}

    def add(self, number: int, record: Sequence[object]) -> None:
        """Take one row; DataError where it cannot be used."""
        where = f"{shown(self.manifest)}, row {number}"
        given = {name: record[at] for name, at in self.used.items()}
        values = {name: _text(value, f"{where}: {name}") for name, value in given.items()}
        split = self.layout.split_of(values["split"]) if values.get("split") else ""
        if split is None:
            word = shown(given["split"])
            raise DataError(
                f"{where}: split {word!r} is none of train, val, test and empty: "
                f"give --train-split, --val-split or --test-split {word}"
            )
        if not values["path"] or not values["label"]:
            raise DataError(f"{where}: path and label must not be empty")
        if values["label"] in ("nan", "NaN", "NAN", "<NA>"):
            raise DataError(f"{where}: label {values['label']!r} is a missing value: name the class, or remove the row")
        if has_secret(str(given["path"])):
            raise DataError(
                f"{where}: {shown(given['path'])} has a password or a signature, which a run would write down: give "
                "addresses without, and credentials by the environment"
            )
        path = self._path(str(given["path"]))
        if path in self.rows:
            raise DataError(f"{where}: {shown(path)} is listed twice")
        self.labels.add(str(given["label"]))
        group = values.get("group", "")
        if group.casefold() in _NONE:
            self.ungrouped[group] += 1
            group = ""
        self.rows[path] = ListedFile(path, values["label"], split, group)
        if split:
            self.split_values.setdefault(split, set()).add(values["split"])
        for at in list(self.asking):
            value = key(str(record[at] or ""))
            if value in SPLIT_LIKE:
                self.asking[at].add(SPLIT_LIKE[value])
            elif value:
                del self.asking[at]

    def listing(self) -> Listing:
        """What the manifest names; DataError where all of its rows together cannot be used."""
        self._check()
        labels = {row.label for row in self.rows.values()}
        absent = [row for row in self.rows.values() if row.path in self.missing]
        unused = [shown(self.names[at].strip()) for at in self.unused]
        unused = [name for name in unused if not name.casefold().startswith("unnamed:")]  # pandas' row numbers
        notes = [f"columns of {shown(self.manifest.name)} that are not used: {', '.join(unused)}"] if unused else []
        notes += alike(self.labels)
        for group, count in sorted(self.ungrouped.items()):
            notes.append(f"the group {shown(group)!r} of {count:,} images is taken as none")
        for label in sorted(label for label in labels if label.casefold() in _NONE):
            notes.append(f"{shown(label)!r} is taken as a class: remove its rows if it is a missing value")
        return Listing(
            self.root,
            self.layout,
            rows=[row for row in self.rows.values() if row.path not in self.missing],
            excluded=[Quarantined(row.path, "no such file", row.label, row.split, "misplaced") for row in absent],
            classes=frozenset(labels),
            splits=frozenset(self.split_values),
            notes=tuple(notes),
        )

    def _check(self) -> None:
        name = shown(self.manifest)
        if not self.rows:
            raise DataError(f"{name} lists no images")
        for at, sides in self.asking.items():
            if len(sides) > 1:
                raise DataError(_ask(name, "split", self.names[at]))
        for split, asked in self.layout.asked.items():
            option, values = f"--{split}-split {shown(asked)}: ", self.split_values.get(split, set())
            other = sorted(value for value in values if not self.layout.is_asked(value, split, asked))
            if len(other) == len(values):
                raise DataError(f"{option}no row of {name} has that split")
            if other:
                raise DataError(f"{option}{name} has rows of the split {shown(other[0].lower())} already; use that")
        if len(self.missing) > max(1, _MOST_MISSING * len(self.rows)):
            first = min(self.missing)
            raise DataError(
                f"{name}: {len(self.missing):,} of {len(self.rows):,} files are not found, the first "
                f"{shown(self.root / first)}: give the folder they are in with --image-root"
                + ("" if Path(first).suffix else ", and their ending with --image-suffix")
            )

    def _path(self, given: str) -> str:
        """The path as the index has it: as it is on disk, relative to the root where it lies below, with "/"."""
        suffix = self.layout.image_suffix
        if suffix and not given.strip().lower().endswith(suffix.lower()):
            given = given.strip() + (suffix if suffix.startswith((".", "_", "-")) else f".{suffix}")
        if is_address(given):
            return str(Address(given))
        if isinstance(self.root, Address):  # whether it is there is seen when it is read
            return posixpath.normpath(given.strip().replace("\\", "/")).lstrip("/")
        found = self._found(given)
        path = Path(given) if found is None else found
        if path.is_absolute() and path.is_relative_to(self.root):
            path = path.relative_to(self.root)
        text = os.path.normpath(path).replace(os.sep, "/") if ".." in path.parts else path.as_posix()
        if found is None:
            self.missing.add(text)
        return text

    def _found(self, given: str) -> Path | None:
        """The file that is meant: by its name as it is, in another Unicode form, or with "/" for each backslash."""
        for text in dict.fromkeys((given, given.strip(), given.replace("\\", "/").strip())):
            with contextlib.suppress(OSError, ValueError):
                path = Path(text) if os.path.lexists(self.root / text) else self._composed(Path(text))
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
                files = folder.iterdir() if folder.is_dir() else ()
                self.folders[folder] = {clean(file.name): file.name for file in files}
            name = self.folders[folder].get(clean(part))
            if name is None:
                return None
            here /= name
        return here


def _text(value: object, where: str) -> str:
    """A value of the manifest as text; DataError for one that is no name or number."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        if where.endswith(": label"):
            raise DataError(f"{where} is missing: name the class, or remove the row")
        return ""
    if isinstance(value, list | tuple | dict | bytes):
        what = "several values" if isinstance(value, list | tuple) else "neither text nor a number"
        raise DataError(f"{where} holds {what}: give one name or number")
    return clean(str(value))


# ---------------------------------------------------------------------------------------- columns


def _ask(manifest: str, ours: str, theirs: str) -> str:
    column = shown(theirs.strip())
    return (
        f"{manifest} has a column {column!r}, which may be the {ours}: give --{ours}-column {column}, "
        f"or --{ours}-column none to leave it unused"
    )


def _columns(manifest: str, names: Sequence[str], layout: Layout) -> dict[str, int]:
    """Where each of our columns is; DataError for one missing or doubled, or that may be meant."""
    keys = [key(column) for column in names]
    there = ", ".join(shown(name.strip()) for name in names) or "none"
    used: dict[str, int] = {}
    for ours in COLUMNS:
        asked = layout.columns.get(ours)
        name = key(asked) if asked is not None else ours
        if name == "none" and ours in ("split", "group"):
            continue
        if keys.count(name) > 1:
            raise DataError(f"{manifest} has two columns {name!r}: remove or rename one of them")
        if name in keys:
            used[ours] = keys.index(name)
        elif asked is not None:
            raise DataError(f"--{ours}-column {shown(asked)}: {manifest} has no such column (it has: {there})")
    for ours in COLUMNS:
        if ours in used or (ours in ("split", "group") and ours in layout.columns):
            continue
        near = next(
            (names[at] for at, name in enumerate(keys) if at not in used.values() and _is_near(ours, name)), None
        )
        if ours in ("path", "label"):
            hint = f"; or give --{ours}-column {shown(near)}" if near else ""
            raise DataError(f"{manifest} has no column {ours!r} (it has: {there}); needed are path and label{hint}")
        if near:
            raise DataError(_ask(manifest, ours, near))
    return used


def _is_near(ours: str, name: str) -> bool:
    """Whether a column of this name may be meant as one of ours."""
    name = name.replace(" ", "_").replace("-", "_")
    mistyped = sorted(name) == sorted(ours) or (len(name) > len(ours) and name.startswith(ours))
    return name in _LIKE[ours] or mistyped


# ------------------------------------------------------------------------------------------ files


def _csv(manifest: Path, layout: Layout) -> tuple[list[str], _RowsOf]:
    names, rows = read_csv(manifest, (*COLUMNS, *layout.columns.values()))
    return names, lambda _: rows


def read_csv(file: Path, wanted: Iterable[str], *, skip_blanks: bool = True) -> tuple[list[str], Iterator[list[str]]]:
    """The names of the columns and the rows of a CSV file, each with as many values; DataError for a file that is none.

    It is in UTF-8, or in UTF-16, with its mark or without. Columns are separated by what finds most of those `wanted`,
    else by the commonest of comma, semicolon, tab and bar. Blank lines are left out, and with `skip_blanks` the blanks
    before a value.
    """
    try:
        content = file.read_bytes()
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            text = content.decode("utf-16")
        elif b"\0" in content[:2]:
            text = content.decode("utf-16-be" if content[:1] == b"\0" else "utf-16-le")
        else:
            text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{shown(file)} is not a readable CSV file in UTF-8: {error}") from error
    first, keys = text.lstrip("\r\n").partition("\n")[0][:100_000], set(map(key, wanted))

    def found(delimiter: str) -> tuple[int, int]:
        names = next(csv.reader([first], delimiter=delimiter, skipinitialspace=True), [])
        return len(keys & set(map(key, names))), first.count(delimiter)

    rows = _csv_rows(file, text, max(_DELIMITERS, key=found), skip_blanks)  # of equals the first, which is the comma
    return next(rows, []), rows


def _csv_rows(file: Path, text: str, delimiter: str, skip_blanks: bool) -> Iterator[list[str]]:
    """The header and the rows."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter, skipinitialspace=skip_blanks)
    width = 0
    try:
        for row in reader:
            if not any(field.strip() for field in row):
                continue
            while width and len(row) > width and not row[-1].strip():
                row = row[:-1]
            width = width or len(row)
            if len(row) != width:
                raise DataError(f"{shown(file)}, line {reader.line_num}: not as many values as columns")
            yield row
    except csv.Error as error:
        message = f"{shown(file)} is not a readable CSV file in UTF-8: {error}"
        if "field limit" in str(error):
            message = f"{shown(file)}, line {reader.line_num}: a field of more than 128 KiB: is a quote left open?"
        raise DataError(message) from error


def _json_lines(manifest: Path) -> tuple[list[str], _RowsOf]:
    """A file with a JSON object a line; DataError for a file that is none."""
    try:
        read = [json.loads(line) for line in manifest.read_bytes().decode().splitlines() if line.strip()]
        names = list(dict.fromkeys(name for row in read for name in dict(row)))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{shown(manifest)} is not a readable file of JSON lines: {shown(error)}") from error
    return names, lambda _: [[row.get(name) for name in names] for row in read]


def _parquet(manifest: Path) -> tuple[list[str], _RowsOf]:
    """A Parquet file; DataError for a file that is none."""
    import pyarrow as pa

    try:
        file = parquet_file(manifest)
        names = list(file.schema_arrow.names)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{shown(manifest)} is not a readable Parquet file: {shown(error)}") from error

    def rows(needed: set[int]) -> Iterator[list[object]]:
        chosen = [at for at in sorted(needed) if names.count(names[at]) == 1]
        try:
            with file:
                table = file.read(columns=[names[at] for at in chosen])
                columns = {at: table.column(names[at]).to_pylist() for at in chosen}
        except (OSError, ValueError, OverflowError, pa.ArrowException) as error:
            raise DataError(f"{shown(manifest)} is not a readable Parquet file: {shown(error)}") from error
        for row in range(table.num_rows):
            yield [columns[at][row] if at in columns else None for at in range(len(names))]

    return names, rows
