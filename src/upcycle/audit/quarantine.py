"""The list of files to exclude: a scan suggests it, a person edits it, training honors it.

A CSV file `excluded,path,reason`; rows whose `excluded` is `no` are for the person to decide. A path is relative to
DATA, or to the folder of the manifest. Paths are only compared with those that DATA holds: none is opened.
"""

import csv
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from upcycle.audit.findings import Finding, FlaggedImage
from upcycle.data.index import Index
from upcycle.data.listing import Unusable
from upcycle.data.splits import write_csv
from upcycle.errors import DataError, shown

_ANSWERS = {"yes": True, "no": False}
_COLUMN, _OLD_COLUMN = "excluded", "set_aside"


class Entry(NamedTuple):
    """A file, why it is listed, and whether it is to be excluded."""

    path: str
    reason: str
    excluded: bool = True


def write_list(path: Path, entries: Iterable[Entry]) -> None:
    """Write the list, what is to be excluded first; StorageError when that fails."""
    rows = sorted(entries, key=lambda entry: (not entry.excluded, entry.path))
    write_csv(path, (_COLUMN, "path", "reason"), [("yes" if row.excluded else "no", *row[:2]) for row in rows])


def read_list(path: Path) -> list[Entry]:
    """The list in a CSV file with a column `path`, and perhaps `reason` and `excluded`; DataError where it is none."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(_rows(path, csv.DictReader(file, strict=True)))
    except FileNotFoundError:
        raise DataError(f"{shown(path)} does not exist: give the quarantine.csv of a scan") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{shown(path)} is not a readable CSV file in UTF-8: {error}") from error


def _rows(path: Path, rows: "csv.DictReader[str]") -> Iterator[Entry]:
    if "path" not in (rows.fieldnames or ()):
        raise DataError(f"{shown(path)} has no column 'path': it needs excluded,path,reason")
    answers = _OLD_COLUMN if _OLD_COLUMN in (rows.fieldnames or ()) else _COLUMN
    for row in rows:
        where = f"{shown(path)}, line {rows.line_num}"
        if None in (*row, *row.values()):
            raise DataError(f"{where}: not as many values as columns")
        answer = row.get(answers, "yes").strip().lower()
        if answer not in _ANSWERS:
            raise DataError(f"{where}: {answers} {shown(answer)!r} is neither yes nor no")
        if not row["path"]:
            raise DataError(f"{where}: path must not be empty")
        yield Entry(row["path"], row.get("reason", ""), _ANSWERS[answer])


@dataclass(frozen=True)
class Excluded:
    """What a list leaves of an index, the rows whose files DATA holds, and the paths that it does not hold."""

    index: Index
    entries: list[Entry]
    missing: list[str]


def exclude(index: Index, entries: Iterable[Entry], source: str, *, trainable: bool = True) -> Excluded:
    """`index` without the files to be excluded; paths of the entries as `index` has them.

    Each goes to the index's own quarantine with its reason and `source`, where the list is from. DataError for a path
    that leads out of DATA, or, with `trainable`, when too little is left to train on.
    """
    places = {path: at for at, path in enumerate(index.paths.to_pylist())}
    present = {*places, *(file.path for file in index.quarantined)}
    resolved = [
        entry if entry.path in present else entry._replace(path=_inside(index.root, entry.path)) for entry in entries
    ]
    reasons = {
        places[entry.path]: Unusable(
            f"excluded by {source}" + (f": {entry.reason}" if entry.reason else ""), "excluded"
        )
        for entry in resolved
        if entry.path in places and entry.excluded
    }
    return Excluded(
        index.without(reasons, trainable=trainable),
        [entry for entry in resolved if entry.path in present],
        [entry.path for entry in resolved if entry.path not in present],
    )


def _inside(root: Path, path: str) -> str:
    """The path relative to `root`; DataError where it lies elsewhere."""
    file = Path(path)
    if file.is_absolute() and file.is_relative_to(root):
        file = file.relative_to(root)
    plain = posixpath.normpath(file.as_posix())
    if file.is_absolute() or plain == ".." or plain.startswith("../"):
        raise DataError(f"the quarantine names {shown(path)}, which is not in {shown(root)}")
    return plain


_EXCLUDED = ("conflicts", "blank", "empty", "too-large", "truncated", "misplaced", "limit", "unreadable")
"""Kinds whose images no training should see."""
_TO_DECIDE = ("label-errors", "leaks", "near", "tiny", "odd-aspect", "copies")
"""Kinds that a person has to decide on."""
_REASONS = {"near": "a near-duplicate of", "blank": "blank", "tiny": "tiny", "odd-aspect": "very long"}


def proposed(findings: Sequence[Finding]) -> list[Entry]:
    """A row for each file, those to exclude marked; the most pressing reason where there are several."""
    rows: dict[str, Entry] = {}
    for kind in (*_EXCLUDED, *_TO_DECIDE):
        for group in (group for finding in findings if finding.kind == kind for group in finding.groups):
            for image in group[1:] if kind == "copies" else group:
                rows.setdefault(image.path, Entry(image.path, _reason(kind, image, group), kind in _EXCLUDED))
    return list(rows.values())


def _reason(kind: str, image: FlaggedImage, group: Sequence[FlaggedImage]) -> str:
    other = next((other for other in group if other != image), None)
    if other is not None:
        more = f" and {len(group) - 2} more" if len(group) > 2 else ""
        of = f"{other.path} ({', '.join(filter(None, (other.label, other.split)))})"
        return f"{_REASONS.get(kind, 'the same image as')} {of}{more}"
    return ": ".join(filter(None, (_REASONS.get(kind, ""), image.note)))
