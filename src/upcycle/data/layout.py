"""Which folders are the split and which are the classes: told by name, asked for where names do not tell."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from upcycle.data.walk import Tree, clean, shown
from upcycle.errors import ConfigError, DataError

if TYPE_CHECKING:
    from upcycle.config import Config

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
SPLIT_LIKE = {
    **SPLITS,
    "trn": "train",
    "dev": "val",
    "eval": "val",
    "evaluation": "val",
    "tst": "test",
} | dict.fromkeys(("holdout", "heldout", "unseen"), "test")
ROLES = frozenset(
    (
        *("image", "images", "imgs", "jpegimages", "leftimg8bit", "mask", "masks", "label", "labels", "annotation"),
        *("annotations", "groundtruth", "ground_truth", "gt", "gtfine", "trimaps", "segmentation", "segmentations"),
        *("segmentationclass", "segmentationobject", "bboxes", "thumbnails"),
    )
)
"""Names of folders that say what kind of picture is in them, and never a class."""
_PARTS = frozenset(
    [
        "image",
        "images",
        "img",
        "imgs",
        "photo",
        "photos",
        "data",
        "part",
        "parts",
        "batch",
        "chunk",
        "fold",
        "set",
        "subset",
    ]
)
_AROUND = frozenset(["data", "dataset", "datasets", "images", "photos", "pictures", "classes", "all", "raw"])
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_THING = re.compile(r"(set|data|dataset|images?|imgs?|photos?|pics?|split|folder)$")
TEXTS = frozenset(
    (
        *(".txt", ".xml", ".json", ".jsonl", ".csv", ".tsv", ".md", ".rst", ".html", ".htm", ".yaml", ".yml", ".toml"),
        *(
            ".ini",
            ".cfg",
            ".log",
            ".db",
            ".py",
            ".ipynb",
            ".sh",
            ".parquet",
            ".xls",
            ".xlsx",
            ".pbtxt",
            ".names",
            ".data",
        ),
    )
)
"""Endings of files that describe images and are none themselves."""

Prefix = tuple[str, ...]


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


@dataclass
class _Folder:
    """What one folder holds: images right in it, images by the folders in it, and how many folders."""

    direct: int = 0
    inside: Counter[str] = field(default_factory=Counter)
    folders: int = 0

    @property
    def images(self) -> int:
        return self.direct + self.inside.total()


def is_text(path: str) -> bool:
    """Whether a file is no picture and means to be none, by its ending."""
    return PurePosixPath(path).suffix.lower() in TEXTS


def _level(tree: Tree, above: Prefix) -> dict[str, _Folder]:
    """The folders right below `above` that hold images or folders."""
    start = "".join(f"{name}/" for name in above)
    level: dict[str, _Folder] = {}
    for path in tree.folders:
        if path.startswith(start):
            name, *rest = path[len(start) :].split("/")
            level.setdefault(name, _Folder()).folders += len(rest) == 1
    for path in tree.files:
        if path.startswith(start) and not is_text(path):
            name, *rest = path[len(start) :].split("/")
            if len(rest) == 1:
                level.setdefault(name, _Folder()).direct += 1
            elif rest:
                level.setdefault(name, _Folder()).inside[rest[0]] += 1
    return dict(sorted(level.items()))


def places(tree: Tree, root: Path, layout: Layout) -> Places:
    """Where the classes are in `tree`; DataError, with what to type, where the folders do not tell."""
    if layout.classes_at == 1:
        if layout.asked:
            raise ConfigError("--classes-at 1 leaves no folder above the classes for a split: leave one of them out")
        return Places({}, 1)
    top = _level(tree, ())
    splits = _splits(tree, top, root, layout)
    if layout.classes_at is not None:
        return Places(splits, layout.classes_at)
    if not splits:
        _check_level(top, (), root, tree)
    else:
        _check_beside(top, splits, root, layout)
    for prefix in splits:
        _check_level(_level(tree, prefix), prefix, root, tree)
    return Places(splits, None, (*_flattened(tree, splits), *(_deep(top) if not splits else ())))


def _splits(tree: Tree, top: Mapping[str, _Folder], root: Path, layout: Layout) -> dict[Prefix, str]:
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
        if not any(folder.images for folder in _level(tree, prefix).values()):
            where = shown(root.joinpath(*prefix))
            raise DataError(f"--{split}-split {shown('/'.join(prefix))}: there is no {where} with class folders")
    usual = {name: SPLITS[_key(name)] for name in top if _key(name) in SPLITS}
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


def _is_bare(folder: _Folder) -> bool:
    return folder.folders > 0 and not folder.direct


def _likeness(name: str) -> str | None:
    """The split that a folder's name sounds like: seg_train, TestSet, images-val."""
    words = [word.casefold() for word in _WORD.findall(name)]
    found = (SPLIT_LIKE.get(word) or SPLIT_LIKE.get(_THING.sub("", word)) for word in words)
    return next((split for split in found if split), None)


