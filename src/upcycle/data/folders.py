"""What lies below a folder, and what its folders may be other than classes: splits, parts, kinds of image."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

from upcycle.errors import DataError, shown

SYSTEM = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
"""Folders that systems leave behind: never a class."""


def clean(name: str) -> str:
    """`name` as labels, groups and columns are compared: Unicode's composed form (NFC), no blanks or BOM around it."""
    return unicodedata.normalize("NFC", name).strip().strip("\ufeff").strip()


@dataclass
class Folder:
    """What one folder holds: images right in it, images by the folders in it, and how many folders."""

    direct: int = 0
    inside: Counter[str] = field(default_factory=Counter)
    folders: int = 0

    @property
    def images(self) -> int:
        """All of its images."""
        return self.direct + self.inside.total()


def is_text(path: str) -> bool:
    """Whether a file is no picture and means to be none, by its ending."""
    return PurePosixPath(path).suffix.lower() in TEXTS


@dataclass(frozen=True)
class Tree:
    """Paths relative to the root, with "/"; what is hidden is left out.

    `irregular`: the files that are broken links, pipes or devices.
    """

    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    irregular: set[str] = field(default_factory=set)

    def level(self, above: "Prefix") -> "dict[str, Folder]":
        """The folders right below `above`, by name."""
        return self._levels.get("/".join(above), {})

    @cached_property
    def _levels(self) -> "dict[str, dict[str, Folder]]":
        levels: dict[str, dict[str, Folder]] = {}

        def folder(path: str) -> Folder:
            above, _, name = path.rpartition("/")
            return levels.setdefault(above, {}).setdefault(name, Folder())

        for path in sorted(self.folders):
            folder(path)
            if "/" in path:
                folder(path.rpartition("/")[0]).folders += 1
        for path in self.files:
            *parents, _ = path.split("/")
            if not parents or is_text(path):
                continue
            folder("/".join(parents)).direct += 1
            for depth in range(1, len(parents)):
                folder("/".join(parents[:depth])).inside[parents[depth]] += 1
        return levels


def walk(root: Path) -> Tree:
    """Everything below `root`; links to folders are followed, but never round a circle.

    DataError for a folder that cannot be listed.
    """
    tree = Tree()
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while waiting:
        below, above = waiting.pop()
        place = root / below if below else root
        try:
            with os.scandir(place) as entries:
                status = place.stat()
                here = (status.st_dev, status.st_ino)
                if here in above:
                    continue
                for entry in entries:
                    if entry.name.startswith(".") or entry.name in SYSTEM:
                        continue
                    path = f"{below}/{entry.name}" if below else entry.name
                    if true(entry.is_dir):
                        tree.folders.append(path)
                        waiting.append((path, above | {here}))
                        continue
                    tree.files.append(path)
                    if not true(entry.is_file):
                        tree.irregular.add(path)
        except OSError as error:
            raise DataError(f"cannot list the folder {shown(place)}: {error.strerror or error}") from error
    return tree


def true(question: Callable[[], bool]) -> bool:
    """What an entry answers; a link that leads back to itself is neither a folder nor a file."""
    try:
        return question()
    except OSError:
        return False


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
        *("image", "images", "imgs", "jpegimages", "leftimg8bit", "mask", "masks", "label", "labels"),
        *("annotation", "annotations", "groundtruth", "ground_truth", "gt", "gtfine", "trimaps"),
        *("segmentation", "segmentations", "segmentationclass", "segmentationobject", "bboxes", "thumbnails"),
    )
)
"""Names of folders that say what kind of picture is in them, and never a class."""
_PARTS = frozenset(
    (
        *("image", "images", "img", "imgs", "photo", "photos", "data", "part", "parts", "batch", "chunk"),
        *("fold", "set", "subset"),
    )
)
_AROUND = frozenset(["data", "dataset", "datasets", "images", "photos", "pictures", "classes", "all", "raw"])
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_THING = re.compile(r"(set|data|dataset|images?|imgs?|photos?|pics?|split|folder)$")
TEXTS = frozenset(
    (
        *(".txt", ".xml", ".json", ".jsonl", ".csv", ".tsv", ".md", ".rst", ".html", ".htm", ".yaml", ".yml"),
        *(".toml", ".ini", ".cfg", ".log", ".db", ".py", ".ipynb", ".sh", ".parquet", ".xls", ".xlsx"),
        *(".pbtxt", ".names", ".data"),
    )
)
"""Endings of files that describe images and are none themselves."""

Prefix = tuple[str, ...]


def _likeness(name: str) -> str | None:
    """The split that a folder's name sounds like: seg_train, TestSet, images-val."""
    words = [word.casefold() for word in _WORD.findall(name)]
    found = (SPLIT_LIKE.get(word) or SPLIT_LIKE.get(_THING.sub("", word)) for word in words)
    return next((split for split in found if split), None)


def check_level(level: Mapping[str, Folder], above: Prefix, root: Path, tree: Tree) -> None:
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
    if shared and not all(SPLITS.get(key(name)) for name in shared):
        keys = {key(name) for name in shared}
        names = [name for name, folder in used.items() if keys & {key(below) for below in folder.inside}]
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


