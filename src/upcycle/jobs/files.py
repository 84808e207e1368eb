"""Files to predict: those that are named, those below folders, those of a list; and an outcome for each."""

import codecs
import difflib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Protocol

from upcycle.errors import ConfigError, DataError, DecodeError, shown
from upcycle.jobs.prediction import FILES_AT_ONCE, Frame, Prediction, chunks
from upcycle.remote import Address, below, is_address, place

STDIN = Path("-")
"""What stands for standard input; a file of that name is ./-."""
LEFTOVERS = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")
"""What systems leave in folders of images, in lower case."""
_BLOCK = 2**16


class Predictor(Protocol):
    """What predicts files: the best model of a run, or a bundle."""

    @property
    def threads(self) -> int:
        """How many files are decoded at a time."""

    def isolated(self, source: Path, /) -> Frame:
        """A decoded file; DecodeError or OSError, which do not name it, for one that cannot be read."""

    def judge(self, frames: list[Frame], /) -> list[Prediction]:
        """A prediction for each of one or more decoded images."""


@dataclass(frozen=True)
class Outcome:
    """One file's prediction, or why there is none; `error` does not name the file."""

    path: Path
    prediction: Prediction | None
    error: str | None


@dataclass(frozen=True)
class Unlisted:
    """A folder below which nothing can be found, and why."""

    path: Path
    reason: str


def check_words(paths: Sequence[Path], options: Sequence[str]) -> None:
    """ConfigError for an unknown option among the paths, which - opens to words that begin so."""
    for word in map(str, paths):
        if word.startswith("-") and word != "-" and not os.path.lexists(word):
            near = difflib.get_close_matches(word, options, n=1)
            raise ConfigError(f"unknown option: {word}.{f' Did you mean {near[0]}?' if near else ''}")


def predict_files(predictor: Predictor, paths: Iterable[Path | Unlisted]) -> Iterator[Outcome]:
    """An outcome for each file, in order; a file that cannot be read does not stop the others."""
    with ThreadPoolExecutor(predictor.threads) as pool:
        for some in chunks(paths, FILES_AT_ONCE):
            decoded = list(pool.map(lambda path: _attempt(predictor, path), some))
            frames = [frame for frame in decoded if not isinstance(frame, str)]
            made = iter(predictor.judge(frames) if frames else [])
            for one, frame in zip(some, decoded, strict=True):
                path, failed = one.path if isinstance(one, Unlisted) else one, isinstance(frame, str)
                yield Outcome(path, None if failed else next(made), frame if isinstance(frame, str) else None)


def _attempt(predictor: Predictor, one: Path | Unlisted) -> Frame | str:
    if isinstance(one, Unlisted):
        return one.reason
    try:
        return predictor.isolated(one)
    except DecodeError as error:
        return str(error)
    except FileNotFoundError:
        return "a broken link" if not isinstance(one, Address) and one.is_symlink() else "does not exist"
    except (OSError, ValueError) as error:
        return f"cannot be read ({getattr(error, 'strerror', None) or error})"


def files_of(paths: Iterable[Path]) -> Iterator[Path | Unlisted]:
    """Each of `paths` that is no folder, there or not, and every file below those that are, in order of name.

    What is below a folder counts whatever its name ends in, hidden files and systems' leftovers aside.
    """
    for path in paths:
        yield from _below(path)


def _below(path: Path) -> Iterator[Path | Unlisted]:
    """`path` itself where it is no folder; links to folders are followed, but never round a circle."""
    if is_address(path):
        yield from _at_address(place(path))
        return
    waiting: list[tuple[Path, frozenset[tuple[int, int]]]] = [(path, frozenset())]
    while waiting:
        at, above = waiting.pop()
        if not os.path.isdir(at):  # noqa: PTH112  where the system refuses the name, Path's own raises
            yield at
            continue
        try:
            status, names = at.stat(), sorted((below.name for below in at.iterdir()), reverse=True)
        except OSError as error:
            yield Unlisted(at, f"cannot list the folder ({error.strerror or error})")
            continue
        here = (status.st_dev, status.st_ino)
        if here not in above:
            inside = above | {here}
            waiting += [(at / name, inside) for name in names if not _is_left_out(name)]


def _at_address(address: Path) -> Iterator[Path | Unlisted]:
    """The same of an address."""
    if not address.is_dir():
        yield address
        return
    for name, _ in below(address):
        if not any(_is_left_out(part) for part in name.split("/")):
            yield address / name


def _is_left_out(name: str) -> bool:
    return name.startswith(".") or name.lower() in LEFTOVERS


# ------------------------------------------------------------------------------------------ lists


def asked(paths: Iterable[Path], listed: Path | None) -> Iterator[Path]:
    """`paths`, those that standard input lists in place of -, and those of the list; DataError for no such list.

    A list is opened before anything is predicted, and read as far as it is needed.
    """
    more = _lines_of(listed) if listed is not None else iter(())

    def one_by_one() -> Iterator[Path]:
        for path in paths:
            yield from _lines_of(STDIN) if path == STDIN else [path]
        yield from more

    return one_by_one()


def number_of(paths: Sequence[Path], listed: Path | None) -> int | None:
    """How many paths `asked` gives, by the lines of the list; None where standard input or a folder lists some.

    So for a list that is no regular file: what is read of a pipe is gone.
    """
    if STDIN in (*paths, listed) or any(map(os.path.isdir, paths)) or (listed is not None and not listed.is_file()):
        return None
    return len(paths) + (sum(1 for _ in _lines_of(listed)) if listed is not None else 0)


def _lines_of(source: Path) -> Iterator[Path]:
    if source == STDIN:
        if sys.stdin is None:
            raise DataError("standard input is closed: it lists no files")
        return _paths(sys.stdin.buffer, "standard input")  # type: ignore[arg-type]
    try:
        return _closing(source.open("rb"), shown(source))
    except OSError as error:
        raise DataError(f"the list {shown(source)} cannot be read ({error.strerror or error})") from None


def _closing(file: BufferedReader, name: str) -> Iterator[Path]:
    with file:
        yield from _paths(file, name)


def _paths(file: BufferedReader, name: str) -> Iterator[Path]:
    """The paths that a file lists, one a line, or with NULs between them where it begins so; blank lines are none."""
    begins = file.peek(_BLOCK)
    if begins.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{name} is not in UTF-8: save the list as UTF-8, one path a line")
    if begins.startswith(codecs.BOM_UTF8):
        file.read(len(codecs.BOM_UTF8))
    lines = _between_nuls(file) if b"\0" in begins else (line.rstrip(b"\r\n") for line in file)
    for line in lines:
        if line.strip():
            yield Path(os.fsdecode(line))


def _between_nuls(file: BufferedReader) -> Iterator[bytes]:
    rest = b""
    while block := file.read1(_BLOCK):
        *whole, rest = (rest + block).split(b"\0")
        yield from whole
    yield rest
