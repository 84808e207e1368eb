"""Which files a folder holds, and the class and split it gives each; decodes no image.

Names tell which folders are the split and which are the classes; where they do not, the command asks.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from upcycle.data.folders import (
    SPLITS,
    Folder,
    Prefix,
    Tree,
    check_beside,
    check_level,
    clean,
    deep,
    flattened,
    is_text,
    key,
    walk,
)
from upcycle.data.formats import ENDINGS, begins
from upcycle.errors import ConfigError, DataError, FileProblem, shown

if TYPE_CHECKING:
    from upcycle.config import Config


@dataclass(frozen=True)
class Layout:
    """How DATA is to be read; names decide what is left out.

    `train_split`, `val_split`, `test_split`: folder (or value of a manifest's column) that is this split; `classes_at`:
    the level of folders below DATA that are the classes, from 1; `image_root`, `image_suffix`: what a manifest's paths
    are relative to, and what they end in; `columns`: a manifest's own names of path, label, split and group, or "none".
    """

    train_split: str | None = None
    val_split: str | None = None
    test_split: str | None = None
    classes_at: int | None = None
    drop_empty_classes: bool = False
    image_root: str | None = None
    image_suffix: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, config: "Config") -> "Layout":
        """The options of a configuration."""
        columns = {name: getattr(config, f"{name}_column") for name in ("path", "label", "split", "group")}
        named = {field.name: getattr(config, field.name) for field in fields(cls) if field.name != "columns"}
        return cls(**named, columns={name: column for name, column in columns.items() if column is not None})

    @property
    def asked(self) -> dict[str, str]:
        """The names that were given, by split; ConfigError for one name given twice."""
        given = {"train": self.train_split, "val": self.val_split, "test": self.test_split}
        asked = {split: name for split, name in given.items() if name is not None}
        for name, count in Counter(asked.values()).items():
            if count > 1:
                raise ConfigError(f"{shown(name)} cannot be two splits: give each of them another name")
        return asked

    def split_of(self, value: str) -> str | None:
        """The split that a manifest's `value` names, None for none: as asked, else by the usual names."""
        for split, name in self.asked.items():
            if self.is_asked(value, split, name):
                return split
        return SPLITS.get(clean(value).casefold())

    @staticmethod
    def is_asked(value: str, split: str, name: str) -> bool:
        """Whether `value` is another spelling of the `name` that was given for `split`."""
        keys = [clean(text).casefold() for text in (value, name)]
        return keys[0] == keys[1] or [SPLITS.get(key) for key in keys] == [split, split]


@dataclass(frozen=True)
class Places:
    """Where the classes are: below the folders `splits`, or at level `at` of the others."""

    splits: Mapping[Prefix, str]
    at: int | None = None
    notes: tuple[str, ...] = ()

    def of(self, parts: Prefix) -> tuple[str, str] | None:
        """Folder of the class and split ("" for none) of a file or folder with these parents; None for neither."""
        prefix = next((parts[:size] for size in range(len(parts), 0, -1) if parts[:size] in self.splits), ())
        level = self.at or len(prefix) + 1
        if (self.splits and not prefix) or len(parts) < level or level <= len(prefix):
            return None
        return parts[level - 1], self.splits.get(prefix, "")


def places(tree: Tree, root: Path, layout: Layout) -> Places:
    """Where the classes are in `tree`; DataError, with what to type, where the folders leave it open."""
    if layout.classes_at == 1:
        if layout.asked:
            raise ConfigError("--classes-at 1 leaves no folder above the classes for a split: leave one of them out")
        return Places({}, 1)
    top = tree.level(())
    splits = _splits(tree, top, root, layout)
    if layout.classes_at is not None:
        return Places(splits, layout.classes_at)
    if not splits:
        check_level(top, (), root, tree)
    elif not layout.asked:
        check_beside(top, splits, root)
    for prefix in splits:
        check_level(tree.level(prefix), prefix, root, tree)
    return Places(splits, None, (*flattened(tree, splits), *(deep(top) if not splits else ())))


def _splits(tree: Tree, top: Mapping[str, Folder], root: Path, layout: Layout) -> dict[Prefix, str]:
    """The folders that are splits, by their path; empty where DATA holds the classes themselves.

    A folder called train that holds images directly is a class of that name.
    """
    asked: dict[Prefix, str] = {}
    for split, name in layout.asked.items():
        prefix = tuple(PurePosixPath(name).parts)
        if not prefix or prefix[0] == "/" or ".." in prefix:
            raise ConfigError(f"--{split}-split {shown(name)}: give the name of a folder below DATA")
        if prefix in asked:
            raise ConfigError(f"{shown(name)} cannot be two splits: give each of them another name")
        asked[prefix] = split
    for prefix, split in asked.items():
        if not any(folder.images for folder in tree.level(prefix).values()):
            where = shown(root.joinpath(*prefix))
            raise DataError(f"--{split}-split {shown('/'.join(prefix))}: there is no {where} with class folders")
    usual = {name: SPLITS[key(name)] for name in top if key(name) in SPLITS}
    usual = {name: split for name, split in usual.items() if (name,) not in {prefix[:1] for prefix in asked}}
    full = {name: split for name, split in usual.items() if top[name].inside}
    if full or asked:  # then a val/ whose class folders are empty was meant as one too
        full = {name: split for name, split in usual.items() if top[name].inside or _is_bare(top[name])}
    for prefix, split in asked.items():
        other = next((name for name, usually in full.items() if usually == split), None)
        if other is not None:
            folder = shown("/".join(prefix))
            raise DataError(f"--{split}-split {folder}: {shown(root)} has a {other} folder already; use that")
    return {**asked, **{(name,): split for name, split in full.items()}}


def _is_bare(folder: Folder) -> bool:
    return folder.folders > 0 and not folder.direct


__all__ = [
    "Layout",
    "ListedFile",
    "Listing",
    "Quarantined",
    "Unusable",
    "list_folder",
    "lookalikes",
    "merged",
]

_OTHER_PICTURES = (
    *(".jxl", ".svg", ".ico", ".tga", ".psd", ".xcf", ".exr", ".hdr"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2"),
)
"""Endings of pictures that are not read."""
_NEEDLESS = ("thumbs.db", "desktop.ini", "license", "readme")


class Unusable(NamedTuple):
    """Why a file cannot be used: in words, and as a code."""

    reason: str
    kind: FileProblem = "unreadable"


_NO_IMAGE = Unusable("")


@dataclass(frozen=True)
class Quarantined:
    """A file that is listed but never used; `path` is relative to the data's root.

    `label` and `split`: what it would have been, "" where it has none; `kind`: the code of its `reason`.
    """

    path: str
    reason: str
    label: str = field(default="", compare=False)
    split: str = field(default="", compare=False)
    kind: FileProblem = field(default="unreadable", compare=False)


class ListedFile(NamedTuple):
    """A file to read: its path relative to the root, with "/", its class, and split and group or ""."""

    path: str
    label: str
    split: str
    group: str


@dataclass(frozen=True)
class Listing:
    """Files to read, files excluded with a reason, and how many other files there are by ending; none opened yet.

    `root` is absolute; `classes`: every class that is there, with or without images; `splits`: every split that is
    declared, the same; `notes`: how it was read, where that is not plain, one sentence each.
    """

    root: Path
    layout: Layout
    rows: list[ListedFile]
    excluded: list[Quarantined]
    others: Counter[str] = field(default_factory=Counter)
    classes: frozenset[str] = frozenset()
    splits: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def list_folder(root: Path, layout: Layout) -> Listing:
    """The images below `root`, laid out as `split/CLASS/*` or `CLASS/*`; DataError where the folders leave it open."""
    tree = walk(root)
    where = places(tree, root, layout)
    rows: list[ListedFile] = []
    excluded: list[Quarantined] = []
    others: Counter[str] = Counter()
    names: dict[str, str] = {}  # one string per class, not one per file
    texts: dict[str, Counter[str]] = {}
    by_content: Counter[str] = Counter()
    for path in tree.files:
        folder, split = where.of(PurePosixPath(path).parts[:-1]) or ("", "")
        label = names.setdefault(folder, clean(folder) or folder)
        reason = _why_unusable(root, path, label, irregular=path in tree.irregular)
        if reason is None:
            rows.append(ListedFile(path, label, split, ""))
            by_content[label] += not path.lower().endswith(ENDINGS)
        elif reason.reason:
            excluded.append(Quarantined(shown(path), reason.reason, label, split, reason.kind))
        else:
            ending = PurePosixPath(path).suffix.lower()
            others[ending] += 1
            if label:
                texts.setdefault(label, Counter())[ending] += 1
    used = {row.label for row in rows} | {file.label for file in excluded if file.label}
    empty, splits = set(), {row.split for row in rows} | {file.split for file in excluded}
    for path in tree.folders:
        placed = where.of(PurePosixPath(path).parts)
        if placed is not None and where.of(PurePosixPath(path).parts[:-1]) is None:  # the folder of a class itself
            empty.add(names.setdefault(placed[0], clean(placed[0]) or placed[0]))
            splits.add(placed[1])
    notes = (
        *where.notes,
        *_recognized(+by_content),
        *(_no_class(label, counts) for label, counts in texts.items() if label not in used),
        *merged(label for label in names if label),
        *lookalikes(used),
    )
    classes = frozenset(used | (empty - texts.keys()))
    return Listing(root, layout, rows, excluded, others, classes, frozenset(splits - {""}), notes)


def _recognized(by_content: Counter[str]) -> list[str]:
    """That files were read whose names do not say that they are pictures."""
    if not by_content:
        return []
    first, more = min(by_content), len(by_content) - 1
    where = f"class {shown(first)!r} " + (f"and {more} more hold" if more else "holds")
    count = by_content.total()
    return [f"{where} {count:,} file{'s' * (count > 1)} with no usable ending, recognized by content"]


def _no_class(label: str, counts: Counter[str]) -> str:
    kinds = ", ".join(f"{count} {shown(ending) or 'without an ending'}" for ending, count in counts.most_common(3))
    return f"the folder {shown(label)} holds no images ({kinds}) and is no class"


def _why_unusable(root: Path, path: str, label: str, *, irregular: bool) -> Unusable | None:
    """Why a file is not used; no reason for one that is no image and means to be none, None for one to read."""
    if not path.lower().endswith(ENDINGS):
        if not label or (irregular and is_text(path)):
            return _NO_IMAGE
        if irregular or not _is_picture(root / path):
            return _unread(path)
    if not _is_utf8(path):
        return Unusable("its name is not UTF-8: rename it", "misplaced")
    if irregular:
        return Unusable("a broken link, or not a regular file", "misplaced")
    return None if label else Unusable("is not in a class folder", "misplaced")


def _unread(path: str) -> Unusable:
    """Why a file is not read whose name does not end as an image's, and whose content is none that is read."""
    ending = shown(PurePosixPath(path).suffix.lower())
    if ending in _OTHER_PICTURES:
        return Unusable(f"unsupported image format {ending}: convert it to JPEG or PNG", "unsupported")
    if is_text(path) or PurePosixPath(path).name.lower() in _NEEDLESS:
        return _NO_IMAGE
    if ending:
        return Unusable(f"unsupported file extension {ending}: convert it to JPEG or PNG", "unsupported")
    return Unusable("no file extension, and its content is no supported image format", "unsupported")


def _is_picture(file: Path) -> bool:
    """Whether a file begins as the formats that are read do."""
    try:
        with file.open("rb") as opened:
            return bool(begins(opened.read(16)))
    except OSError:
        return False


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def merged(names: Iterable[str]) -> list[str]:
    """A sentence for each class whose name occurs in several forms that are taken as one."""
    by_name: dict[str, set[str]] = {}
    for name in names:
        by_name.setdefault(clean(name) or name, set()).add(name)
    return [
        f"{' and '.join(_coded(name) for name in sorted(several))} differ in blanks or in Unicode's form alone: "
        f"taken as one class, {shown(label)!r}"
        for label, several in sorted(by_name.items())
        if len(several) > 1
    ]


def _coded(name: str) -> str:
    """A name in quotes, its letters beyond ASCII as escapes where it is not in the composed form."""
    return repr(shown(name)) if clean(name) == name.strip() else ascii(name)


def lookalikes(labels: Iterable[str]) -> list[str]:
    """A sentence for each set of classes whose names look the same, or are the same number."""
    by_key: dict[str, list[str]] = {}
    for label in sorted(labels):
        by_key.setdefault(_visible(label), []).append(label)
    return [
        f"the classes {' and '.join(repr(shown(name)) for name in several)} differ by case or by what is hardly seen: "
        "give them one name if they are one class"
        for several in by_key.values()
        if len(several) > 1
    ]


def _visible(label: str) -> str:
    """What is seen of a name: no case, one blank for several, nothing invisible; 1.0 as 1."""
    plain = unicodedata.normalize("NFKC", label).casefold()
    seen = "".join(char for char in plain if unicodedata.category(char) != "Cf")
    return re.sub(r"^(\d+)\.0+$", r"\1", " ".join(seen.split()))
