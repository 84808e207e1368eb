"""Parts of a large prediction as batches of Ray Data, in processes that hold the model."""

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from upcycle.bundle.description import is_bundle
from upcycle.config import expanded
from upcycle.errors import ConfigError, RunError, UpcycleError
from upcycle.jobs.files import Unlisted
from upcycle.jobs.on_ray import at_once, check_nodes, cluster, reason_of, too_large
from upcycle.jobs.prediction_files import Counts, Makers, Work, path_of, write_part
from upcycle.jobs.predictor import predictor
from upcycle.reporting.progress import Display, Silent
from upcycle.rundir import read_json, write_json

_PREDICTING = ("upcycle", "numpy", "Pillow", "onnxruntime")
"""Packages that decide what an export predicts."""


@contextlib.contextmanager
def parts_on(
    on: str, run: Path, out: Path, *, int8: bool, device: str, threads: int, show: Display
) -> Iterator[Makers]:
    """What writes the parts of the table `out` on the nodes of a cluster, by Ray Data.

    Each process holds the model, computes with so many threads and takes part after part. A part that was written
    whole before is not computed again.
    """
    if on.startswith("ray://"):  # ray 2.60: 'Worker' object has no attribute 'core_worker'
        raise ConfigError("Ray Data needs a process in the cluster: run this on one of its nodes, with --on ray")
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
                raise UpcycleError(f"Ray could not predict it on any node ({reason_of(error)}): run again") from error

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
