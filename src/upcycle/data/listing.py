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
    Prefix,
    Tree,
    check_beside,
    check_level,
    clean,
    endings_of,
    is_text,
    key,
    notes_on,
    suffix,
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
        names = [PurePosixPath(name) for name in asked.values()]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(f"{shown(twice[0])} cannot be two splits: give each of them another name")
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
    splits = _splits(tree, root, layout)
    if layout.classes_at is not None:
        return Places(splits, layout.classes_at)
    if splits and not layout.asked:
        check_beside(tree, splits, root)
    for prefix in splits or {(): ""}:
        check_level(prefix, root, tree)
    return Places(splits, None, tuple(notes_on(tree, splits)))


def _splits(tree: Tree, root: Path, layout: Layout) -> dict[Prefix, str]:
    """The folders that are splits, by their path; empty where DATA holds the classes themselves.

    A folder called train that holds images directly is a class of that name.
    """
    asked: dict[Prefix, str] = {}
    for split, name in layout.asked.items():
        prefix = PurePosixPath(name).parts
        if not prefix or prefix[0] == "/" or ".." in prefix:
            raise ConfigError(f"--{split}-split {shown(name)}: give the name of a folder below DATA")
        if not tree.used(prefix):
            where = shown(root.joinpath(*prefix))
            raise DataError(f"--{split}-split {shown(name)}: there is no {where} with class folders")
        asked[prefix] = split
    taken = {prefix[0] for prefix in asked}
    usual = {name: folder for name, folder in tree.level(()).items() if key(name) in SPLITS and name not in taken}
    # where there is another split, a val/ whose class folders are empty was meant as one too
    several = asked or any(folder.inside for folder in usual.values())
    for name, folder in usual.items():
        if folder.inside or (several and tree.level((name,)) and not folder.direct):
            split = SPLITS[key(name)]
            for prefix, other in asked.items():
                if other == split and prefix[0] in taken:
                    given = shown("/".join(prefix))
                    raise DataError(f"--{split}-split {given}: {shown(root)} has a {name} folder already; use that")
            asked[name,] = split
    return asked


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
_SURROGATES = re.compile(r"[\ud800-\udfff]")
"""What Python has for bytes of a name that are not UTF-8."""


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
    labels = {"": ""}  # of each folder: one string per class, not one per file
    others: dict[str, Counter[str]] = {}
    by_content: Counter[str] = Counter()
    for below, names in tree.files.items():
        folder, split = where.of(tuple(below.split("/")) if below else ()) or ("", "")
        label = labels.setdefault(folder, clean(folder) or folder)
        if label and _all_images(below, names) and not tree.irregular:
            rows += [ListedFile(f"{below}/{name}", label, split, "") for name in names]
            continue
        for name in names:
            path = f"{below}/{name}" if below else name
            reason = _why_unusable(root, path, label, irregular=path in tree.irregular)
            if reason is None:
                rows.append(ListedFile(path, label, split, ""))
                by_content[label] += not path.lower().endswith(ENDINGS)
            elif reason.reason:
                excluded.append(Quarantined(shown(path), reason.reason, label, split, reason.kind))
            else:
                others.setdefault(label, Counter())[suffix(path)] += 1
    used = ({row.label for row in rows} | {file.label for file in excluded}) - {""}
    classes, splits = set(used), {row.split for row in rows} | {file.split for file in excluded}
    for path in tree.folders:
        parts = PurePosixPath(path).parts
        own = where.of(parts)
        if own is not None and where.of(parts[:-1]) is None:  # the folder of a class itself
            label = labels.setdefault(own[0], clean(own[0]) or own[0])
            splits.add(own[1])
            if label not in others:
                classes.add(label)
    return Listing(
        root,
        layout,
        rows,
        excluded,
        others=sum(others.values(), Counter()),
        classes=frozenset(classes),
        splits=frozenset(splits - {""}),
        notes=(
            *where.notes,
            *_recognized(+by_content),
            *(
                f"the folder {shown(label)} holds no images ({endings(counts.most_common(3))}) and is no class"
                for label, counts in others.items()
                if label not in used and label
            ),
            *alike(folder for folder, label in labels.items() if label in used),
        ),
    )


