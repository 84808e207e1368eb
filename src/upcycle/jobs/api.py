"""The Python interface: `train` and `load`, with the command line's words.

What draws and what compares is imported when it is asked for: a run's first update must not wait for it.
"""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upcycle.comparison.variants import without_effect
from upcycle.config import IMAGES, Config, canonical, expanded, path_or_none, read_toml
from upcycle.config import read_json as read_config
from upcycle.device import crowded
from upcycle.errors import RunError
from upcycle.evaluation.predictions import Predictions, read_predictions
from upcycle.evaluation.results import Evaluation, RunEvaluation
from upcycle.history import History
from upcycle.jobs.crossval import cross_validate
from upcycle.jobs.predict import Classifier, Image, Prediction, load
from upcycle.jobs.resume import find_moved, record_place
from upcycle.jobs.start import Start, begin, removed_unless_started
from upcycle.jobs.train import run_training
from upcycle.reporting.progress import Observer, default_show
from upcycle.rundir import RunDir, locked, read_json, read_lines, remove_abandoned

if TYPE_CHECKING:
    from upcycle.reporting.style import Drawing


class Curves(History):
    """A run's history that can be drawn."""

    def plot(self) -> "Drawing":
        """Loss and accuracy, training and validation, by epoch: a matplotlib figure."""
        from upcycle.reporting.figures import curves_figure

        return curves_figure(self)


@dataclass(frozen=True)
class Run:
    """A run directory, read when it is asked; the model is loaded once."""

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", expanded(self.path).absolute())  # the working directory may change

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
    def model(self) -> Classifier:
        """Its best model, ready to predict; loaded when it is first asked for."""
        return load(self.path)

    def predict(self, image: Image | Iterable[Image]) -> Prediction | list[Prediction]:
        """What an image, or each of several, shows.

        Arrays are RGB, not BGR as OpenCV's are; `Classifier.predict` says what is white in them.
        """
        return self.model.predict(image)


def train(
    data: Path | str | None = None,
    *,
    out: Path | str | None = None,
    resume: bool = False,
    config: Path | str | None = None,
    show: Observer | None = None,
    **options: Any,
) -> Run:
    """Do the whole job and return the run.

    `options` are those of `upcycle train --help`: `upcycle.train("photos/", arch="resnet50",
    recipe="classic")`, over those of the TOML file `config`. Raises an UpcycleError with one line that says what is
    wrong.
    """
    show = show or default_show()
    given = _with_file(options, config)
    start = begin(path_or_none(data, IMAGES), given, out=path_or_none(out, "one folder"), resume=resume)
    with removed_unless_started(start.run.root, reserved=out is None):
        return _train(start, given, show)


def _train(start: Start, given: Mapping[str, Any], show: Observer) -> Run:
    """Start the run or resume it."""
    if start.fresh:
        for line in without_effect(given, start.config):
            show.warn(line)
    index = find_moved(start, show) if start.moved else None
    if start.finished:
        if start.moved:
            with locked(start.run.root):
                for run in (start.run, *map(RunDir, start.run.root.glob("fold-*"))):
                    record_place(run, start.data)
        show.message(f"{start.run.root} is finished already: nothing to do")
        from upcycle.reporting.run_page import write_report

        if not start.run.report.exists():  # killed while it was written
            with locked(start.run.root):
                remove_abandoned(start.run.root)
                write_report(start.run)
        return Run(start.run.root)
    if crowd := crowded(start.config.threads):
        show.warn(crowd)
    try:
        (cross_validate if start.config.folds else run_training)(start, show, index=index)
    except KeyboardInterrupt:
        recorded = read_config(start.run.config) if start.run.config.exists() else None
        if recorded is not None and (recorded == start.config or not start.fresh):
            words = ["upcycle", "train", "--out", str(start.run.root), "--resume"]
            show.message(f"to resume: {shlex.join(words)}")
        raise
    return Run(start.run.root)


def _with_file(options: Mapping[str, Any], config: Path | str | None) -> dict[str, Any]:
    """The options of a TOML file, and those that are given over them."""
    file = path_or_none(config, "one TOML file")
    return {**read_toml(file), **canonical(options)} if file else dict(options)
