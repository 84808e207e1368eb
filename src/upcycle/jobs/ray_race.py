"""A race whose candidates run on the nodes of a Ray cluster, each in a process of its own that keeps its network.

What goes between them are the values of a candidate without its network and its features. Rounds, what is dropped and
what is scored are those of the race on one machine; times are those of the nodes.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from upcycle.jobs.entrants import Entrant
from upcycle.jobs.race import Race, Racer
from upcycle.reporting.progress import Silent


@dataclass(frozen=True, eq=False)
class RayRace(Race):
    """The same race, `ray` being connected."""

    ray: Any = None

    def _measured(self, entrants: Sequence[Entrant]) -> tuple[list[Racer], list[str]]:
        remote = self.ray.remote(_Runner)
        inside = self.ray.put(Race(self.course, self.config, self.machine, Silent()))
        threads = self.machine.threads
        needs = {"num_cpus": threads, "num_gpus": int(self.machine.device == "cuda"), "max_restarts": 0}
        self._runners.clear()
        for entrant in entrants:
            self._runners[entrant.name] = remote.options(**needs).remote(str(Path.cwd()), threads, inside, entrant)
        return self._answers([runner.measure.remote() for runner in self._runners.values()], "measuring")

    def _round(self, running: Sequence[Racer], number: int) -> tuple[list[Racer], list[str]]:
        asked = [self._runners[racer.name].round.remote(number) for racer in running]
        return self._answers(asked, f"{len(self.course.rounds[number])} images")

    @property
    def _runners(self) -> dict[str, Any]:
        """The candidates' processes by name, for as long as the race."""
        return self.__dict__.setdefault("_processes", {})  # type: ignore[no-any-return]

    def _answers(self, asked: list[Any], what: str) -> tuple[list[Racer], list[str]]:
        """The candidates in order, and a line for each that failed, or whose node has gone."""
        racers: list[Racer] = []
        lost: list[str] = []
        with self.show.progress(what) as progress:
            for done, one in enumerate(asked, 1):
                try:
                    racer, lines = self.ray.get(one)
                except self.ray.exceptions.RayError as error:
                    racer, lines = None, [f"a candidate is left out: its node has gone ({str(error).splitlines()[0]})"]
                for line in lines:
                    self.show.warn(line)
                lost += lines
                racers += [racer] if racer is not None else []
                progress(done, len(asked))
        return racers, lost


class _Runner:
    """One candidate, with its network, on a node."""

    def __init__(self, cwd: str, threads: int, race: Race, entrant: Entrant) -> None:
        if Path(cwd).is_dir():
            os.chdir(cwd)
        os.environ["OMP_NUM_THREADS"] = str(threads)
        self.race, self.entrant = race, entrant
        self.racer: Racer | None = None

    def measure(self) -> tuple[Racer | None, list[str]]:
        """Make the network, and time it on its first images."""
        from upcycle import device as machines

        machines.apply(self.race.machine, self.race.config.seed)
        racers, lost = self.race._measured([self.entrant])
        self.racer = racers[0] if racers else None
        return self._told(), lost

    def round(self, number: int) -> tuple[Racer | None, list[str]]:
        """Score the candidate on the images of a round."""
        assert self.racer is not None
        done, lost = self.race._round([self.racer], number)
        return (self._told() if done else None), lost

    def _told(self) -> Racer | None:
        """The candidate as rank and cost are computed from it."""
        return replace(self.racer, model=None, features=self.racer.features[:0]) if self.racer else None
