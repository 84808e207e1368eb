"""A trained run put to use: classes and probabilities of images."""

import hashlib
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch

from upcycle import device as machines
from upcycle.bundle.description import sha256_of
from upcycle.config import expanded
from upcycle.data import decode, isolation
from upcycle.data.dataset import eval_batches
from upcycle.errors import ConfigError, RunError
from upcycle.evaluation.forward import EVAL_BATCH, forward
from upcycle.evaluation.novelty import Novelty
from upcycle.evaluation.thresholds import Thresholds
from upcycle.hardware import MOST_THREADS, checked_threads, usable_cores
from upcycle.jobs.images import Image, predicted
from upcycle.jobs.novelty import novelty_of, with_head_inputs
from upcycle.jobs.prediction import Frame, Prediction, predictions_of
from upcycle.manifest import check
from upcycle.model import checkpoint
from upcycle.model.network import ModelSpec, Network
from upcycle.reporting.progress import Display, default_show
from upcycle.rundir import RunDir, read_json

_COMPUTING = threading.Lock()
"""Held for a pass: what it sets is the process's, and while BatchNorm is folded a model is nobody else's."""


def _forked() -> None:
    """In a forked process: a pass of the parent, which may have held the lock as it forked, never ends here."""
    global _COMPUTING
    _COMPUTING = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


@dataclass(frozen=True, eq=False)
class Classifier:
    """The best model of a run."""

    run: RunDir
    network: ModelSpec
    model: Network
    machine: machines.Hardware
    thresholds: Thresholds | None = None
    """When it answers; None for always."""
    novelty: Novelty | None = None
    """What tells images that are unlike the training photos; None in runs without it."""

    @property
    def threads(self) -> int:
        """How many files are decoded at a time."""
        return self.machine.threads

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of their probabilities."""
        return self.network.classes

    def fingerprint(self) -> str:
        """A checksum of what decides the predictions: the run's files, and how this machine computes."""
        machine = self.machine
        digest = hashlib.sha256(f"{machine.device} {machine.precision} {machine.threads}".encode())
        for path in (self.run.model, self.run.best, self.run.thresholds, self.run.novelty):
            digest.update(f"\n{path.name} {sha256_of(path) if path.exists() else None}".encode())
        return digest.hexdigest()

    def frame(self, source: decode.ImageSource) -> Frame:
        """A decoded image, as training's cache holds it; DecodeError for one that cannot be read."""
        return decode.load_image(source, self.network.preprocessing.decoding)

    def isolated(self, source: Path | bytes) -> Frame:
        """The same of a file, read and decoded in another process within bounds; OSError for one that cannot be read.

        The error does not name the file.
        """
        return isolation.DECODERS.load(source, self.network.preprocessing.decoding)

    def logits(self, frames: list[Frame]) -> npt.NDArray[np.float32]:
        """Logits [n, outputs] of decoded images, from whatever thread: one at a time computes."""
        return measured(self, frames)[0]

    @overload
    def predict(self, image: Image) -> Prediction: ...  # type: ignore[overload-overlap]
    @overload
    def predict(self, image: Iterable[Image]) -> list[Prediction]: ...
    def predict(self, image: Image | Iterable[Image]) -> Prediction | list[Prediction]:
        """What an image shows, or each of several: a path, a PIL image or an array [H, W, 3], RGB, or [H, W].

        White is 255 in arrays of uint8, 65535 of uint16, 1 of floats, or the run's `--scale` in the last two. OpenCV's
        arrays are BGR: give `image[:, :, ::-1]`. A large JPEG is decoded at reduced scale, also where PIL has opened it
        and not loaded. Arrays and loaded images were decoded whole, so probabilities may differ by some hundredths.

        The bytes of a file and a file open for reading are images as well. A list, a tuple or an iterator (of
        `Path.glob`, for example), which is read as far as it is needed, gives a list. An image by itself costs what a
        batch of 32 does, as all are computed in one shape: many are quicker. Raises DecodeError for an image that
        cannot be read.
        """
        return predicted(self, image)

    def export(self, data: str | PathLike[str] | None = None, **options: Any) -> Path:
        """Write the model for use elsewhere, proved on the run's test images; `upcycle.export` has the options."""
        from upcycle.jobs.export import export

        return export(self.run.root, data, **options)  # type: ignore[arg-type]

    def judge(self, frames: list[Frame]) -> list[Prediction]:
        """A prediction for each decoded image."""
        logits, p_values = measured(self, frames)
        rows = self.network.task.probabilities(logits)
        return predictions_of(rows, self.network.classes, self.thresholds, p_values)