def _all_images(below: str, names: list[str]) -> bool:
    """Whether all files of a folder are named as images, in ASCII; then there is nothing to ask of each."""
    return below.isascii() and all(ending in ENDINGS for ending in endings_of(names)) and "".join(names).isascii()


def endings(counts: Iterable[tuple[str, int]]) -> str:
    """How many files there are of each ending, in words."""
    return ", ".join(f"{count} {shown(ending) or 'without an ending'}" for ending, count in counts)


def _recognized(by_content: Counter[str]) -> list[str]:
    """That files were read whose names do not say that they are pictures."""
    if not by_content:
        return []
    first, more, count = min(by_content), len(by_content) - 1, by_content.total()
    hold = f"class {shown(first)!r} " + (f"and {more} more hold" if more else "holds")
    return [f"{hold} {count:,} file{'s' * (count > 1)} with no usable ending, recognized by content"]


def _why_unusable(root: Path, path: str, label: str, *, irregular: bool) -> Unusable | None:
    """Why a file is not used; no reason for one that is no image and means to be none, None for one to read."""
    if not path.lower().endswith(ENDINGS):
        if not label or (irregular and is_text(path)):
            return _NO_IMAGE
        if irregular or not _is_picture(root / path):
            return _unread(path)
    if not path.isascii() and _SURROGATES.search(path):
        return Unusable("its name is not UTF-8: rename it", "misplaced")
    if irregular:
        return Unusable("a broken link, or not a regular file", "misplaced")
    return None if label else Unusable("is not in a class folder", "misplaced")


def _unread(path: str) -> Unusable:
    """Why a file is not read whose name does not end as an image's, and whose content is none that is read."""
    ending = shown(suffix(path))
    if is_text(path) or PurePosixPath(path).name.lower() in _NEEDLESS:
        return _NO_IMAGE
    if not ending:
        return Unusable("no file extension, and its content is no supported image format", "unsupported")
    what = "image format" if ending in _OTHER_PICTURES else "file extension"
    return Unusable(f"unsupported {what} {ending}: convert it to JPEG or PNG", "unsupported")


def _is_picture(file: Path) -> bool:
    """Whether a file begins as the formats that are read do."""
    try:
        with file.open("rb") as opened:
            return bool(begins(opened.read(16)))
    except OSError:
        return False


def alike(names: Iterable[str]) -> list[str]:
    """A sentence for each set of classes' names that are taken as one, and for each that are not and look the same."""
    forms: dict[str, set[str]] = {}
    looks: dict[str, set[str]] = {}
    for name in names:
        label = clean(name) or name
        forms.setdefault(label, set()).add(name)
        looks.setdefault(_visible(label), set()).add(label)

    def coded(name: str) -> str:  # letters beyond ASCII as escapes where they are not in the composed form
        return repr(shown(name)) if clean(name) == name.strip() else ascii(name)

    taken = [
        f"{' and '.join(map(coded, sorted(several)))} differ in blanks or in Unicode's form alone: "
        f"taken as one class, {shown(label)!r}"
        for label, several in sorted(forms.items())
        if len(several) > 1
    ]
    return taken + [
        f"the classes {' and '.join(repr(shown(label)) for label in sorted(several))} differ by case or by what is "
        "hardly seen: give them one name if they are one class"
        for _, several in sorted(looks.items())
        if len(several) > 1
    ]


def _visible(label: str) -> str:
    """What is seen of a name: no case, one blank for several, nothing invisible; 1.0 as 1."""
    plain = unicodedata.normalize("NFKC", label).casefold()
    seen = "".join(char for char in plain if unicodedata.category(char) != "Cf")
    return re.sub(r"^(\d+)\.0+$", r"\1", " ".join(seen.split()))
