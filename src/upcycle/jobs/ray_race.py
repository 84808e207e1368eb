"""The candidates of a race as tasks of a Ray cluster, side by side."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from upcycle import device as machines
from upcycle.config import Config
from upcycle.errors import UpcycleError, WeightsError, counted
from upcycle.jobs.entrants import Entrant, without_tensors
from upcycle.jobs.on_ray import (
    Noted,
    as_they_end,
    at_once,
    check_nodes,
    driver_machine,
    resources_of,
    too_large,
)
from upcycle.jobs.prepare import machine_of
from upcycle.jobs.race import Course, Elsewhere, Race, Racer
from upcycle.model.sources import get_weights, weights_at_hand
from upcycle.reporting.progress import Display


def candidates_on(ray: Any, data: Path, out: Path, course: Course, config: Config, show: Display) -> Elsewhere:
    """Where candidates compute: the nodes of a cluster, each candidate with the processors or the GPU of a training.

    A candidate's network is made again for each of its turns, so that a lost node costs one turn; its features travel.
    """
    nodes, wanted = check_nodes(ray, data, out), resources_of(ray, config)
    show.message(f"{counted(nodes, 'node')} of a Ray cluster")
    if reason := too_large(ray, wanted):
        show.warn(reason)
    threads, put, told = driver_machine(config).threads, ray.put(course), set[str]()

    def turns(ones: Sequence[Entrant | Racer], number: int) -> Sequence[Racer | UpcycleError]:
        found: dict[int, Racer | UpcycleError] = {}
        with show.progress(f"round {number + 1}" if isinstance(ones[0], Racer) else "measuring") as progress:
            for at, (made, warnings) in as_they_end(
                ray,
                take_turn,
                lambda: range(len(ones)),
                lambda at: (_bare(ones[at]), number, put, config, threads),
                lambda _: wanted,
                lambda at: at,
            ):
                found[at] = made
                for line in dict.fromkeys(warnings):
                    if line not in told:
                        show.warn(line)
                        told.add(line)
                progress(len(found), len(ones))
        return [found[at] for at in range(len(ones))]

    return Elsewhere(turns, max(1, at_once(ray, wanted)))


def _bare(one: Entrant | Racer) -> Entrant | Racer:
    """A candidate as it travels: each node reads the weights itself."""
    return one if isinstance(one, Racer) else without_tensors(one)


def take_turn(
    one: Entrant | Racer, number: int, course: Course, config: Config, threads: int
) -> tuple[Racer | UpcycleError, list[str]]:
    """A candidate after its turn, without its network, or why it has failed; and warnings."""
    os.environ["OMP_NUM_THREADS"] = str(threads)  # Ray says one for each processor it gave
    noted = Noted()
    try:
        with machines.restored():
            machine = machine_of(config)
            machines.apply(machine, config.seed)
            race = Race(course, config, machine, noted)
            entrant = with_weights(one.entrant if isinstance(one, Racer) else one)
            if isinstance(one, Racer):
                racer = replace(one, passes=list(one.passes), scores=list(one.scores))
                racer.features, racer.known = racer.features.copy(), racer.known.copy()  # Ray's arrays are read-only
                race.reopen(racer, entrant)
                race.run_round(racer, number)
            else:
                racer = race.measured(entrant)
            racer.model = None
            return racer, noted.warnings
    except UpcycleError as error:
        return error, noted.warnings


def with_weights(entrant: Entrant) -> Entrant:
    """The entrant with the weights that are here; WeightsError where they are others than it was entered with."""
    own = weights_at_hand(entrant.arch) if entrant.given == "auto" else None
    weights = own or get_weights(entrant.arch, entrant.given)
    if weights is None or weights.sha256 != entrant.weights.sha256:
        raise WeightsError("a node has other weights of it: give ARCH=FILE on storage that all nodes share")
    return replace(entrant, weights=weights)
