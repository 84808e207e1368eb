"""What lies below a folder, and what its folders may be other than classes: splits, parts, kinds of image."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path

from upcycle.errors import DataError, shown
from upcycle.remote import Address, below

SYSTEM = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
"""Folders that systems leave behind: never a class."""


def clean(name: str) -> str:
    """`name` as labels, groups and columns are compared: Unicode's composed form (NFC), no blanks or BOM around it."""
    return unicodedata.normalize("NFC", name).strip().strip("\ufeff").strip()


def key(name: str) -> str:
    """A folder's name as it is compared: without case and blanks."""
    return clean(name).casefold()


def is_text(path: str) -> bool:
    """Whether a file is no picture and means to be none, by its ending."""
    return suffix(path) in TEXTS


def suffix(path: str) -> str:
    """The ending of a file's name in lower case, as pathlib has it: "" of .hidden and of one that ends in a dot."""
    name = path[path.rfind("/") + 1 :]
    at = name.rfind(".")
    return name[at:].lower() if 0 < at < len(name) - 1 else ""


def endings_of(names: Iterable[str]) -> Counter[str]:
    """How many names there are of each ending, in lower case from their last dot on; none of them is hidden."""
    counts: Counter[str] = Counter()
    for ending, count in Counter(name[name.rfind(".") :] for name in names).items():
        counts[ending.lower()] += count
    return counts


@dataclass
class Folder:
    """What one folder holds: images right in it, and images by the folders in it."""

    direct: int = 0
    inside: Counter[str] = field(default_factory=Counter)

    @property
    def images(self) -> int:
        """All of its images."""
        return self.direct + self.inside.total()


@dataclass(frozen=True)
class Tree:
    """Paths relative to the root, with "/"; what is hidden is left out.

    `files`: their names by folder, "" for the root; `irregular`: those that are broken links, pipes or devices.
    """

    files: dict[str, list[str]] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    irregular: set[str] = field(default_factory=set)

    def level(self, above: "Prefix") -> "dict[str, Folder]":
        """The folders right below `above`, by name."""
        return self._levels.get(above, {})

    def used(self, above: "Prefix") -> "dict[str, Folder]":
        """Those of them that hold images."""
        return {name: folder for name, folder in self.level(above).items() if folder.images}

    @cached_property
    def _levels(self) -> "dict[Prefix, dict[str, Folder]]":
        levels: dict[Prefix, dict[str, Folder]] = {}
        for path in sorted(self.folders):
            *above, name = path.split("/")
            levels.setdefault(tuple(above), {})[name] = Folder()
        for folder, names in self.files.items():
            images = sum(count for ending, count in endings_of(names).items() if ending not in TEXTS)
            if folder and images:
                parents = tuple(folder.split("/"))
                levels[parents[:-1]][parents[-1]].direct += images
                for at in range(1, len(parents)):
                    levels[parents[: at - 1]][parents[at - 1]].inside[parents[at]] += images
        return levels


def walk(root: Path) -> Tree:
    """Everything below `root`; links to folders are followed, but never round a circle.

    DataError for a folder that cannot be listed.
    """
    tree = Tree()
    if isinstance(root, Address):
        return _walk_address(root, tree)
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
                files: list[str] = []
                for entry in entries:
                    name = entry.name
                    if name.startswith(".") or name in SYSTEM:
                        continue
                    if _true(entry.is_file):
                        files.append(name)
                        continue
                    path = f"{below}/{name}" if below else name
                    if _true(entry.is_dir):
                        tree.folders.append(path)
                        waiting.append((path, above | {here}))
                    else:
                        files.append(name)
                        tree.irregular.add(path)
                if files:
                    tree.files[below] = files
        except OSError as error:
            raise DataError(f"cannot list the folder {shown(place)}: {error.strerror or error}") from error
    return tree


def _walk_address(root: Address, tree: Tree) -> Tree:
    """The same of an address, where folders are what files' names say."""
    folders = set()
    for path, _ in below(root):
        parts = path.split("/")
        if not any(part.startswith(".") or part in SYSTEM for part in parts):
            tree.files.setdefault("/".join(parts[:-1]), []).append(parts[-1])
            folders |= {"/".join(parts[:at]) for at in range(1, len(parts))}
    tree.folders.extend(sorted(folders))
    return tree


def _true(question: Callable[[], bool]) -> bool:
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


def check_level(above: Prefix, root: Path, tree: Tree) -> None:
    """DataError where the folders below `above`, which would be the classes, look like anything else."""
    used = tree.used(above)
    where, depth = shown(root.joinpath(*above)), len(above) + 1
    _check_wrapped(used, above, root, tree)
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
        raise DataError(
            f"{where}: {_named(names)} each hold the folders {_named(shared)}, "
            + (
                "which are kinds of picture: move all but one of these elsewhere, "
                f"or give --classes-at {depth} to train on all of them"
                if keys <= ROLES
                else f"so which are the classes? Give --classes-at {depth + 1} for {_named(shared, 2)}, "
                f"--classes-at {depth} for {_named(names, 2)}, "
                f"or --train-split {_word(names[0])} --test-split {_word(names[-1])}"
            )
        )