def key(name: str) -> str:
    """A folder's name as it is compared: without case and blanks."""
    return clean(name).casefold()


def _around(used: Mapping[str, Folder]) -> str | None:
    """The folder that lies around all class folders: the only one, or the only one with folders, by its name."""
    deep = [name for name, folder in used.items() if not folder.direct and len(folder.inside) > 1]
    if len(used) == 1:
        return next(iter(used))
    flat = all(not folder.inside for name, folder in used.items() if name not in deep)
    return deep[0] if len(deep) == 1 and flat and _AROUND & {w.casefold() for w in _WORD.findall(deep[0])} else None


def _holds_classes(tree: Tree, folder: Folder, path: Prefix) -> bool:
    """Whether a folder holds two class folders or more, directly or in one folder around them."""
    if len(folder.inside) != 1 or folder.direct:
        return len(folder.inside) > 1 and not folder.direct
    (inner,) = folder.inside
    return len([name for name, below in tree.level((*path, inner)).items() if below.images]) > 1


def _check_kinds(used: Mapping[str, Folder], where: Path, depth: int) -> None:
    """DataError for folders that are kinds of picture, parts of one set, or a second copy of the others."""
    kinds = [name for name in used if key(name) in ROLES]
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
        beside = {key(other) for other in used if other != name}
        inside = {key(below) for below in folder.inside}
        if len(inside & beside) > 1 and 2 * len(inside & beside) >= len(inside):
            raise DataError(
                f"{shown(where)}: {shown(name)} holds folders named as those beside it "
                f"({_named(sorted(folder.inside))}), as a second copy would: "
                f"move it elsewhere, or give --classes-at {depth} if it is a class"
            )


def _as_split(where: Path, alike: Mapping[str, str], used: Mapping[str, Folder]) -> str:
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


def _check_wrapped(used: Mapping[str, Folder], above: Prefix, root: Path, tree: Tree) -> None:
    """DataError where there is one folder around all class folders."""
    path = above
    while len(used) == 1:
        (name, folder), *_ = used.items()
        if folder.direct or not folder.inside:
            return
        path = (*path, name)
        used = {name: below for name, below in tree.level(path).items() if below.images}
    inner = shown(root.joinpath(*path))
    if above:
        split = SPLITS.get(clean(above[-1]).casefold(), "train")
        do = f"give --{split}-split {_word('/'.join(path))}, or move them up"
    else:
        do = f"give {inner} (or --classes-at 1 if {shown(path[0])} is a class)"
    raise DataError(f"{shown(root.joinpath(*above))} has one folder around the class folders: {do}")


def _shared(used: Mapping[str, Folder]) -> list[str]:
    """The folders that several folders hold alike, two at least and half of the smaller's; else none.

    Not where most images lie beside those folders: then they are parts of a class.
    """
    wide = {
        name: {key(below): below for below in folder.inside}
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
        others = [{key(below) for below in folder.inside} for name, folder in used.items() if name != whole]
        if others and all(below and below <= inside.keys() for below in others):
            return sorted(inside.values())
    return []


def check_beside(top: Mapping[str, Folder], splits: Mapping[Prefix, str], root: Path) -> None:
    """DataError for a folder beside the splits that looks like another one, where one is still missing."""
    own = {prefix[0] for prefix in splits}
    classes = {key(below) for name in own for below in top[name].inside}
    missing = [split for split in ("val", "test") if split not in splits.values()]
    if not missing:
        return
    for name, folder in top.items():
        inside = {key(below) for below in folder.inside}
        same = 2 * len(inside & classes) >= len(inside) > 0
        if name in own or not folder.inside or not (same or _likeness(name) in missing):
            continue
        words = ", ".join(f"--{split}-split {_word(name)}" for split in missing)
        raise DataError(
            f"{shown(root)} has {shown(name)} beside {shown(sorted(own)[0])}, which looks like another split: "
            f"give {words}, or --classes-at 1 if both are classes, or move it elsewhere"
        )


def flattened(tree: Tree, splits: Mapping[Prefix, str]) -> Iterable[str]:
    """That folders named like splits lie below the classes, where they split nothing."""
    for prefix in splits or {(): ""}:
        below = {
            (name, inner)
            for name, folder in tree.level(prefix).items()
            for inner in folder.inside
            if SPLITS.get(key(inner)) and not SPLITS.get(key(name))
        }
        if below:
            inner = sorted({inner for _, inner in below})
            yield (
                f"the folders {_named(inner)} below {_named(sorted({name for name, _ in below}))} are not taken for a "
                f"split: put the split above the classes, as in {shown(inner[0])}/CLASS/"
            )


def deep(top: Mapping[str, Folder]) -> Iterable[str]:
    """That all images lie in folders below the classes, which may have been meant as the classes."""
    used = {name: folder for name, folder in top.items() if folder.images}
    if used and all(not folder.direct and len(folder.inside) > 1 for folder in used.values()):
        inner = sorted({below for folder in used.values() for below in folder.inside})
        if not any(SPLITS.get(key(name)) for name in inner):
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
