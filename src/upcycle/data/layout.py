"""Which folders are the split and which are the classes: told by name, asked for where names do not tell."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from upcycle.data.doubts import SPLITS, Folder, Prefix, check_beside, check_level, deep, flattened, key, level
from upcycle.data.walk import Tree, clean, shown
from upcycle.errors import ConfigError, DataError

if TYPE_CHECKING:
    from upcycle.config import Config


@dataclass(frozen=True)
class Layout:
    """How DATA is to be read; what is left out is told from names.

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
        """What a configuration says of it."""
        columns = {name: getattr(config, f"{name}_column") for name in ("path", "label", "split", "group")}
        return cls(
            train_split=config.train_split,
            val_split=config.val_split,
            test_split=config.test_split,
            classes_at=config.classes_at,
            drop_empty_classes=config.drop_empty_classes,
            image_root=config.image_root,
            image_suffix=config.image_suffix,
            columns={name: column for name, column in columns.items() if column is not None},
        )

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
    """Where the classes are in `tree`; DataError, with what to type, where the folders do not tell."""
    if layout.classes_at == 1:
        if layout.asked:
            raise ConfigError("--classes-at 1 leaves no folder above the classes for a split: leave one of them out")
        return Places({}, 1)
    top = level(tree, ())
    splits = _splits(tree, top, root, layout)
    if layout.classes_at is not None:
        return Places(splits, layout.classes_at)
    if not splits:
        check_level(top, (), root, tree)
    elif not layout.asked:
        check_beside(top, splits, root)
    for prefix in splits:
        check_level(level(tree, prefix), prefix, root, tree)
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
        if not any(folder.images for folder in level(tree, prefix).values()):
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