def _check_wrapped(used: Mapping[str, Folder], above: Prefix, root: Path, tree: Tree) -> None:
    """DataError where one folder lies around all class folders: the only one, or the only with folders, by its name."""
    if len(used) > 1:
        deep = [name for name, folder in used.items() if not folder.direct and len(folder.inside) > 1]
        flat = all(not folder.inside for name, folder in used.items() if name not in deep)
        if len(deep) != 1 or not flat or not _AROUND & {word.casefold() for word in _WORD.findall(deep[0])}:
            return
        used = {deep[0]: used[deep[0]]}
    path = above
    while len(used) == 1:
        ((name, folder),) = used.items()
        if folder.direct or not folder.inside:
            return
        path = (*path, name)
        used = tree.used(path)
    if path == above:
        return
    if above:
        split = SPLITS.get(key(above[-1]), "train")
        do = f"give --{split}-split {_word('/'.join(path))}, or move them up"
    else:
        do = f"give {shown(root.joinpath(*path))} (or --classes-at 1 if {shown(path[0])} is a class)"
    raise DataError(f"{shown(root.joinpath(*above))} has one folder around the class folders: {do}")


def _check_kinds(used: Mapping[str, Folder], where: str, depth: int) -> None:
    """DataError for folders that are kinds of picture, parts of one set, or a second copy of the others."""
    manifest = "list the images with their labels in a CSV manifest"
    kinds = [name for name in used if key(name) in ROLES]
    if len(kinds) > 1:
        raise DataError(
            f"{where}: {_named(kinds)} are kinds of picture, not classes: give the folder that holds class "
            f"folders, or {manifest}, or give --classes-at {depth}"
        )
    bases = {re.sub(r"[\W\d_]+", " ", name).strip().casefold() for name in used}
    shallow = all(len(folder.inside) < 2 for folder in used.values())
    if shallow and len(used) > 1 and len(bases) == 1 and _PARTS & set(next(iter(bases)).split()):
        do = f"give --classes-at {depth + 1}" if any(folder.inside for folder in used.values()) else manifest
        raise DataError(
            f"{where}: {_named(list(used))} look like parts of one set, not like classes: {do}, "
            f"or --classes-at {depth} if they are the classes"
        )
    keys = {key(name) for name in used}
    for name, folder in used.items():
        inside = {key(below) for below in folder.inside}
        again = inside & keys - {key(name)}
        if len(again) > 1 and 2 * len(again) >= len(inside):
            raise DataError(
                f"{where}: {shown(name)} holds folders named as those beside it "
                f"({_named(sorted(folder.inside))}), as a second copy would: "
                f"move it elsewhere, or give --classes-at {depth} if it is a class"
            )


def _holds_classes(tree: Tree, folder: Folder, path: Prefix) -> bool:
    """Whether a folder holds two class folders or more, directly or in one folder around them."""
    if len(folder.inside) == 1 and not folder.direct:
        return len(tree.used((*path, *folder.inside))) > 1
    return len(folder.inside) > 1 and not folder.direct


def _as_split(where: str, alike: Mapping[str, str], used: Mapping[str, Folder]) -> str:
    """What to do about folders that are named like splits and would be taken for classes."""
    if not any(used[name].inside for name in alike):
        return (
            f"{where} has images in {' and '.join(map(shown, alike))} but no class folders in them: "
            f"put them into {shown(list(alike)[-1])}/CLASS/, or list them with their labels in a CSV manifest, "
            "or give --classes-at 1 if these are the classes"
        )
    options: dict[str, str] = {}
    for name, split in alike.items():
        inside = used[name].inside
        options.setdefault(split, f"{name}/{next(iter(inside))}" if len(inside) == 1 else name)
    words = " ".join(
        f"--{split}-split {_word(options[split])}" for split in ("train", "val", "test") if split in options
    )
    return (
        f"{where}: {_named(list(alike))} look like a split, not like classes: give {words}, "
        "or --classes-at 1 if they are the classes"
    )


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
    common = [inside for inside in wide.values() if sum(held[key] > 1 for key in inside) > 1]
    for inside, others in combinations(common, 2):
        both = len(inside.keys() & others.keys())
        if both > 1 and 2 * both >= min(len(inside), len(others)):
            return sorted(below for key, below in inside.items() if held[key] > 1)
    for whole, inside in wide.items():
        beside = [{key(below) for below in folder.inside} for name, folder in used.items() if name != whole]
        if beside and all(below and below <= inside.keys() for below in beside):
            return sorted(inside.values())
    return []


def check_beside(tree: Tree, splits: Mapping[Prefix, str], root: Path) -> None:
    """DataError for a folder beside the splits that looks like another one, where one is still missing."""
    top, own = tree.level(()), {prefix[0] for prefix in splits}
    classes = {key(below) for name in own for below in top[name].inside}
    missing = [split for split in ("val", "test") if split not in splits.values()]
    for name, folder in top.items():
        inside = {key(below) for below in folder.inside}
        same = 2 * len(inside & classes) >= len(inside) > 0
        if missing and name not in own and folder.inside and (same or _likeness(name) in missing):
            words = ", ".join(f"--{split}-split {_word(name)}" for split in missing)
            raise DataError(
                f"{shown(root)} has {shown(name)} beside {shown(sorted(own)[0])}, which looks like another split: "
                f"give {words}, or --classes-at 1 if both are classes, or move it elsewhere"
            )


def notes_on(tree: Tree, splits: Mapping[Prefix, str]) -> Iterator[str]:
    """How the folders below the classes are taken, where they may have been meant otherwise."""
    for prefix in splits or {(): ""}:
        level = tree.level(prefix).items()
        below = {name: [inner for inner in folder.inside if SPLITS.get(key(inner))] for name, folder in level}
        names = sorted(name for name, inner in below.items() if inner and not SPLITS.get(key(name)))
        if names:
            inner = sorted({inner for name in names for inner in below[name]})
            yield (
                f"the folders {_named(inner)} below {_named(names)} are not taken for a "
                f"split: put the split above the classes, as in {shown(inner[0])}/CLASS/"
            )
    used = {} if splits else tree.used(())
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
