"""Work that Ray spreads over the nodes of a cluster: what all such jobs share.

Ray starts processes, gives each its processors or a GPU, and starts what a dead node had again. What they read and
write lies on storage that all nodes see; a training that is started again resumes from its last checkpoint.
"""

import contextlib
import os
import platform
import re
import socket
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from upcycle.config import Config
from upcycle.device import Hardware, detect, version, versions
from upcycle.errors import ConfigError, DataError, RunError, UpcycleError, counted, shown
from upcycle.jobs.signals import stopping
from upcycle.reporting.progress import Silent

RETRIES = 3
"""How often what a dead node had is started again."""
ANSWER = 120.0
"""Seconds that a node may take to say what it has: Ray starts a process there."""
_MARKER = ".seen-by-all-nodes"
_Item = TypeVar("_Item")


@contextlib.contextmanager
def cluster(on: str) -> Iterator[Any]:
    """The `ray` module, connected: `ray` is the cluster of $RAY_ADDRESS, else one on this machine, for as long as this.

    `ray://HOST:PORT` is the Ray client server of a cluster. ConfigError where there is none, or no Ray.
    """
    if on != "ray" and not on.startswith("ray://"):
        raise ConfigError(f"on = {on!r} is no place to train: give ray, or ray://HOST:PORT")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise ConfigError('ray is not installed: pip install "upcycle[scale]"') from None
    if ray.is_initialized():  # by the caller, whose it stays
        yield ray
        return
    address = on if on.startswith("ray://") else os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {} if address else {"include_dashboard": False}
    try:
        _check_answers(address)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ConfigError(f"no Ray cluster answers at {address or 'this machine'} ({reason})") from error
    try:
        with stopping():  # Ray's own answer to SIGTERM is a stack trace
            yield ray
    finally:
        ray.shutdown()


def _check_answers(address: str | None) -> None:
    """OSError where nobody listens at HOST:PORT: Ray itself would wait for minutes."""
    found = re.fullmatch(r"(?:ray://)?\[?([^/\]]+)\]?:(\d+)/?", address or "")
    if found:
        socket.create_connection((found[1], int(found[2])), timeout=10).close()


def check_nodes(ray: Any, data: Path, folder: Path, packages: Sequence[str] = ()) -> int:
    """How many nodes there are; an error for one with other versions, or that does not see `data` and `folder`.

    `packages`: those whose versions count, where not all do. `folder` is made. A node that has just gone stops nothing.
    """
    mine = {"python": platform.python_version(), **{name: version(name) for name in packages}}
    mine = mine if packages else versions()

    def installed(names: Sequence[str]) -> dict[str, str | None]:
        """The versions there; it goes to the node as it is, which may have no upcycle."""
        import importlib.metadata
        import platform

        found: dict[str, str | None] = {}
        for name in names:
            try:
                found[name] = platform.python_version() if name == "python" else importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                found[name] = None
        return found

    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / _MARKER
    marker.touch()
    try:
        for where, there in _asked(ray, installed, tuple(mine)):
            other = next((name for name in mine if there[name] != mine[name]), None)
            if other:
                has = f"has {other} {there[other]}" if there[other] else f"has no {other}"
                raise ConfigError(f"{where} {has}, and here it is {mine[other]}: install the same")
        answered = 0
        for where, (sees_data, sees_folder) in _asked(ray, _sees, str(Path.cwd()), data, marker):
            answered += 1
            if not sees_data:
                raise DataError(f"{where} does not see {shown(data)}: give what lies on storage that all nodes share")
            if not sees_folder:
                raise RunError(f"{where} does not see {shown(folder)}: give --out on storage that all nodes share")
    finally:
        marker.unlink(missing_ok=True)
    return answered


def _asked(ray: Any, question: Callable[..., Any], *arguments: Any) -> Iterator[tuple[str, Any]]:
    """What each node answers, with its name; UpcycleError where none does."""
    strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    asked = {
        node["NodeID"]: ray.remote(question)
        .options(num_cpus=0, max_retries=0, scheduling_strategy=strategy(node["NodeID"], soft=False))
        .remote(*arguments)
        for node in _alive(ray)
    }
    names = {node["NodeID"]: node.get("NodeManagerHostname") or node["NodeID"] for node in _alive(ray)}
    reason, until, answered = "it has none", time.monotonic() + ANSWER, False
    for node, asking in asked.items():
        try:
            found = ray.get(asking, timeout=max(until - time.monotonic(), 1.0))
        except ray.exceptions.RayError as error:  # it has just gone: others do its work
            reason = reason_of(error)
            continue
        answered = True
        yield f"the Ray node {shown(names.get(node, node))}", found
    if not answered:
        raise UpcycleError(f"no node of the Ray cluster answers ({reason}): run again")


