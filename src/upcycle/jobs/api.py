"""The Python interface: `train`, `compare` and `load`, with the command line's words.

What draws and what compares is imported when it is asked for: a run's first update must not wait for it.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upcycle.comparison.options import without_effect
from upcycle.config import IMAGES, Config, canonical, expanded, path_or_none, read_toml
from upcycle.config import read_json as read_config
from upcycle.device import crowded
from upcycle.errors import ConfigError, RunError
from upcycle.evaluation.predictions import Predictions
from upcycle.evaluation.predictions import read as read_predictions
from upcycle.history import History
from upcycle.jobs.crossval import cross_validate
from upcycle.jobs.predict import Classifier, Image, Prediction, load
from upcycle.jobs.resume import find_moved, record_place
from upcycle.jobs.start import Start, begin, removed_unless_started
from upcycle.jobs.train import run_training
from upcycle.recipes import resolve
from upcycle.reporting.show import Observer, default_show
from upcycle.rundir import RunDir, locked, read_json, read_lines, remove_abandoned

if TYPE_CHECKING:
    from upcycle.reporting.drawing import Drawing


class Curves(History):
    """A run's history that can be drawn."""

    def plot(self) -> "Drawing":
        """Loss and accuracy, training and validation, by epoch: a matplotlib figure."""
        from upcycle.reporting.plots import curves_figure

        return curves_figure(self.to_dicts())


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
    def evaluation(self) -> dict[str, Any]:
        """Metrics with intervals, by split: `run.evaluation["test"]["f1_macro"]["value"]`."""
        known: dict[str, Any] = read_json(self.directory.evaluation)
        return known

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
        show.say(f"{start.run.root} is finished already: nothing to do")
        from upcycle.reporting.report import write_report

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
            show.say(f"to resume: {shlex.join(words)}")
        raise
    return Run(start.run.root)


def _with_file(options: Mapping[str, Any], config: Path | str | None) -> dict[str, Any]:
    """The options of a TOML file, and those that are given over them."""
    file = path_or_none(config, "one TOML file")
    return {**read_toml(file), **canonical(options)} if file else dict(options)


@dataclass(frozen=True)
class Comparison:
    """The folder of a comparison, read when it is asked."""

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", expanded(self.path).absolute())  # the working directory may change

    @property
    def values(self) -> dict[str, Any]:
        """All of comparison.json: `values["pairs"][0]["difference"]["interval"]`."""
        from upcycle.reporting.comparison import FILE

        known: dict[str, Any] = read_json(self.path / FILE)
        return known

    @property
    def page(self) -> Path:
        """The self-contained page."""
        from upcycle.reporting.comparison import PAGE

        return self.path / PAGE


def compare(
    *paths: Path | str,
    rungs: Sequence[str] | None = None,
    seeds: int | None = None,
    smallest_difference: float | None = None,
    out: Path | str | None = None,
    resume: bool = False,
    config: Path | str | None = None,
    show: Observer | None = None,
    **options: Any,
) -> Comparison:
    """Train rungs on one split and compare them, or compare runs that exist.

    `upcycle.compare("photos/", rungs=["probe", "default"], seeds=5, arch="resnet50")` trains;
    `upcycle.compare("runs/a", "runs/b")` trains nothing. `smallest_difference` is in points of F1: what
    would matter to you (1 if left out). Raises an UpcycleError with one line that says what is wrong.
    """
    from upcycle.comparison.compare import SMALLEST_DIFFERENCE
    from upcycle.jobs.compare import begin_grid, compare_runs, run_grid

    if isinstance(smallest_difference, bool) or not isinstance(smallest_difference, int | float | None):
        raise ConfigError(f"smallest_difference = {smallest_difference!r} is no number of points")
    if smallest_difference is not None and not 0 < smallest_difference <= 100:
        raise ConfigError(f"smallest_difference = {smallest_difference} is out of range: use points above 0, up to 100")
    options = _with_file(options, config)
    given, folder = [expanded(path, f"{IMAGES}, or runs one by one") for path in paths], path_or_none(out, "one folder")
    show, goal = show or default_show(), None if smallest_difference is None else smallest_difference / 100
    if len(given) > 1 or any(RunDir(path).is_run() for path in given):
        others = {"rungs": rungs, "seeds": seeds, "resume": resume or None}
        unused = [*options, *(name for name, value in others.items() if value is not None)]
        if unused:
            raise ConfigError(f"{unused[0]} is for training, and runs that exist are not trained again: leave it out")
        return Comparison(compare_runs(given, out=folder, goal=goal or SMALLEST_DIFFERENCE, show=show))
    data = given[0] if given else None
    grid = begin_grid(data, rungs, seeds=seeds, options=options, goal=goal, out=folder, resume=resume)
    with removed_unless_started(grid.out, reserved=folder is None):
        if crowd := crowded(resolve({"threads": grid.common.get("threads", 0)}).threads):
            show.warn(crowd)
        run_grid(grid, show=show)
    return Comparison(grid.out)
