"""Work that Ray spreads over the nodes of a cluster: trainings of a comparison, parts of a large prediction.

Ray starts processes, gives each its processors or a GPU, and starts what a dead node had again. What they read and
write lies on storage that all nodes see; a training that is started again resumes from its last checkpoint.
"""

import contextlib
import hashlib
import logging
import os
import platform
import shutil
import socket
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from upcycle.bundle.description import is_bundle
from upcycle.config import Config, expanded
from upcycle.device import Hardware, detect, version, versions
from upcycle.errors import ConfigError, DataError, RunError, StorageError, UpcycleError, counted, shown
from upcycle.jobs.files import Unlisted
from upcycle.jobs.prediction_files import Counts, Makers, Work, path_of, write_part
from upcycle.jobs.predictor import predictor
from upcycle.reporting.progress import Display, Silent
from upcycle.rundir import is_locked, read_json, write_json, write_text

RETRIES = 3
"""How often what a dead node had is started again."""
ANSWER = 120.0
"""Seconds that a node may take to say what it has: Ray starts a process there."""
PATIENCE = 60.0
"""Seconds that a lost node's process may still be at work: it ends soon after it has lost its node."""
_MARKER = ".seen-by-all-nodes"
_STARTED = ".started"
_PREDICTING = ("upcycle", "numpy", "Pillow", "onnxruntime")
"""Packages that decide what an export predicts."""
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
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **quiet)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ConfigError(f"no Ray cluster answers at {address or 'this machine'} ({reason})") from error
    try:
        yield ray
    finally:
        ray.shutdown()


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
            reason = _reason(error)
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
                ended, _ = ray.wait(list(running), num_returns=1, timeout=1.0)
                meanwhile()
            item = running.pop(ended[0])
            try:
                yield item, ray.get(ended[0])
            except ray.exceptions.RayError as error:
                raise UpcycleError(f"Ray could not run it on any node ({_reason(error)}): run again") from error
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


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shown((lines or [type(error).__name__])[0])[:200]


# ---------------------------------------------------------------- a training


class Noted(Silent):
    """Keeps the warnings that are told."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        """Keep it."""
        self.warnings.append(text)


def train_there(data: Path, options: dict[str, object], out: Path, index: bytes, threads: int) -> dict[str, Any]:
    """Train or resume the run `out`: where that was, why it failed ("" if it did not), and its warnings."""
    from upcycle.data.index_file import index_from_bytes
    from upcycle.jobs.start import begin
    from upcycle.jobs.train import run_training

    os.environ["OMP_NUM_THREADS"] = str(threads)  # Ray says one for each processor it gave
    noted, failed, kind = Noted(), "", ""
    until = time.monotonic() + PATIENCE
    while is_locked(out) and time.monotonic() < until:  # by a process whose node is lost
        time.sleep(0.5)
    try:
        write_text(out.parent.parent / _STARTED / out.name, socket.gethostname())
        run_training(begin(data, options, out=out, resume=True), noted, index=index_from_bytes(index))
    except StorageError as error:
        failed, kind = str(error), "storage"
    except UpcycleError as error:
        failed = str(error)
    except Exception as error:  # whatever stops one run is reported beside the others
        failed = f"{type(error).__name__}: {error}"
    return {"node": socket.gethostname(), "failed": failed, "kind": kind, "warnings": noted.warnings}


class Started:
    """Which runs have started on which node, told by a file each on the storage that all nodes share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / _STARTED
        self._told: dict[str, int] = {}

    def new(self) -> Iterator[tuple[str, str, bool]]:
        """Run, node, and whether it had started before, of those that have started since this was asked."""
        with contextlib.suppress(OSError):
            for file in sorted(self.folder.iterdir()):
                at = file.stat().st_mtime_ns
                if self._told.get(file.name) != at and not file.name.startswith("."):
                    yield file.name, shown(file.read_text(encoding="utf-8")), file.name in self._told
                    self._told[file.name] = at

    def remove(self) -> None:
        """Remove the files."""
        shutil.rmtree(self.folder, ignore_errors=True)