def _alive(ray: Any) -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _sees(cwd: str, data: Path, marker: Path) -> tuple[bool, bool]:
    """Whether a node sees the images and the folder."""
    with contextlib.suppress(OSError):
        os.chdir(cwd)
    return data.exists(), marker.exists()


# ---------------------------------------------------------------- tasks


def driver_machine(config: Config) -> Hardware:
    """What this process computes on while nodes do the work: its processor, whatever device they are to use."""
    return detect(threads=config.threads, device="cpu")


def resources_of(ray: Any, config: Config) -> dict[str, float]:
    """What a process with this configuration takes of a node: as many processors as it has threads here, and a GPU
    where one is asked for, or the cluster has some.
    """
    accelerated = config.device == "cuda" or (config.device == "auto" and ray.cluster_resources().get("GPU", 0) > 0)
    return {"num_cpus": driver_machine(config).threads, "num_gpus": int(accelerated)}


def at_once(ray: Any, wanted: Mapping[str, float]) -> int:
    """How many processes that take so much the cluster has room for."""
    kinds = {"CPU": wanted["num_cpus"], "GPU": wanted.get("num_gpus", 0)}
    return sum(
        min(int(node["Resources"].get(kind, 0) // many) for kind, many in kinds.items() if many) for node in _alive(ray)
    )


def too_large(ray: Any, wanted: Mapping[str, float]) -> str:
    """That no node has room for a process that takes so much, and what to do; "" where one has.

    It is no error: a cluster may grow.
    """
    if at_once(ray, wanted):
        return ""
    cores = counted(int(wanted["num_cpus"]), "processor")
    what = f"{cores} and a GPU" if wanted.get("num_gpus") else cores
    return f"no Ray node has {what} for one process: it waits until one joins; give other --threads or --device"


def as_they_end(
    ray: Any,
    function: Callable[..., Any],
    ready: Callable[[], Sequence[_Item]],
    arguments: Callable[[_Item], tuple[Any, ...]],
    resources: Callable[[_Item], dict[str, float]],
    key: Callable[[_Item], object],
    meanwhile: Callable[[], None] = lambda: None,
) -> Generator[tuple[_Item, Any], None, None]:
    """Run `function` on all items that are `ready`, asked again each time one ends; yields them as they do.

    Of those with the same `key` one is run. `meanwhile` is called every second. What a dead node had is started again.
    Ctrl-C asks all of them to stop, and waits until they have.
    """
    running: dict[Any, _Item] = {}
    remote = ray.remote(_quietly)
    started: set[object] = set()
    try:
        while True:
            for item in ready():
                if key(item) not in started:
                    started.add(key(item))
                    options = {"max_retries": RETRIES, **resources(item)}
                    running[remote.options(**options).remote(str(Path.cwd()), function, *arguments(item))] = item
            if not running:
                return
            ended: list[Any] = []
            while not ended:
                with stopping() as job, job.held():  # Ray makes any signal a Ctrl-C
                    ended, _ = ray.wait(list(running), num_returns=1, timeout=1.0)
                meanwhile()
            item = running.pop(ended[0])
            try:
                yield item, ray.get(ended[0])
            except ray.exceptions.RayError as error:
                raise UpcycleError(f"Ray could not run it on any node ({reason_of(error)}): run again") from error
    finally:
        for one in running:
            ray.cancel(one)
        if running:
            ray.wait(list(running), num_returns=len(running), timeout=60)


def _quietly(cwd: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function gives, in the folder of whoever asked, where this node has that."""
    with contextlib.suppress(OSError):
        os.chdir(cwd)
    return function(*arguments)


def reason_of(error: Exception) -> str:
    """What Ray says of an error, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shown((lines or [type(error).__name__])[0])[:200]


class Noted(Silent):
    """Keeps the warnings that are told."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        """Keep it."""
        self.warnings.append(text)
