"""A run directory as a value: `Run`, its report, and what follows a run while it is trained. No torch here.

What draws and what computes is imported when it is asked for.
"""

import importlib.metadata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, overload

from upcycle.config import Config, expanded, read_config
from upcycle.errors import ConfigError, RunError
from upcycle.evaluation.results import Evaluation, Predictions, RunEvaluation, read_predictions
from upcycle.history import History, Row
from upcycle.reporting.progress import Display, Several, Silent
from upcycle.rundir import RunDir, read_json, read_lines

if TYPE_CHECKING:
    from upcycle.jobs.images import Image
    from upcycle.jobs.predict import Classifier
    from upcycle.jobs.prediction import Prediction
    from upcycle.reporting.style import Drawing

ENTRY_POINTS = "upcycle.observers"
"""Entry points by which a package offers observers by name."""


class Curves(History):
    """A run's history that can be drawn."""

    def plot(self) -> "Drawing":
        """Loss and accuracy, training and validation, by epoch: a matplotlib figure."""
        from upcycle.reporting.figures import curves_figure

        return curves_figure(self)


@dataclass(frozen=True, init=False)
class Run:
    """A run directory, read when it is asked; the model is loaded once."""

    path: Path

    def __init__(self, path: Path | str) -> None:
        object.__setattr__(self, "path", expanded(path).absolute())  # the working directory may change

    @property
    def directory(self) -> RunDir:
        """Names of its files."""
        return RunDir(self.path)

    @property
    def config(self) -> Config:
        """What it was asked to do."""
        return read_config(self.directory.config)

    @property
    def history(self) -> Curves:
        """Its epochs; `run.history.plot()` draws them. RunError for a cross-validation, whose folds have their own."""
        if self.config.folds:
            raise RunError(f"{self.path} has a history a fold: take that of {self.path / 'fold-1'}, for example")
        return Curves.from_dicts(read_lines(self.directory.history))  # type: ignore[return-value]

    @property
    def evaluation(self) -> RunEvaluation:
        """Metrics with intervals, by split, and how the model was chosen: `run.evaluation["val"].log_loss.value`."""
        return RunEvaluation.from_dict(read_json(self.directory.evaluation))

    @property
    def test(self) -> Evaluation:
        """Metrics of the test images, with intervals: `run.test.f1_macro.value`; RunError without a test set."""
        return self._evaluated("test")

    @property
    def val(self) -> Evaluation:
        """Metrics of the validation images, which chose the model."""
        return self._evaluated("val")

    def _evaluated(self, split: str) -> Evaluation:
        evaluation = self.evaluation
        if split not in evaluation.named:
            raise RunError(f"{self.path} has no metrics of a {split} set")
        return evaluation[split]

    def _repr_html_(self) -> str:
        """What a notebook shows: the learning curves and the test metrics with their intervals."""
        from upcycle.reporting.html import run_fragment

        evaluation = self.evaluation if self.directory.evaluation.exists() else None
        return run_fragment(str(self.path), History.from_dicts(read_lines(self.directory.history)), evaluation)

    def predictions(self, split: str = "test") -> Predictions:
        """The recorded logits of a split."""
        return read_predictions(self.directory.predictions(split))

    @cached_property
    def model(self) -> "Classifier":
        """Its best model, ready to predict; loaded when it is first asked for."""
        from upcycle.jobs.predict import load

        return load(self.path)

    @overload
    def predict(self, image: "Image") -> "Prediction": ...  # type: ignore[overload-overlap]
    @overload
    def predict(self, image: "Iterable[Image]") -> "list[Prediction]": ...
    def predict(self, image: "Image | Iterable[Image]") -> "Prediction | list[Prediction]":
        """What an image, or each of several, shows.

        Arrays are RGB, not BGR as OpenCV's are; `Classifier.predict` says what is white in them.
        """
        return self.model.predict(image)


def report(run: Run | Path | str) -> Path:
    """Write report.html and figures/ of a run again from its files; returns the page."""
    from upcycle.reporting.run_page import write_report

    return write_report(run_of(run).directory)


def check_finished(run: RunDir) -> None:
    """RunError unless this is a finished run with a model of its own."""
    if any(run.root.glob("fold-*")):
        raise RunError(f"{run.root} holds one model per fold: name one of them, {run.root / 'fold-1'} for example")
    if run.status()["state"] != "finished":
        raise RunError(f"{run.root} is not finished: resume it with upcycle train --out {run.root} --resume")


def run_of(run: Run | Path | str) -> Run:
    """A run by its value or its directory; ConfigError for what is neither."""
    return run if isinstance(run, Run) else Run(run)


class Observer(Protocol):
    """What follows a run: `train(..., observers=[...])` takes any object with one or more of these methods.

    What a method raises ends the run as any other error does; what was finished is kept, and the run can be resumed.
    """

    def started(self, run: Run) -> None:  # noqa: ARG002
        """Work on the run starts, whether it is new or resumed."""
        return

    def epoch(self, row: Row) -> None:  # noqa: ARG002
        """An epoch of fine-tuning has ended, and its row and checkpoint are written."""
        return

    def finished(self, run: Run) -> None:  # noqa: ARG002
        """The run is trained and tested, and its report is written."""
        return


class _Following(Silent):
    """An object with some of an observer's methods, told what happens."""

    def __init__(self, observer: object) -> None:
        methods = {name: getattr(observer, name, None) for name in ("started", "epoch", "finished")}
        self._methods = {name: method for name, method in methods.items() if callable(method)}
        if isinstance(observer, type) or not self._methods:
            raise ConfigError(f"{observer!r} is no observer: give an object with started, epoch or finished")

    def started(self, run: Path) -> None:
        """Pass it on."""
        self._tell("started", Run(run))

    def row(self, history: History, epochs: int, images_per_second: float) -> None:  # noqa: ARG002
        """Pass it on."""
        self._tell("epoch", history.rows[-1])

    def finished(self, run: Path) -> None:
        """Pass it on."""
        self._tell("finished", Run(run))

    def _tell(self, name: str, value: Run | Row) -> None:
        if name in self._methods:
            self._methods[name](value)


def followed(show: Display, observers: Sequence[object]) -> Display:
    """`show`, and beside it the observers; a word is the name of one that a package offers.

    ConfigError for an object that is none, and for a name that no entry point of `upcycle.observers` has.
    """
    found = [_offered(one) if isinstance(one, str) else one for one in observers]
    return Several(show, *map(_Following, found)) if found else show


def _offered(name: str) -> object:
    """The observer that an installed package offers by this name: what its entry point makes when it is called."""
    offered = {point.name: point for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    if name not in offered:
        known = ", ".join(sorted(offered)) or "none"
        raise ConfigError(f"no installed package offers an observer {name!r} (entry points {ENTRY_POINTS}: {known})")
    try:
        return offered[name].load()()
    except Exception as error:  # another package's code
        raise ConfigError(f"entry point {offered[name].value} of {ENTRY_POINTS} makes no observer: {error}") from error
