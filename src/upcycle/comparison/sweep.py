"""A grid of runs being worked through: where each cell is, what has finished, the order, and the time left."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from upcycle.comparison.grid import Cell, Grid, key_of
from upcycle.comparison.ladder import Rung
from upcycle.comparison.options import deciding
from upcycle.config import read_json as read_config
from upcycle.errors import ConfigError, RunError
from upcycle.rundir import RunDir, read_json, read_lines


class Progress:
    """Which run directory each cell has, and which failed; what has finished is read from the directories."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.failed: dict[Path, str] = {}
        self._places = _existing(grid.runs)
        self._facts: dict[str, tuple[Path, str]] = {}
        # in one fixed order, so that cells that are the same run get the name of the rung that comes first
        for rung in grid.rungs:
            for seed in grid.seeds if not rung.rates else ():
                self.place(Cell(rung, seed, grid.options(rung, seed)))
        for rung in grid.rungs:
            for trial in self._possible(rung):
                self.place(trial)

    def place(self, cell: Cell) -> Path:
        """The run directory of a cell: cells of one configuration, in whatever rung, are one run."""
        rate = f"-rate-{cell.options['lr']:g}" if cell.rung.rates else ""
        return self._places.setdefault(cell.key, self.grid.runs / f"{cell.rung.name}{rate}-seed-{cell.seed}")

    def finished(self, cell: Cell) -> bool:
        """Whether its run is there; RunError when it was trained with other options, images, split or weights."""
        run = RunDir(self.place(cell))
        if not run.is_run() or run.status()["state"] != "finished":
            return False
        if not (run.config.exists() and run.evaluation.exists() and run.predictions("test").exists()):
            return False  # tested again from its best weights
        there, asked = deciding(_read(run.config)), deciding(cell.config.to_dict())
        other = next((name for name in {**asked, **there} if asked.get(name) != there.get(name)), None)
        if other is not None:
            raise RunError(
                f"{run.root} was trained with {other} = {there.get(other)}, not {asked.get(other)}: give another --out"
            )
        self._check_facts(run, f"weights {cell.config.weights} of {cell.config.arch}", cell.rung.name)
        return True

    def done(self, cell: Cell) -> bool:
        """Whether its run is there, or has failed."""
        return self.finished(cell) or self.place(cell) in self.failed

    def _check_facts(self, run: RunDir, weights: str, rung: str) -> None:
        """RunError when a run has other images, another split or other `weights` of one name than those before it."""
        recorded = read_json(run.config)
        facts = {
            "images": str(recorded.get("data")),
            "images or split": hashlib.sha256(run.splits.read_bytes()).hexdigest() if run.splits.exists() else "",
            weights: str(recorded.get("weights_sha256")),
            f"input for the rung {rung}": _input(run),
        }
        if facts["images"] != str(self.grid.data):
            raise RunError(f"{run.root} was trained on {facts['images']}, not {self.grid.data}: give another --out")
        for name, value in facts.items():
            first, known = self._facts.setdefault(name, (run.root, value))
            if known != value:
                raise RunError(f"{run.root} and {first} were trained with other {name}: give another --out")

    def trials(self, rung: Rung) -> tuple[Cell, ...]:
        """The cells that a rung's rate is chosen from, one a rate, with the first seed, as far as they are known yet.

        The rate tried first and its neighbours; then, while the best of those tried is the lowest or the highest of
        them, the next one beyond. What has been trained besides is taken as well.
        """
        cells = self._possible(rung)
        if not cells:
            return ()
        losses = [self._loss(cell) for cell in cells]
        low, high = max(0, rung.middle - 1), min(len(cells) - 1, rung.middle + 1)
        while None not in losses[low : high + 1]:
            best = min(range(low, high + 1), key=lambda at: losses[at] or 0.0)
            if best == low > 0:
                low -= 1
            elif best == high < len(cells) - 1:
                high += 1
            else:
                break
        return tuple(cell for at, cell in enumerate(cells) if low <= at <= high or losses[at] not in (None, math.inf))

    def _loss(self, cell: Cell) -> float | None:
        """The lowest validation loss of a trial; infinite where it failed, None where it is still to come."""
        if self.finished(cell):
            return lowest_loss(self.place(cell))
        return math.inf if self.place(cell) in self.failed else None

    def _possible(self, rung: Rung) -> tuple[Cell, ...]:
        """A trial of each of a rung's rates."""
        seed = self.grid.seeds[0]
        return tuple(Cell(rung, seed, self.grid.options(rung, seed, lr), trial=True) for lr in rung.rates)

    def cell(self, rung: Rung, seed: int) -> Cell | None:
        """The run of a rung for one seed; None while its rate is not chosen."""
        if not rung.rates:
            return Cell(rung, seed, self.grid.options(rung, seed))
        lr = self.chosen(rung)
        return None if lr is None else Cell(rung, seed, self.grid.options(rung, seed, lr))

    def places_of(self, rung: Rung) -> dict[Path, Cell]:
        """The run directories of a rung's trials and runs, those of a rate not chosen yet left out."""
        cells = [*self.trials(rung), *(self.cell(rung, seed) for seed in self.grid.seeds)]
        return {self.place(cell): cell for cell in cells if cell is not None}

    def chosen(self, rung: Rung) -> float | None:
        """The rate whose trial has the lowest validation loss; None until every trial has finished or failed."""
        trials = self.trials(rung)
        finished = [cell for cell in trials if self.finished(cell)]
        if not finished or not all(self.done(cell) for cell in trials):
            return None
        return float(min(finished, key=lambda cell: lowest_loss(self.place(cell))).options["lr"])


