"""Where the processes of a training find each other: what torchrun, accelerate or srun has set, and their meeting."""

import contextlib
import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from datetime import timedelta

from upcycle.device import versions
from upcycle.errors import ConfigError
from upcycle.world import ALONE, Place, World

MEETING = timedelta(minutes=10)
"""How long processes wait for each other, at the start and in the middle of common work."""
WAITING = timedelta(days=30)
"""How long they wait for the next order: rank 0 may be busy with what it does alone."""
_START = "start it with torchrun --nproc-per-node 2 -m upcycle train ..."


def place_in(environment: Mapping[str, str]) -> Place | None:
    """Which of several processes this one is, by what torchrun, accelerate or srun has set; None for the only one.

    ConfigError where there are several and they cannot find each other.
    """
    found = _of_torchrun(environment) if environment.get("WORLD_SIZE") else _of_srun(environment)
    if found is None or found.size == 1:
        return None
    if not 0 <= found.rank < found.size:
        raise ConfigError(f"RANK = {found.rank} is none of {found.size} processes: {_START}")
    return found


def _of_torchrun(environment: Mapping[str, str]) -> Place | None:
    size = _whole("WORLD_SIZE", environment)
    if size == 1:
        return None
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        if not environment.get(name):
            raise ConfigError(f"WORLD_SIZE = {size}, and {name} is not set: {_START}")
    rank = _whole("RANK", environment)
    local = _whole("LOCAL_WORLD_SIZE", environment) if environment.get("LOCAL_WORLD_SIZE") else 1
    return Place(rank, size, _whole("LOCAL_RANK", environment) if environment.get("LOCAL_RANK") else 0, local)


def _of_srun(environment: Mapping[str, str]) -> Place | None:
    """The tasks of a step: a batch script by itself has none, whatever its job may start."""
    if not environment.get("SLURM_STEP_NUM_TASKS"):
        return None
    size = _whole("SLURM_STEP_NUM_TASKS", environment)
    if size > 1 and not environment.get("MASTER_ADDR"):
        raise ConfigError(
            f"srun has started {size} processes, and MASTER_ADDR is not set: export MASTER_ADDR=$(hostname) in the "
            "job's script, on the node of the first of them"
        )
    counts = _tasks_per_node(environment.get("SLURM_STEP_TASKS_PER_NODE", "1"))
    node = int(environment.get("SLURM_NODEID") or 0)
    local = counts[node] if node < len(counts) else 1
    return Place(_whole("SLURM_PROCID", environment), size, int(environment.get("SLURM_LOCALID") or 0), local)


def _tasks_per_node(text: str) -> list[int]:
    """Slurm's short form, 2(x3),1 for 2, 2, 2 and 1, written out; [] for anything else."""
    found = re.findall(r"(\d{1,6})(?:\(x(\d{1,6})\))?", text)
    return [int(tasks) for tasks, nodes in found for _ in range(int(nodes or 1))]


def _whole(name: str, environment: Mapping[str, str]) -> int:
    try:
        return int(environment[name])
    except (KeyError, ValueError):
        raise ConfigError(f"{name} = {environment.get(name)!r} is no whole number: {_START}") from None


def port_in(environment: Mapping[str, str]) -> str:
    """MASTER_PORT, or for srun, which sets none, one by the number of the job."""
    return environment.get("MASTER_PORT") or str(20000 + int(environment.get("SLURM_JOB_ID") or 0) % 20000)


def restarted(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun has started these processes again after one of them ended."""
    return int(environment.get("TORCHELASTIC_RESTART_COUNT") or 0) > 0


def may_restart(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun will start them again."""
    return int(environment.get("TORCHELASTIC_MAX_RESTARTS") or 0) > 0


def follows(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether another process decides and prints."""
    try:
        place = place_in(environment)
    except ConfigError:
        return False
    return place is not None and place.rank > 0


@contextlib.contextmanager
def joined(place: Place | None, *, patience: timedelta = MEETING) -> Iterator[World]:
    """The world that this process is part of, until it ends; ALONE without a place in one.

    ConfigError where the processes do not meet in time, or are of different versions.
    """
    if place is None:
        yield ALONE
        return
    import torch
    import torch.distributed as dist

    os.environ.setdefault("MASTER_PORT", port_in(os.environ))
    cuda = torch.cuda.is_available()
    if cuda:
        if place.local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"{place.local_size} processes on a node with {torch.cuda.device_count()} GPUs: start one for each"
            )
        torch.cuda.set_device(place.local_rank)
    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        store, _, _ = next(
            dist.rendezvous(  # type: ignore[attr-defined]
                "env://", place.rank, place.size, timeout=patience
            )
        )
        # what earlier processes, which torchrun has restarted, left in the store leads nowhere
        own = dist.PrefixStore(  # type: ignore[attr-defined]
            f"upcycle {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store
        )
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(backend, store=own, rank=place.rank, world_size=place.size, timeout=patience)
        orders = dist.new_group(backend="gloo", timeout=WAITING)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ConfigError(
            f"process {place.rank} of {place.size} did not meet the others at {where} ({reason}): start them all, and "
            "let them reach MASTER_ADDR"
        ) from error
    world = World(place, orders)
    try:
        _check_versions(world)
        yield world
    finally:
        with contextlib.suppress(Exception):  # what is left of a group whose processes have gone
            dist.destroy_process_group()


def _check_versions(world: World) -> None:
    said = [json.loads(text) for text in world.reports(json.dumps({**versions(), "node": socket.gethostname()}))]
    first = {name: value for name, value in said[0].items() if name != "node"}
    for rank, facts in enumerate(said):
        other = next((name for name in first if facts.get(name) != first[name]), None)
        if other is not None and not world.follows:
            raise ConfigError(
                f"process {rank}, on {facts['node']}, has {other} {facts.get(other)}, and process 0 {first[other]}: "
                "install the same on every node"
            )
