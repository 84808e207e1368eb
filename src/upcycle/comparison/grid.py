"""What a comparison trains: its grid of rungs and seeds, as it is written down, and the cells that it consists of."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from upcycle.comparison.ladder import Rung, check_name
from upcycle.comparison.options import FREE_TO_CHANGE, deciding
from upcycle.config import Config
from upcycle.errors import ConfigError, RunError
from upcycle.recipes import resolve
from upcycle.rundir import read_json, write_json

MOST_SEEDS = 100


@dataclass(frozen=True)
class Grid:
    """What is compared: `rungs` in order, `seeds`, the options that all share, and the difference that would matter."""

    data: Path
    rungs: tuple[Rung, ...]
    seeds: tuple[int, ...]
    common: Mapping[str, Any]
    out: Path
    goal: float = 0.01

    @property
    def runs(self) -> Path:
        """The folder of its run directories."""
        return self.out / "runs"

    @property
    def file(self) -> Path:
        """Where it is written down (JSON)."""
        return self.out / "grid.json"

    def options(self, rung: Rung, seed: int, lr: float | None = None) -> dict[str, Any]:
        """The options of one run; all share the split of the first seed, whose own runs need not say so."""
        return rung.over(self.common, seed=seed, split_seed=None if seed == self.seeds[0] else self.seeds[0], lr=lr)

    def to_dict(self) -> dict[str, Any]:
        """Plain values: what may not change when the grid is gone on with, and its rungs and seeds."""
        common = {name: value for name, value in self.common.items() if name not in FREE_TO_CHANGE}
        free = {name: value for name, value in self.common.items() if name in FREE_TO_CHANGE}
        return {
            "data": str(self.data),
            "common": _plain(common),
            "free": _plain(free),
            "first_seed": self.seeds[0],
            "seeds": len(self.seeds),
            "smallest_difference": self.goal,
            "rungs": {rung.name: _plain(rung.options) for rung in self.rungs},
            "files": {rung.name: rung.file for rung in self.rungs if rung.file},
        }


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps(dict(options), default=str))
    return made


class _Written(BaseModel):
    """What grid.json holds."""

    model_config = ConfigDict(strict=True)

    data: str
    common: dict[str, Any]
    free: dict[str, Any] = {}
    first_seed: int = Field(ge=0, lt=2**31)
    seeds: int = Field(ge=1, le=MOST_SEEDS)
    smallest_difference: float = Field(gt=0, le=1)
    rungs: dict[Annotated[str, AfterValidator(check_name)], dict[str, Any]]
    files: dict[str, str] = {}


def read_grid(path: Path) -> dict[str, Any]:
    """What a grid has written down; RunError when it is not one."""
    try:
        return _Written.model_validate(read_json(path)).model_dump()
    except ValidationError:
        raise RunError(f"{path} does not hold a comparison's grid: give another --out") from None


def seeds_from(first: int, count: int) -> tuple[int, ...]:
    """`count` seeds from `first`; ConfigError when that is none, too many or no number."""
    if not isinstance(count, int) or isinstance(count, bool):
        raise ConfigError(f"seeds = {count!r} is not a whole number")
    if not 1 <= count <= MOST_SEEDS:
        raise ConfigError(f"seeds = {count} is out of range: use 1 to {MOST_SEEDS}")
    return tuple(range(first, first + count))


def check_same(grid: Grid) -> None:
    """RunError when `grid` goes on with one that was begun otherwise, or leaves some of it out; more is welcome."""
    begun, now = read_grid(grid.file), grid.to_dict()
    for name, words in (("data", "DATA"), ("common", "options"), ("first_seed", "--seed")):
        if begun[name] != now[name]:
            raise RunError(f"{grid.out} was begun with {words} {begun[name]}, not {now[name]}: give another --out")
    left_out = [name for name in begun["rungs"] if name not in now["rungs"]]
    if left_out:
        files = {**now["files"], **begun["files"]}
        every = ",".join(files.get(name, name) for name in dict.fromkeys([*begun["rungs"], *now["rungs"]]))
        raise RunError(
            f"{grid.out} has the rung {left_out[0]} already: name all, --rungs {every}, or give another --out"
        )
    if now["seeds"] < begun["seeds"]:
        raise RunError(f"{grid.out} was begun with {begun['seeds']} seeds: give as many or more, or another --out")
    for name in begun["rungs"].keys() & now["rungs"].keys():
        if begun["rungs"][name] != now["rungs"][name]:
            raise RunError(f"{grid.out} was begun with other options for the rung {name}: give another --out")


def write_grid(grid: Grid) -> None:
    """Write the grid down, so that it can be gone on with."""
    write_json(grid.file, grid.to_dict())


@dataclass(frozen=True)
class Cell:
    """One training of the grid: a run of a rung for one seed, or a trial of a rate."""

    rung: Rung
    seed: int
    options: Mapping[str, Any]
    trial: bool = False

    @property
    def config(self) -> Config:
        """Its options, resolved; ConfigError, naming the rung, for what cannot be trained."""
        try:
            return resolve(self.options)
        except ConfigError as error:
            raise ConfigError(f"rung {self.rung.name}: {error}") from None

    @property
    def key(self) -> str:
        """What its configuration is known by, whatever rung asks for it."""
        return key_of(self.config.to_dict())

    @property
    def words(self) -> str:
        """What it is, for a line of progress."""
        rate = f" at rate {self.options['lr']:g}" if self.trial else ""
        return f"{self.rung.name}{rate}, seed {self.seed}"


def key_of(config: Mapping[str, Any]) -> str:
    """What a configuration is known by: the options that decide its result."""
    return json.dumps(deciding(config), sort_keys=True)