def measured(
    classifier: Classifier, frames: list[Frame]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64] | None]:
    """Logits [n, outputs] and p-values [n] of decoded images, from one pass; no p-values in runs without a table."""
    model, machine, novelty = classifier.model, classifier.machine, classifier.novelty
    with _COMPUTING, machines.restored():
        machines.apply(machine)
        batches = eval_batches(
            frames,
            np.arange(len(frames)),
            preprocessing=classifier.network.preprocessing,
            batch_size=EVAL_BATCH,
            device=machine.device,
            workers=machine.feeders,
        )
        if novelty is None:
            return forward(model, batches), None
        rows = forward(model, batches, output=lambda images: with_head_inputs(model, images))
    outputs = classifier.network.task.outputs
    return np.ascontiguousarray(rows[:, :outputs]), novelty.p_values(rows[:, outputs:])


def load(run: str | Path, *, threads: int = 0, device: str = "auto", show: Display | None = None) -> Classifier:
    """The best model of a run, ready to predict, on the device and in the precision of its training where it can be.

    With `threads` 0 it computes with as many as the run was trained with, if there are so many cores. RunError when
    there is no such run or it has saved no model yet.
    """
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if used else ()
    # a process that loads and is then forked must not have computed in several threads
    with (
        _COMPUTING,
        machines.alone(),
        torch.random.fork_rng(devices),
    ):  # making a network draws numbers: the caller's stay as they are
        return _load(expanded(run), threads, device, show or default_show())


def _load(run: Path, threads: int, device: str, show: Display) -> Classifier:
    directory = RunDir(run)
    if any(directory.root.glob("fold-*")):
        raise RunError(f"{run} holds one model per fold: name one of them, {run / 'fold-1'} for example")
    if not directory.model.exists():
        raise RunError(f"{run} holds no trained run: give the folder that upcycle train wrote")
    check(directory)
    try:
        described = read_json(directory.model)
        network = ModelSpec.from_dict(described)
        recorded = _setting(read_json(directory.environment))
        thresholds = _thresholds(directory, network)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # a directory may come from a stranger, with any value in any place
        raise RunError(f"{run} does not hold what a run writes ({type(error).__name__}: {error})") from error
    machine = _machine(recorded, threads, device, show)
    model = checkpoint.load_model(directory.best, network, machine).to(machine.device)
    if "linear_head" not in described and model.linear_in_name_alone:
        raise RunError(f"{run} is of an upcycle that computed {network.arch} otherwise: train it again")
    return Classifier(directory, network, model, machine, thresholds, novelty_of(directory, model))


def _thresholds(run: RunDir, network: ModelSpec) -> Thresholds | None:
    """When the model answers, where that was chosen; ValueError where it is about a class that there is not."""
    made = Thresholds.from_dict(read_json(run.thresholds)) if run.thresholds.exists() else None
    if made and made.rule.label not in (None, *network.classes):
        raise ValueError(f"no class {made.rule.label!r}")
    return made


@dataclass(frozen=True)
class _Setting:
    """How a run computed, so that it can be done in the same way again."""

    precision: str
    threads: int
    cores: int
    fold_bn: bool
    device: str


def _setting(environment: Any) -> _Setting:
    """What a run's environment.json says; ValueError for a number of threads that no machine has."""
    precision, threads = str(environment.get("precision", "auto")), int(environment.get("threads") or 0)
    if not 0 <= threads <= MOST_THREADS:
        raise ValueError(f"{threads} threads")
    device, cores = str(environment.get("device", "auto")), int(environment.get("cores") or 0)
    return _Setting(precision, threads, cores, fold_bn=environment.get("fold_bn") is True, device=device)


def _machine(recorded: _Setting, asked: int, device: str, show: Display) -> machines.Hardware:
    """This machine as the run used its own, or, where it lacks that device or precision, at its best.

    `asked` threads; with 0 as many as in training, unless that was done on more cores than there are here.
    """
    checked_threads(asked)
    cores, threads = usable_cores(Path("/")), asked or recorded.threads
    if not asked and recorded.cores > cores and recorded.threads > cores:
        show.warn(f"the run was trained with {recorded.threads} threads, and there are {cores}: last digits may differ")
        threads = cores
    if crowd := machines.crowded(threads):
        show.warn(crowd)
    detect = partial(machines.detect, threads=threads, fold_bn=recorded.fold_bn)
    try:
        return detect(device=recorded.device if device == "auto" else device, precision=recorded.precision)
    except ConfigError as error:
        machine = detect(device=device)  # with these threads, and BatchNorm as it was
        show.warn(f"{error}; predicting at this machine's best instead")
        return machine
