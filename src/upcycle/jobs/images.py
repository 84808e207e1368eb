"""What may be given as an image, and predictions of one or of several. Needs no torch."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from pathlib import Path
from typing import BinaryIO, Protocol, TypeGuard

from upcycle.data import decode
from upcycle.errors import DecodeError, shown
from upcycle.jobs.prediction import FILES_AT_ONCE, Frame, Prediction, chunks

Image = decode.ImageSource | str | PathLike[str] | BinaryIO


class Judge(Protocol):
    """What predicts decoded images: the best model of a run, or a bundle."""

    @property
    def threads(self) -> int:
        """How many files are decoded at a time."""

    def frame(self, source: decode.ImageSource, /) -> Frame:
        """A decoded image; DecodeError for one that cannot be read."""

    def judge(self, frames: list[Frame], /) -> list[Prediction]:
        """A prediction for each decoded image."""


def predicted(model: Judge, image: Image | Iterable[Image]) -> Prediction | list[Prediction]:
    """What an image shows, or each of several, which are read as far as they are needed."""
    if not _are_many(image):
        return model.judge([model.frame(_source(image))])[0]  # type: ignore[arg-type]
    found: list[Prediction] = []
    with ThreadPoolExecutor(model.threads) as pool:
        for some in chunks(image, FILES_AT_ONCE):
            files = {at: _source(one) for at, one in enumerate(some) if isinstance(one, str | PathLike | bytes)}
            read = dict(zip(files, pool.map(model.frame, files.values()), strict=True))
            # what is open already may be one picture twice, and no picture can be read by two at once
            frames = [read[at] if at in read else model.frame(_source(one)) for at, one in enumerate(some)]
            found += model.judge(frames)
    return found


def _are_many(image: Image | Iterable[Image]) -> TypeGuard[Iterable[Image]]:
    """Whether this holds images rather than being one; an open file is an iterator too, of lines."""
    return isinstance(image, list | tuple) or (isinstance(image, Iterator) and not hasattr(image, "read"))


def _source(image: Image) -> decode.ImageSource:
    """What is decoded: a path, the content of an open file from its beginning, or what was given."""
    if isinstance(image, str | PathLike):
        return Path(image)
    return _content(image) if hasattr(image, "read") else image  # type: ignore[arg-type]


def _content(file: BinaryIO) -> bytes:
    """What an open file holds; DecodeError for one that gives no bytes, or more than are decoded."""
    try:
        if file.seekable():
            file.seek(0)
        content = file.read(decode.MAX_FILE_BYTES + 1)
    except (AttributeError, OSError, TypeError, ValueError) as error:
        raise DecodeError(f"an open file cannot be read ({shown(error)})") from error
    if not isinstance(content, bytes):
        raise DecodeError(f"an open file gives {type(content).__name__}, not bytes: open it with mode 'rb'")
    if len(content) > decode.MAX_FILE_BYTES:
        raise DecodeError(f"an open file holds more than {decode.MAX_FILE_BYTES // 2**30} GiB")
    return content
