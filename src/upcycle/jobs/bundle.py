"""A bundle put to use: classes and probabilities of images, without torch."""

import hashlib
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np

from upcycle.bundle.description import FILE, INT8, MODEL, NOVELTY, Description, read_bundle, sha256_of
from upcycle.bundle.runtime import open_session, probabilities, probabilities_and_features
from upcycle.config import expanded
from upcycle.data import decode, isolation
from upcycle.errors import ExportError, shown
from upcycle.evaluation.novelty import Novelty, read_novelty
from upcycle.evaluation.thresholds import Thresholds
from upcycle.hardware import checked_threads, usable_cores
from upcycle.jobs.images import Image, predicted
from upcycle.jobs.prediction import Frame, Prediction, predictions_of


@dataclass(frozen=True, eq=False)
class Bundle:
    """An exported model, ready to predict."""

    path: Path
    description: Description
    session: Any
    threads: int
    """How many threads compute, and how many files are decoded at a time."""
    novelty: Novelty | None = None
    """What tells images that are unlike the training photos; None in 8 bits, whose features it was not made of."""
    file: str = MODEL
    """The name of the model that computes."""
    _computing: threading.Lock = field(default_factory=threading.Lock)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of their probabilities."""
        return self.description.task.classes

    @property
    def thresholds(self) -> Thresholds | None:
        """When it answers; None for always."""
        return self.description.thresholds

    def fingerprint(self) -> str:
        """A checksum of the bundle, of which of its models computes, and with how many threads."""
        parts = f"{sha256_of(self.path / FILE)} {self.file} {self.threads}"
        return hashlib.sha256(parts.encode()).hexdigest()

    @overload
    def predict(self, image: Image) -> Prediction: ...  # type: ignore[overload-overlap]
    @overload
    def predict(self, image: Iterable[Image]) -> list[Prediction]: ...
    def predict(self, image: Image | Iterable[Image]) -> Prediction | list[Prediction]:
        """What an image shows, or each of several, given as to a run's `Classifier.predict`."""
        return predicted(self, image)

    def frame(self, source: decode.ImageSource, /) -> Frame:
        """A decoded image, its short side as the model needs it; DecodeError for one that cannot be read."""
        return decode.load_image(source, self.description.preprocessing.decoding)

    def isolated(self, source: Path | bytes, /) -> Frame:
        """The same of a file, decoded in another process; DecodeError or OSError for one that cannot be read."""
        return isolation.DECODERS.load(source, self.description.preprocessing.decoding)

    def judge(self, frames: list[Frame], /) -> list[Prediction]:
        """A prediction for each decoded image, whatever its size."""
        with self._computing:
            if self.novelty is None:
                rows = np.stack([probabilities(self.session, frame) for frame in frames])
                return predictions_of(rows, self.classes, self.thresholds)
            found = [probabilities_and_features(self.session, frame) for frame in frames]
        rows, features = (np.stack(some) for some in zip(*found, strict=True))
        return predictions_of(rows, self.classes, self.thresholds, self.novelty.p_values(features))


def open_bundle(path: str | Path, *, threads: int = 0, int8: bool = False) -> Bundle:
    """The model of a bundle; with `threads` 0 it computes on all cores, with `int8` in 8 bits.

    In 8 bits its predictions have no p-value: the table of usual distances is of fp32 features.
    ExportError for a damaged bundle, without onnxruntime, or where it has no such model.
    """
    checked_threads(threads)
    folder = expanded(path)
    description = read_bundle(folder)
    if description.format != "onnx" or description.batch:
        raise ExportError(
            f"{folder} has no model that takes photos: export the run with --format onnx, without --batch"
        )
    name = INT8 if int8 else MODEL
    if name not in description.files:
        raise ExportError(f"{folder} has no {name}: export the run with --int8")
    count = threads or usable_cores(Path("/"))
    novelty = read_novelty(folder / NOVELTY) if NOVELTY in description.files and not int8 else None
    made = Bundle(folder, description, open_session(folder / name, count), count, novelty, name)
    if reason := _misfit(made):
        raise ExportError(
            f"{folder / name} does not fit the other files of its bundle ({reason}): export the run again"
        )
    return made


def _misfit(bundle: Bundle) -> str:
    """What the model does not give that the other files say; "" where all fits."""
    label = bundle.thresholds.rule.label if bundle.thresholds else None
    if label not in (None, *bundle.classes):
        return f"its thresholds are about {shown(str(label))}, which is no class"
    expected = {"probabilities": len(bundle.classes)}
    if bundle.novelty is not None:
        expected["features"] = len(bundle.novelty.mean)
    given = {one.name: one.shape for one in bundle.session.get_outputs()}
    for name, width in expected.items():
        if name not in given:
            return f"it gives no {name}"
        if len(given[name]) != 2 or given[name][1] != width:
            return f"{name} of shape {given[name]} instead of [1, {width}]"
    if [one.name for one in bundle.session.get_inputs()] != ["image"]:
        return "it takes no photos"
    return ""
