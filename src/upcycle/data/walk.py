"""What lies below a folder, by name alone: files, folders, and what is neither; opens no file."""

import os
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from upcycle.errors import DataError

SYSTEM = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
"""Folders that systems leave behind: never a class."""


def shown(text: object) -> str:
    """`text` on one line: control characters and undecodable bytes as escapes."""
    readable = str(text).encode("utf-8", "backslashreplace").decode()
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in readable)


def clean(name: str) -> str:
    """`name` as labels, groups and columns are compared: Unicode's composed form (NFC), no blanks or BOM around it."""
    return unicodedata.normalize("NFC", name).strip().strip("\ufeff").strip()


@dataclass(frozen=True)
class Tree:
    """Paths relative to the root, with "/"; what is hidden is left out.

    `irregular`: the files that are broken links, pipes or devices.
    """

    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    irregular: set[str] = field(default_factory=set)


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
