"""Work that Ray spreads over the nodes of a cluster: trainings of a comparison, parts of a large prediction.

Ray starts processes, gives each its processors or a GPU, and starts what a dead node had again. What they read and
write lies on storage that all nodes see; a training that is started again resumes from its last checkpoint.
"""

import contextlib
import hashlib
import logging
import os
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from upcycle.device import versions
from upcycle.errors import ConfigError, DataError, RunError, StorageError, UpcycleError, shown
from upcycle.jobs.files import Unlisted
from upcycle.jobs.prediction_files import Counts, Makers, Work, path_of, write_part
from upcycle.jobs.predictor import predictor
from upcycle.reporting.progress import Display, Silent
from upcycle.rundir import read_json, write_json

RETRIES = 3
"""How often what a dead node had is started again."""
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

    `packages`: those whose versions count, where not all do. `folder` is made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / _MARKER
    marker.touch()
    try:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        asked = [
            ray.remote(_facts)
            .options(num_cpus=0, max_retries=0, scheduling_strategy=strategy(node["NodeID"], soft=False))
            .remote(str(Path.cwd()), data, marker)
            for node in nodes
        ]
        reason = "it has none"
        mine = {name: version for name, version in versions().items() if not packages or name in packages}
        answered = 0
        for node, asking in zip(nodes, asked, strict=True):
            where = f"the Ray node {shown(node.get('NodeManagerHostname') or node['NodeID'])}"
            try:
                facts = ray.get(asking)
            except ray.exceptions.RayError as error:  # it has just gone: others do its work
                reason = _reason(error)
                continue
            answered += 1
            other = next((name for name in mine if facts["versions"].get(name) != mine[name]), None)
            if other:
                there = facts["versions"].get(other)
                raise ConfigError(f"{where} has {other} {there}, and here it is {mine[other]}: install the same")
            if not facts["data"]:
                raise DataError(f"{where} does not see {shown(data)}: give what lies on storage that all nodes share")
            if not facts["folder"]:
                raise RunError(f"{where} does not see {shown(folder)}: give --out on storage that all nodes share")
        if not answered:
            raise UpcycleError(f"no node of the Ray cluster answers ({reason}): run again")
    finally:
        marker.unlink(missing_ok=True)
    return answered


def _facts(cwd: str, data: Path, marker: Path) -> dict[str, Any]:
    """What a node has."""
    with contextlib.suppress(OSError):
        os.chdir(cwd)
    return {"versions": versions(), "data": data.exists(), "folder": marker.exists()}


def as_they_end(
    ray: Any,
    function: Callable[..., Any],
    ready: Callable[[], Sequence[_Item]],
    arguments: Callable[[_Item], tuple[Any, ...]],
    resources: Callable[[_Item], dict[str, float]],
    key: Callable[[_Item], object],
) -> Iterator[tuple[_Item, Any]]:
    """Run `function` on all items that are `ready`, asked again each time one ends; yields them as they do.

    Of those with the same `key` one is run.

    What a dead node had is started again. Ctrl-C asks all of them to stop, and waits until they have.
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
                    running[remote.options(**options).remote(str(Path.cwd()), function, arguments(item))] = item
            if not running:
                return
            (ended, *_), _ = ray.wait(list(running), num_returns=1)
            item = running.pop(ended)
            try:
                yield item, ray.get(ended)
            except ray.exceptions.RayError as error:
                raise UpcycleError(f"Ray could not run it on any node ({_reason(error)}): run again") from error
    finally:
        for one in running:
            ray.cancel(one)
        if running:
            ray.wait(list(running), num_returns=len(running), timeout=60)


def _quietly(cwd: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
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
    try:
        run_training(begin(data, options, out=out, resume=True), noted, index=index_from_bytes(index))
    except StorageError as error:
        failed, kind = str(error), "storage"
    except UpcycleError as error:
        failed = str(error)
    except Exception as error:  # whatever stops one run is reported beside the others
        failed = f"{type(error).__name__}: {error}"
    return {"node": socket.gethostname(), "failed": failed, "kind": kind, "warnings": noted.warnings}


def heard(found: dict[str, Any], name: object, show: Display) -> str:
    """Tell what a training has said, each warning once; why it failed. StorageError for what would stop all of them."""
    for line in found["warnings"]:
        show.warn(f"{name}: {line}")
    if found["kind"] == "storage":
        raise StorageError(found["failed"])
    return str(found["failed"])


# ---------------------------------------------------------------- parts of a prediction


@contextlib.contextmanager
def parts_on(on: str, run: Path, out: Path, *, int8: bool, device: str, threads: int) -> Iterator[Makers]:
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
            check_nodes(ray, run, out.with_name(f"{out.name}.partial"), ("upcycle", "python", "numpy", "Pillow"))
            here = str(Path.cwd())

            class Parts(_Parts):  # whose arguments go where it goes, however often Ray starts it again
                def __init__(self) -> None:
                    super().__init__(here, run, int8=int8, device=device, threads=threads)

            most = max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)
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