def _check_level(level: Mapping[str, _Folder], above: Prefix, root: Path, tree: Tree) -> None:
    """DataError where the folders that would be classes look like anything else."""
    used = {name: folder for name, folder in level.items() if folder.images}
    where = root.joinpath(*above)
    depth = len(above) + 1
    wrapping = _around(used)
    if wrapping is not None:
        _check_wrapped({wrapping: used[wrapping]}, above, root, tree)
    _check_kinds(used, where, depth)
    alike = {name: split for name in used if (split := _likeness(name))} if not above else {}
    lone = [name for name in alike if _holds_classes(tree, used[name], (*above, name))]
    several = len(set(alike.values())) > 1 and 2 * len(alike) >= len(used)
    if several or (lone and all(len(folder.inside) < 2 for name, folder in used.items() if name not in lone)):
        raise DataError(_as_split(where, alike, used))
    shared = _shared(used)
    if shared and not all(SPLITS.get(_key(name)) for name in shared):
        keys = {_key(name) for name in shared}
        names = [name for name, folder in used.items() if keys & {_key(below) for below in folder.inside}]
        if keys <= ROLES:
            raise DataError(
                f"{shown(where)}: {_named(names)} each hold the folders {_named(shared)}, which are kinds of picture: "
                f"move all but one of these elsewhere, or give --classes-at {depth} to train on all of them"
            )
        raise DataError(
            f"{shown(where)}: {_named(names)} each hold the folders {_named(shared)}, so which are the classes? "
            f"Give --classes-at {depth + 1} for {_named(shared, 2)}, --classes-at {depth} for {_named(names, 2)}, or "
            f"--train-split {_word(names[0])} --test-split {_word(names[-1])}"
        )


def _key(name: str) -> str:
    return clean(name).casefold()


def _around(used: Mapping[str, _Folder]) -> str | None:
    """The folder that lies around all class folders: the only one, or the only one with folders, by its name."""
    deep = [name for name, folder in used.items() if not folder.direct and len(folder.inside) > 1]
    if len(used) == 1:
        return next(iter(used))
    flat = all(not folder.inside for name, folder in used.items() if name not in deep)
    return deep[0] if len(deep) == 1 and flat and _AROUND & {w.casefold() for w in _WORD.findall(deep[0])} else None


def _holds_classes(tree: Tree, folder: _Folder, path: Prefix) -> bool:
    """Whether a folder holds two class folders or more, directly or in one folder around them."""
    if len(folder.inside) != 1 or folder.direct:
        return len(folder.inside) > 1 and not folder.direct
    (inner,) = folder.inside
    return len([name for name, below in _level(tree, (*path, inner)).items() if below.images]) > 1


def _check_kinds(used: Mapping[str, _Folder], where: Path, depth: int) -> None:
    """DataError for folders that are kinds of picture, parts of one set, or a second copy of the others."""
    kinds = [name for name in used if _key(name) in ROLES]
    if len(kinds) > 1:
        raise DataError(
            f"{shown(where)}: {_named(kinds)} are kinds of picture, not classes: give the folder that holds class "
            f"folders, or list the images with their labels in a CSV manifest, or give --classes-at {depth}"
        )
    bases = {re.sub(r"[\W\d_]+", " ", name).strip().casefold() for name in used}
    shallow = all(len(folder.inside) < 2 for folder in used.values())
    if shallow and len(used) > 1 and len(bases) == 1 and _PARTS & set(next(iter(bases)).split()):
        flat = not any(folder.inside for folder in used.values())
        do = "list the images with their labels in a CSV manifest" if flat else f"give --classes-at {depth + 1}"
        raise DataError(
            f"{shown(where)}: {_named(list(used))} look like parts of one set, not like classes: {do}, "
            f"or --classes-at {depth} if they are the classes"
        )
    for name, folder in used.items():
        beside = {_key(other) for other in used if other != name}
        inside = {_key(below) for below in folder.inside}
        if len(inside & beside) > 1 and 2 * len(inside & beside) >= len(inside):
            raise DataError(
                f"{shown(where)}: {shown(name)} holds folders named as those beside it ({_named(sorted(folder.inside))}), as "
                f"a second copy would: move it elsewhere, or give --classes-at {depth} if it is a class"
            )


def _as_split(where: Path, alike: Mapping[str, str], used: Mapping[str, _Folder]) -> str:
    """What to do about folders that are named like splits and would be taken for classes."""
    if not any(used[name].inside for name in alike):
        return (
            f"{shown(where)} has images in {' and '.join(map(shown, alike))} but no class folders in them: "
            f"put them into {shown(list(alike)[-1])}/CLASS/, or list them with their labels in a CSV manifest, "
            "or give --classes-at 1 if these are the classes"
        )
    options: dict[str, str] = {}
    for name, split in alike.items():
        inside = used[name].inside
        options.setdefault(split, f"{name}/{next(iter(inside))}" if len(inside) == 1 else name)
    words = " ".join(f"--{split}-split {_word(name)}" for split, name in sorted(options.items(), key=_usual_order))
    return (
        f"{shown(where)}: {_named(list(alike))} look like a split, not like classes: give {words}, "
        "or --classes-at 1 if they are the classes"
    )


