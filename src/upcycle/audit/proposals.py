"""What a scan proposes: a list of files to exclude, and a manifest with groups of what belongs together.

A person edits the list, and training honors it. It is a CSV file `excluded,path,reason`; rows whose `excluded` is `no`
are for the person to decide. A path is relative to DATA, or to the folder of the manifest. Paths are only compared with
those that DATA holds: none is opened.
"""

import posixpath
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from upcycle.audit.findings import Audited, Finding, FlaggedImage
from upcycle.audit.statistics import Groups, near_duplicates, same_pixels
from upcycle.data.index import Index, equal
from upcycle.data.listing import Unusable
from upcycle.data.splits import components, connected, write_csv
from upcycle.data.table import read_csv
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


def read_list(path: Path | None) -> list[Entry]:
    """The list in a CSV file with a column `path`, and perhaps `reason` and `excluded`; DataError where it is none.

    Without a file it is empty.
    """
    if path is None:
        return []
    if not path.exists():
        raise DataError(f"{shown(path)} does not exist: give the quarantine.csv of a scan")
    # names of files may begin with a blank
    names, rows = read_csv(path, (_COLUMN, _OLD_COLUMN, "path", "reason"), skip_blanks=False)
    if "path" not in names:
        raise DataError(f"{shown(path)} has no column 'path': it needs excluded,path,reason")
    answers = _OLD_COLUMN if _OLD_COLUMN in names else _COLUMN
    entries = []
    for number, values in enumerate(rows, 1):
        row = dict(zip(names, values, strict=True))
        answer = row.get(answers, "yes").strip().lower()
        if answer not in _ANSWERS:
            raise DataError(f"{shown(path)}, row {number}: {answers} {shown(answer)!r} is neither yes nor no")
        if not row["path"]:
            raise DataError(f"{shown(path)}, row {number}: path must not be empty")
        entries.append(Entry(row["path"], row.get("reason", ""), _ANSWERS[answer]))
    return entries


@dataclass(frozen=True)
class Excluded:
    """What a list leaves of an index, the rows whose files DATA holds, and the paths that it does not hold."""

    index: Index
    entries: list[Entry]
    missing: list[str]

    def warnings(self, source: object) -> list[str]:
        """That the list `source` names files that are not there, where it does."""
        more = f" and {len(self.missing) - 3} more" if len(self.missing) > 3 else ""
        named = ", ".join(map(shown, self.missing[:3]))
        return [f"{source} lists files that are not there: {named}{more}"] if self.missing else []


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


# -------------------------------------------------------------------------------------- groups

_FEWEST = 8
"""Different beginnings that there must be at least: fewer are batches or classes."""
_SHARED = 0.25
"""Fraction of the images that must share their beginning with another image."""
_LARGEST = 0.2
"""Largest fraction of the images that one beginning may have."""
_REPEATED = 0.01
"""Where more names than this fraction are in several folders, each folder numbers its own: names say less."""
_LEVELS = 6
"""Parts that are taken off a name at most."""

_BETWEEN = re.compile(r"[\W_]+")
_PART = re.compile(r"\d+|[^\W\d_]+")
_NUMBER = re.compile(r"\d")
_DATE = re.compile(r"\D*(19|20)\d\d[\W_]?[01]\d[\W_]?[0-3]\d")


@dataclass(frozen=True, eq=False)
class NameGroups:
    """`names`: the beginning that each group's file names share, [m]; `codes`: int64 [n], each image's, -1 for none."""

    names: tuple[str, ...]
    codes: npt.NDArray[np.int64]

    @classmethod
    def of(cls, names: Iterable[str]) -> "NameGroups":
        """The groups of equal names; "" is none."""
        encoded = pa.array([name or None for name in names], pa.string()).dictionary_encode()
        codes = encoded.indices.fill_null(-1).to_numpy().astype(np.int64)
        return cls(tuple(encoded.dictionary.to_pylist()), codes)

    def positions(self) -> Groups:
        """Positions of the images of each group of two or more."""
        return [group for group in equal(self.codes) if self.codes[group[0]] >= 0]


def shorter(stem: str) -> list[str]:
    """`stem` without its last part, its last two parts, and so on: between separators, then numbers and letters."""
    cuts = [between.start() for between in _BETWEEN.finditer(stem) if between.start()]
    inner = [part.start() for part in _PART.finditer(stem, 0, cuts[0] if cuts else len(stem))]
    return [stem[:cut] for cut in sorted({*cuts, *inner[1:]}, reverse=True)][:_LEVELS]


def name_groups(index: Index) -> NameGroups | None:
    """The widest groups that the file names show; None where they show none, or DATA names groups itself."""
    if any(group for group in index.groups.to_pylist()):
        return None
    files = [_parted(path) for path in index.paths.to_pylist()]
    inside = len(files) - len({stem for _, stem in files}) > _REPEATED * len(files)
    begins = [shorter(stem) for _, stem in files]
    for level in reversed(range(_LEVELS)):
        keys = [
            _key(names[level], folder if inside else "") if len(names) > level else ""
            for names, (folder, _) in zip(begins, files, strict=True)
        ]
        found = _grouped(keys, index)
        if found is not None:
            return found
    return None


def _parted(path: str) -> tuple[str, str]:
    """Folder, with its "/", and name without ending of a path."""
    folder, slash, name = path.rpartition("/")
    return folder + slash, name.rpartition(".")[0] or name


def _key(beginning: str, folder: str) -> str:
    """The group a beginning stands for; "" for one without a number, or with nothing but a date."""
    return "" if not _NUMBER.search(beginning) or _DATE.fullmatch(beginning) else folder + beginning


def _grouped(keys: list[str], index: Index) -> NameGroups | None:
    """The groups of equal `keys`, if they look like groups."""
    groups = NameGroups.of(keys)
    names, codes = groups.names, groups.codes
    counts = np.bincount(codes[codes >= 0], minlength=len(names))
    if len(names) < _FEWEST or counts.max() > _LARGEST * len(keys):
        return None
    if counts[counts > 1].sum() < _SHARED * len(keys):
        return None
    labels = index.labels[codes >= 0]
    pairs = len(np.unique(np.stack([codes[codes >= 0], labels]), axis=1).T)
    if pairs == len(names) == len(np.unique(labels)):  # another spelling of the classes
        return None
    return groups


def together(data: Audited) -> Groups:
    """Positions of images that belong together: copies, near-duplicates, and groups that names show."""
    groups = [*same_pixels(data.statistics), *(near_duplicates(data.statistics) or [])]
    names = name_groups(data.index)
    return groups + (names.positions() if names is not None else [])


def write_grouped(path: Path, index: Index, groups: Groups, *, without: Collection[str] = ()) -> None:
    """Write the images as a manifest whose column `group` keeps on one side what belongs together, also in a chain.

    `groups`: positions of copies, near-duplicates and groups that names show; `without`: paths to leave out. Paths are
    absolute, and there is no column `split`: one that cuts through groups is to be replaced.
    """
    numbers = components(index)  # DATA's own groups and equal bytes
    links = np.array([(group[0], other) for group in groups for other in group[1:]], np.int64).reshape(-1, 2)
    together = connected(numbers[links], len(index))[numbers]
    several = np.bincount(together)[together] > 1
    rows = (
        (str(index.file(at)), index.label(at), f"group-{together[at]}" if several[at] else "")
        for at in range(len(index))
        if index.path(at) not in without
    )
    write_csv(path, ("path", "label", "group"), rows)
