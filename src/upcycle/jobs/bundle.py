"""A bundle put to use: classes and probabilities of images, without torch."""

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from upcycle.config import expanded
from upcycle.data import isolation
from upcycle.errors import ConfigError, ExportError
from upcycle.export.bundle import INT8, MODEL, Description, read_bundle
from upcycle.export.runtime import open_session, probabilities
from upcycle.hardware import usable_cores
from upcycle.jobs.prediction import Frame, Prediction


@dataclass(frozen=True, eq=False)
class Bundle:
    """An exported model, ready to predict."""

    path: Path
    description: Description
    session: Any
    threads: int
    """How many threads compute, and how many files are decoded at a time."""
    _computing: threading.Lock = field(default_factory=threading.Lock)

    def isolated(self, source: Path | bytes, /) -> Frame:
        """A decoded file, its short side as the model needs it; DecodeError or OSError for one that cannot be read."""
        return isolation.DECODERS.load(source, self.description.preprocessing.decoding)

    def judge(self, frames: list[Frame], /) -> list[Prediction]:
        """A prediction for each decoded image, whatever its size."""
        classes = self.description.task.classes
        with self._computing:
            rows = [probabilities(self.session, frame) for frame in frames]
        return [
            Prediction(classes[int(row.argmax())], float(row.max()), dict(zip(classes, row.tolist(), strict=True)))
            for row in rows
        ]


def open_bundle(path: str | Path, *, threads: int = 0, int8: bool = False) -> Bundle:
    """The model of a bundle; with `threads` 0 it computes on all cores, with `int8` in 8 bits.

    ExportError for a damaged bundle, without onnxruntime, or where it has no int8 model.
    """
    if threads < 0:
        raise ConfigError(f"threads {threads} is out of range: use 1 or more, or 0 for all cores")
    folder = expanded(path)
    description = read_bundle(folder)
    name = INT8 if int8 else MODEL
    if name not in description.files:
        raise ExportError(f"{folder} has no {name}: export the run with {'--int8' if int8 else '--format onnx'}")
    count = threads or usable_cores(Path("/"))
    return Bundle(folder, description, open_session(folder / name, count), count)
