"""Trainings of a comparison as tasks of a Ray cluster, each in a process of its own."""

import contextlib
import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upcycle.data.index import Index
from upcycle.data.index_file import index_from_bytes, index_to_bytes
from upcycle.errors import StorageError, UpcycleError, counted, shown
from upcycle.jobs.on_ray import Noted, as_they_end, check_nodes, driver_machine, resources_of, too_large
from upcycle.jobs.start import begin
from upcycle.reporting.progress import Display
from upcycle.rundir import is_locked, write_text

if TYPE_CHECKING:
    from upcycle.jobs.compare import Cell, Sweep

PATIENCE = 60.0
"""Seconds that a lost node's process may still be at work: it ends soon after it has lost its node."""
_STARTED = ".started"


def trained_on(ray: Any, sweep: "Sweep", index: Index, show: Display) -> Iterator[None]:
    """Train the cells on the nodes of a Ray cluster, each in a process of its own, and pause once all are done."""
    grid = sweep.grid
    nodes = check_nodes(ray, grid.data, grid.out)
    images, started, told = ray.put(index_to_bytes(index)), Started(grid.out), set[str]()
    started.remove()  # of a comparison that was killed
    show.message(f"{counted(nodes, 'node')} of a Ray cluster: {sweep.progress()[1]} runs")
    for reason in {too_large(ray, resources_of(ray, cell.config)) for cell in sweep.ready()} - {""}:
        show.warn(reason)

    def arguments(cell: "Cell") -> tuple[Any, ...]:
        return grid.data, dict(cell.options), cell.path, images, driver_machine(cell.config).threads

    def resources(cell: "Cell") -> dict[str, float]:
        return resources_of(ray, cell.config)

    def tell() -> None:
        for name, node, again in started.new():
            show.message(f"{name} {'starts again' if again else 'starts'} on {node}")

    try:
        ends = as_they_end(ray, train_there, sweep.ready, arguments, resources, lambda cell: cell.path, tell)
        with contextlib.closing(ends):
            for cell, found in ends:
                if reason := heard(found, cell, show, told):
                    sweep.fail(cell, reason, show)
                done, total, _ = sweep.progress()
                show.message(f"run {done} of {total} done: {cell}, on {found['node']}")
    finally:
        started.remove()
    yield


def train_there(data: Path, options: dict[str, object], out: Path, index: bytes, threads: int) -> dict[str, Any]:
    """Train or resume the run `out`: where that was, why it failed ("" if it did not), and its warnings."""
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