def _usual_order(item: tuple[str, str]) -> int:
    return ("train", "val", "test").index(item[0])


def _check_wrapped(used: Mapping[str, _Folder], above: Prefix, root: Path, tree: Tree) -> None:
    """DataError where there is one folder around all class folders."""
    path = above
    while len(used) == 1:
        (name, folder), *_ = used.items()
        if folder.direct or not folder.inside:
            return
        path = (*path, name)
        used = {name: below for name, below in _level(tree, path).items() if below.images}
    inner = shown(root.joinpath(*path))
    if above:
        split = SPLITS.get(clean(above[-1]).casefold(), "train")
        do = f"give --{split}-split {_word('/'.join(path))}, or move them up"
    else:
        do = f"give {inner} (or --classes-at 1 if {shown(path[0])} is a class)"
    raise DataError(f"{shown(root.joinpath(*above))} has one folder around the class folders: {do}")


def _shared(used: Mapping[str, _Folder]) -> list[str]:
    """The folders that several folders hold alike, two at least and half of the smaller's; else none.

    Not where most images lie beside those folders: then they are parts of a class.
    """
    wide = {
        name: {_key(below): below for below in folder.inside}
        for name, folder in used.items()
        if folder.inside.total() >= folder.direct and len(folder.inside) > 1
    }
    held = Counter(key for inside in wide.values() for key in inside)
    common = {key for key, count in held.items() if count > 1}
    for inside in wide.values():
        same = common & set(inside)
        other = [set(others) for others in wide.values() if others is not inside]
        if len(same) > 1 and any(
            len(same & names) > 1 and 2 * len(same & names) >= min(len(inside), len(names)) for names in other
        ):
            return sorted(inside[key] for key in same)
    for whole, inside in wide.items():
        others = [{_key(below) for below in folder.inside} for name, folder in used.items() if name != whole]
        if others and all(below and below <= inside.keys() for below in others):
            return sorted(inside.values())
    return []


def _check_beside(top: Mapping[str, _Folder], splits: Mapping[Prefix, str], root: Path, layout: Layout) -> None:
    """DataError for a folder beside the splits that looks like another one, where one is still missing."""
    own = {prefix[0] for prefix in splits}
    classes = {_key(below) for name in own for below in top[name].inside}
    missing = [split for split in ("val", "test") if split not in splits.values()]
    if layout.asked or not missing:
        return
    for name, folder in top.items():
        inside = {_key(below) for below in folder.inside}
        same = 2 * len(inside & classes) >= len(inside) > 0
        if name in own or not folder.inside or not (same or _likeness(name) in missing):
            continue
        words = ", ".join(f"--{split}-split {_word(name)}" for split in missing)
        raise DataError(
            f"{shown(root)} has {shown(name)} beside {shown(sorted(own)[0])}, which looks like another split: "
            f"give {words}, or --classes-at 1 if both are classes, or move it elsewhere"
        )


def _flattened(tree: Tree, splits: Mapping[Prefix, str]) -> Iterable[str]:
    """That folders named like splits lie below the classes, where they split nothing."""
    for prefix in splits or {(): ""}:
        below = {
            (name, inner)
            for name, folder in _level(tree, prefix).items()
            for inner in folder.inside
            if SPLITS.get(_key(inner)) and not SPLITS.get(_key(name))
        }
        if below:
            inner = sorted({inner for _, inner in below})
            yield (
                f"the folders {_named(inner)} below {_named(sorted({name for name, _ in below}))} are not taken for a "
                f"split: put the split above the classes, as in {shown(inner[0])}/CLASS/"
            )


def _deep(top: Mapping[str, _Folder]) -> Iterable[str]:
    """That all images lie in folders below the classes, which may have been meant as the classes."""
    used = {name: folder for name, folder in top.items() if folder.images}
    if used and all(not folder.direct and len(folder.inside) > 1 for folder in used.values()):
        inner = sorted({below for folder in used.values() for below in folder.inside})
        if not any(SPLITS.get(_key(name)) for name in inner):
            yield (
                f"the folders {_named(inner)} below {_named(list(used))} are taken as parts of these classes: "
                "give --classes-at 2 if they are the classes"
            )


def _named(names: list[str], most: int = 3) -> str:
    """The first few names."""
    some = ", ".join(shown(name) for name in names[:most])
    return some + (f" and {len(names) - most} more" if len(names) > most else "")


def _word(name: str) -> str:
    """A name as a word of a command line."""
    text = shown(name)
    return f"'{text}'" if re.search(r"\s", text) else text