def _input(run: RunDir) -> str:
    """What a run's network was given: size, crop, mean and so on, as text."""
    model = read_json(run.model) if run.model.exists() else {}
    seen = model.get("preprocessing") if isinstance(model, dict) else None
    known = seen if isinstance(seen, dict) else {}
    return str(sorted((key, str(value)) for key, value in known.items() if key != "source"))


def _existing(folder: Path) -> dict[str, Path]:
    """The run directories that are there, by configuration."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        config = RunDir(path).config
        if config.exists():
            found.setdefault(key_of(_read(config)), path)
    return found


def _read(file: Path) -> dict[str, Any]:
    """A run's configuration; RunError when it is damaged."""
    try:
        return read_config(file).to_dict()
    except ConfigError as error:
        raise RunError(str(error)) from None


def lowest_loss(run: Path) -> float:
    """The lowest validation loss of a run's last phase; infinite where none is known, or its rate did not hold."""
    rows = read_lines(RunDir(run).history)
    if rows and rows[-1].get("retries"):
        return math.inf
    losses = [row["val_loss"] for row in rows if row.get("phase") == rows[-1].get("phase")]
    return min((float(loss) for loss in losses if loss is not None), default=math.inf)


def rounds(progress: Progress) -> Iterator[list[tuple[Rung, int]]]:
    """Rungs and seeds in the order of work: the whole ladder with the first seed, then the cheapest rung's other seeds,
    the next cheapest's and so on, so that an early end leaves a whole ladder and many seeds of what is cheap."""
    first, *others = progress.grid.seeds
    # a rate that is to be chosen takes several runs: the rest of the ladder comes before it
    yield [(rung, first) for rung in sorted(progress.grid.rungs, key=lambda rung: len(rung.rates))]
    known = costs(progress)
    for rung in sorted(progress.grid.rungs, key=lambda rung: known.get(rung.name, math.inf)) if others else ():
        yield [(rung, seed) for seed in others]


def costs(progress: Progress) -> dict[str, float]:
    """Mean seconds of each rung's finished runs."""
    found = {}
    for rung in progress.grid.rungs:
        places = [place for place, cell in progress.places_of(rung).items() if progress.finished(cell)]
        if places:
            found[rung.name] = mean(float(RunDir(place).status().get("seconds") or 0.0) for place in places)
    return found


@dataclass(frozen=True)
class Remaining:
    """What is left to do: `done` of `total` runs, failed ones too, `seconds` of those with a time, the other rungs."""

    done: int
    total: int
    seconds: float
    untimed: tuple[str, ...]


def remaining(progress: Progress) -> Remaining:
    """How long the rest will take, if each rung goes on taking what its finished runs took on average."""
    done, known, waiting = 0, costs(progress), {}
    counted: set[Path] = set()
    for rung in progress.grid.rungs:
        places = progress.places_of(rung)
        finished = [place for place, cell in places.items() if progress.finished(cell)]
        to_come = places.keys() - set(finished) - progress.failed.keys() - counted
        # while the rate is not chosen, every seed but the trials' own is still to come
        waiting[rung.name] = len(to_come) + (
            len(progress.grid.seeds) - 1 if rung.rates and progress.chosen(rung) is None else 0
        )
        done += len({*finished, *(places.keys() & progress.failed.keys())} - counted)
        counted |= places.keys()
    left = sum(count * known.get(name, 0.0) for name, count in waiting.items())
    untimed = tuple(name for name, count in waiting.items() if count and name not in known)
    return Remaining(done, done + sum(waiting.values()), left, untimed)