def heard(found: dict[str, Any], name: object, show: Display, before: set[str]) -> str:
    """Tell what a training has said, but for warnings that were told `before`; why it failed.

    StorageError for what would stop all of them.
    """
    for line in found["warnings"]:
        if line not in before:
            show.warn(f"{name}: {line}")
            before.add(line)
    if found["kind"] == "storage":
        raise StorageError(found["failed"])
    return str(found["failed"])


# ---------------------------------------------------------------- parts of a prediction


@contextlib.contextmanager
def parts_on(
    on: str, run: Path, out: Path, *, int8: bool, device: str, threads: int, show: Display
) -> Iterator[Makers]:
    """What writes the parts of the table `out` on the nodes of a cluster, by Ray Data.

    Each process holds the model, computes with so many threads and takes part after part. A part that was written
    whole before is not computed again.
    """
    with cluster(on) as ray:
        from ray import data

        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)

        def makers(work: Iterator[Work], told: Callable[[int], None]) -> Iterator[tuple[int, Counts]]:
            rows = [_row(one) for one in work]
            if not rows:
                return
            packages = _PREDICTING if is_bundle(expanded(run)) else ()
            check_nodes(ray, run, out.with_name(f"{out.name}.partial"), packages)
            if reason := too_large(ray, {"num_cpus": threads}):
                show.warn(reason)
            here = str(Path.cwd())

            class Parts(_Parts):  # whose arguments go where it goes, however often Ray starts it again
                def __init__(self) -> None:
                    super().__init__(here, run, int8=int8, device=device, threads=threads)

            most = max(1, at_once(ray, {"num_cpus": threads}))
            parts = data.from_items(rows, override_num_blocks=len(rows)).map_batches(
                Parts,
                batch_size=1,
                concurrency=(1, min(most, len(rows))),
                num_cpus=threads,
            )
            try:
                for row in parts.iter_rows():
                    counts = Counts(*(int(row[name]) for name in Counts._fields))
                    told(counts.files)
                    yield int(row["number"]), counts
            except ray.exceptions.RayError as error:
                raise UpcycleError(f"Ray could not predict it on any node ({_reason(error)}): run again") from error

        yield makers


def _row(work: Work) -> dict[str, Any]:
    """A part as Ray Data holds it: names of files are any bytes."""
    paths = [os.fsencode(path_of(one)) for one in work.paths]
    reasons = [one.reason if isinstance(one, Unlisted) else "" for one in work.paths]
    return {"number": work.number, "place": os.fsencode(work.place), "paths": paths, "reasons": reasons}


class _Parts:
    """A process of Ray Data with the model."""

    def __init__(self, cwd: str, run: Path, *, int8: bool, device: str, threads: int) -> None:
        with contextlib.suppress(OSError):
            os.chdir(cwd)
        self.model = predictor(run, int8=int8, threads=threads, device=device, show=Silent())

    def __call__(self, rows: dict[str, Any]) -> dict[str, list[int]]:
        """Write the parts of some rows; their numbers and counts."""
        found: dict[str, list[int]] = {"number": [], **{name: [] for name in Counts._fields}}
        for number, place, names, reasons in zip(
            *(rows[name] for name in ("number", "place", "paths", "reasons")), strict=True
        ):
            paths = [Path(os.fsdecode(name)) for name in names]
            some = [Unlisted(path, why) if why else path for path, why in zip(paths, reasons, strict=True)]
            counts = self._counts(Work(int(number), some, Path(os.fsdecode(place))))
            for name, value in {"number": int(number), **counts._asdict()}.items():
                found[name].append(value)
        return found

    def _counts(self, work: Work) -> Counts:
        """The counts of a part: as they were noted when it was written, or once it is now."""
        beside = work.place.with_suffix(".json")
        digest = hashlib.sha256(self.model.fingerprint().encode())
        digest.update(b"".join(os.fsencode(path_of(one)) + b"\0" for one in work.paths))
        if beside.exists() and work.place.exists():
            with contextlib.suppress(RunError, KeyError, TypeError):
                known = read_json(beside)
                if known["of"] == digest.hexdigest():
                    return Counts(*(int(known[name]) for name in Counts._fields))
        counts = write_part(self.model, work)
        write_json(beside, {"of": digest.hexdigest(), **counts._asdict()})
        return counts
