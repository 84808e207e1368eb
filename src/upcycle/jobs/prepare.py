"""From DATA to decoded images and splits: what is used, what is excluded, and what to know about it."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from upcycle.audit import quarantine
from upcycle.audit.checks import CHEAP, check, too_dark
from upcycle.audit.findings import Audited, Finding
from upcycle.audit.summary import Audit
from upcycle.audit.summary import audit as audited
from upcycle.config import Config
from upcycle.data import frames as images
from upcycle.data import isolation
from upcycle.data.depth import bits_of
from upcycle.data.frames import Cache, Stream, open_stream
from upcycle.data.index import Index, scan
from upcycle.data.listing import Failure, Layout, Quarantined, shown
from upcycle.data.preprocessing import Preprocessing
from upcycle.data.splits import Recorded, Splits, changes, components, read_splits, split, write_splits
from upcycle.device import Machine, detect
from upcycle.errors import DataError, DecodeError, NoRoomError, RunError, StorageError
from upcycle.evaluation.metrics import resolution
from upcycle.jobs.status import Work
from upcycle.model import zoo
from upcycle.model.weights import Weights
from upcycle.model.zoo import Network
from upcycle.reporting.show import Show
from upcycle.rundir import RunDir, read_json

LIKELY_ACCURACY = 0.95
"""What two models are taken to have until one is tested, to say what the test images will tell apart."""
FEW = 3
"""Files that are not used for one reason are named one by one up to so many."""
SAMPLED = 256
"""Images, evenly spread, that are looked at to see whether some have more than 8 bits and are dark."""
SMALLEST_AUTO_SIZE = 128
"""Images smaller than the weights' own size are not blown up further than this."""


def machine_of(config: Config) -> Machine:
    """What this configuration computes on here; ConfigError for what this machine has not."""
    return detect(
        precision=config.precision,
        threads=config.threads,
        device=config.device,
        fold_bn=config.fold_bn,
        workers=config.workers,
    )


@dataclass(frozen=True, eq=False)
class Prepared:
    """Images ready to train on: `index`, `frames` and the positions of `splits` belong together."""

    index: Index
    frames: Cache | Stream
    splits: Splits
    preprocessing: Preprocessing


@dataclass(frozen=True, eq=False)
class Job:
    """What all stages of a run share, and none changes."""

    run: RunDir
    config: Config
    machine: Machine
    network: Network
    prepared: Prepared
    show: Show
    work: Work

    @property
    def workers(self) -> int:
        """Threads that make batches ahead."""
        return workers_for(self.prepared.frames, self.machine)


def workers_for(frames: Cache | Stream, machine: Machine) -> int:
    """Threads that make batches of `frames` ahead: those asked for; else decoding files keeps all of them busy."""
    decoding = isinstance(frames, Stream) and machine.workers is None
    return machine.threads if decoding else machine.feeders


def cache_root(config: Config) -> Path:
    """The folder shared by runs: the option, else the default."""
    return Path(config.cache) if config.cache else images.default_root()


def read_index(data: Path, config: Config, machine: Machine, show: Show) -> Index:
    """What DATA holds, without what `--quarantine` excludes; DataError when it cannot be trained on."""
    listed = quarantine.read(Path(config.quarantine)) if config.quarantine else []
    with show.progress("scanning") as progress:
        index = scan(data, Layout.of(config), progress=progress, threads=machine.threads)
    return set_aside(index, listed, config, show)


def set_aside(index: Index, listed: list[quarantine.Entry], config: Config, show: Show) -> Index:
    """`index` without the images of the list; those that DATA does not hold are told."""
    index, unknown = quarantine.apply(index, listed, Path(config.quarantine or "").name)
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        show.warn(f"{config.quarantine} lists files that are not there: {', '.join(map(shown, unknown[:3]))}{more}")
    return index


def fit_size(preprocessing: Preprocessing, index: Index, config: Config, *, fixed: bool) -> Preprocessing:
    """Preprocessing at the size to train at, and with the white that is asked for.

    Where no size is asked for, images smaller than the weights' own input are trained on at their own
    median size, rounded up to a multiple of 32, and at least at 128 pixels: pixels made by
    enlarging cost time and carry nothing. The classic recipe and networks of a fixed size are left alone.
    """
    preprocessing = replace(preprocessing, scale=config.scale)
    if config.image_size is not None or fixed or config.recipe == "classic":
        return preprocessing
    median = int(np.median(np.minimum(index.widths, index.heights)))
    own = -(-median // 32) * 32
    return replace(preprocessing, size=min(preprocessing.size, max(SMALLEST_AUTO_SIZE, own)))


def decode(
    index: Index, preprocessing: Preprocessing, config: Config, machine: Machine, show: Show
) -> tuple[Index, Cache | Stream]:
    """Decoded images, those that cannot be decoded moved to the index's quarantine.

    Where the default folder cannot be written they are kept in a temporary one. Where there is no room for them they
    are decoded each time they are needed.
    """
    frames: Cache | Stream
    side, interpolation, threads = preprocessing.resize_to, preprocessing.interpolation, machine.threads
    scale = preprocessing.scale
    with show.progress("decoding") as progress:
        try:
            build = partial(
                images.build,
                index,
                side=side,
                interpolation=interpolation,
                scale=scale,
                threads=threads,
                progress=progress,
            )
            frames, failures = _kept(build, config, show)
        except StorageError as error:
            if config.cache and not isinstance(error, NoRoomError):  # a folder that was asked for
                raise
            show.warn(f"{error}. Going on without: every epoch reads and decodes the files again, which is slower")
            frames, failures = open_stream(
                index, side=side, interpolation=interpolation, scale=scale, threads=threads, progress=progress
            )
    if not failures:
        return index, frames
    limited = sum(failure.kind == "limit" for failure in failures.values())
    if limited and isinstance(frames, Cache):
        # never by itself: the runs that were begun without them would have other images
        show.warn(
            f"the decoding of {limited} images met a limit of memory or time, which may have been the machine's: they "
            f"stay out of new runs too as long as {frames.path} is there; what was begun without them needs it"
        )
    return index.without(failures), frames.without(failures)


def _kept(
    build: Callable[..., tuple[Cache, dict[int, Failure]]], config: Config, show: Show
) -> tuple[Cache, dict[int, Failure]]:
    """What `build` gives in the cache folder, or in a spare one where nobody named a folder and the default fails."""
    root = cache_root(config)
    try:
        return build(root=root / "images")
    except NoRoomError:
        raise
    except StorageError as error:
        if config.cache:
            raise
        spare = images.spare_root()
        why = getattr(error.__cause__, "strerror", None) or error
        show.warn(f"cannot write {root}: {why}. Going on with {spare}: give --cache FOLDER, or set UPCYCLE_CACHE")
        return build(root=spare / "images")


def decodable(index: Index, config: Config, machine: Machine, show: Show) -> Index:
    """`index` without the images that cannot be decoded, found out at a small size."""
    return decode(index, Preprocessing(size=32, scale=config.scale), config, machine, show)[0]


def prepare(
    index: Index,
    preprocessing: Preprocessing,
    config: Config,
    machine: Machine,
    show: Show,
    splits: Splits | None = None,
) -> Prepared:
    """Decode and split, unless the caller has split already."""
    index, frames = decode(index, preprocessing, config, machine, show)
    if splits is None:
        splits = split(
            index,
            seed=config.seed_of_split,
            val_fraction=config.val_fraction,
            test_fraction=config.test_fraction,
            regroup=config.regroup,
        )
    elif sum(len(splits.of(name)) for name in ("train", "val", "test")) != len(index):
        kept = cache_root(config) / "images"
        raise DataError(f"an image that could be decoded before cannot be decoded now: remove {kept}, then run again")
    return Prepared(index, frames, splits, preprocessing)


def digest_of(weights: Weights | None) -> str:
    """What a run records of its weights: the sha256 of their file, or "" for random ones."""
    return weights.sha256 if weights is not None else ""


def same_weights(run: RunDir, config: Config, digest: str) -> None:
    """RunError when a run that was begun would go on with other weights than those of `digest`."""
    if read_json(run.config).get("weights_sha256", "") != digest:
        raise RunError(f"{run.root} was begun with other weights than {config.weights} holds: give another --out")


def _below_root(rows: Sequence[Recorded]) -> list[Recorded]:
    """The rows without what all paths begin with, where a manifest has only absolute ones: that may have moved."""
    paths = [PurePosixPath(row.path) for row in rows]
    if not paths or not all(path.is_absolute() for path in paths):
        return list(rows)
    root = os.path.commonpath([path.parent for path in paths])
    return [row._replace(path=path.relative_to(root).as_posix()) for row, path in zip(rows, paths, strict=True)]


def differences(run: RunDir, index: Index, splits: Splits) -> str:
    """What is other in the images or their split than a run has recorded, in a few words; "" for nothing."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "splits.csv"
        write_splits(file, index, splits)
        if file.read_bytes() == run.splits.read_bytes():
            return ""
        before, now = read_splits(run.splits), read_splits(file)
    if _below_root(before) == _below_root(now):
        return ""
    return changes(before, now) or "their order"


def same_data(run: RunDir, index: Index, splits: Splits) -> None:
    """RunError when a run would go on with other images or another split than it has recorded, where it has."""
    told = differences(run, index, splits) if run.splits.exists() else ""
    if told:
        raise RunError(f"the images or their split are not those {run.root} was begun with ({told}): give a new --out")


def _flat(model: dict[str, Any]) -> dict[str, Any]:
    """What decides a network's results, preprocessing and weights by their parts; where those are from left out."""
    parts = {name: model.get(name) for name in ("arch", "classes", "outputs")}
    for name in ("preprocessing", "weights"):
        part = model.get(name)
        parts |= {key: value for key, value in part.items() if key != "source"} if isinstance(part, dict) else {}
    return parts


def same_network(run: RunDir, network: Network) -> None:
    """RunError when a run would go on with another network, or another input, than it has recorded, where it has."""
    if not run.model.exists():
        return
    known, now = read_json(run.model), json.loads(json.dumps(network.to_dict()))
    if not isinstance(known, dict):
        raise RunError(f"{run.model} does not hold what a run writes")
    before, after = _flat(known), _flat(now)
    other = next((name for name in after if before.get(name) != after[name]), None)
    if other is not None:
        raise RunError(
            f"{run.root} was begun with {other} = {before.get(other)}, not {after[other]}, which the weights, a file "
            "beside them or --input say: give another --out"
        )
    if "linear_head" not in known and zoo.is_linear_in_name_alone(zoo.create(network)):
        raise RunError(f"{run.root} is of an upcycle that computed {network.arch} otherwise: give another --out")


def audit(prepared: Prepared) -> Audit:
    """What is to be known about the data: all that needs no second decoding."""
    findings = check(Audited(prepared.index, prepared.splits), CHEAP)
    dark = darkness(prepared.index, prepared.preprocessing)
    known = audited(prepared.index, prepared.splits, [*([dark] if dark else []), *findings])
    if dark is None:
        return known
    return replace(known, warnings=(f"{dark.title}. {dark.effect}. {dark.advice}", *known.warnings))


def darkness(index: Index, preprocessing: Preprocessing) -> Finding | None:
    """That images of more than 8 bits come out dark, as nothing says what is white; None where they do not."""
    return too_dark(_peaks(index)) if preprocessing.scale is None else None


def _peaks(index: Index) -> list[float]:
    """The greatest value of each image of more than 8 bits, of a sample; one alone where it is bright."""
    may_be = np.flatnonzero(np.isin(index.formats, (b"PNG", b"TIFF")))
    peaks = []
    for at in may_be[:: -(-len(may_be) // SAMPLED) or 1].tolist():
        peak = _peak(index.file(at))
        if peak and bits_of(peak) is None:
            return [peak]
        peaks += [peak] if peak else []
    return peaks


def _peak(file: Path) -> float:
    try:
        return isolation.SHARED.peak(file)
    except (DecodeError, OSError):  # of a file that was read before: then it is not this that is wrong
        return 0.0


def unused(files: Sequence[Quarantined], most: int = 10) -> Iterator[str]:
    """A line for each reason for which files are not used, or for each file where few share it."""
    reasons: dict[str, list[str]] = {}
    for file in files:
        reasons.setdefault(file.reason, []).append(file.path)
    lines = [
        (len(paths), f"not used: {len(paths):,} files, {shown(paths[0])} for one: {reason}")
        for reason, paths in reasons.items()
        if len(paths) > FEW
    ]
    lines += [
        (1, f"not used: {shown(path)}: {reason}")
        for reason, paths in reasons.items()
        if len(paths) <= FEW
        for path in paths
    ]
    yield from (line for _, line in lines[:most])
    if len(lines) > most:
        yield f"not used: {sum(count for count, _ in lines[most:]):,} files more, listed in audit.json"


def describe(prepared: Prepared, audit: Audit, show: Show) -> None:
    """Say how the images were split and what is wrong with them."""
    counts = {name: len(prepared.splits.of(name)) for name in ("train", "val", "test")}
    named = ", ".join(shown(name) for name in prepared.index.classes[:8]) + (
        " ..." if len(prepared.index.classes) > 8 else ""
    )
    show.say(
        f"{len(prepared.index)} images of {len(prepared.index.classes)} classes ({named}): "
        + ", ".join(f"{count} {name}" for name, count in counts.items() if count or name != "test")
    )
    for text in unused(prepared.index.quarantined):
        show.warn(text)
    for warning in audit.warnings:
        show.warn(warning)
    if not counts["test"]:
        return
    tied = len(np.unique(components(prepared.index)[prepared.splits.test]))
    points, says = resolution(tied, LIKELY_ACCURACY, counts["test"], "test")
    show.say(says if points >= 100 else f"{says}, where they are right {100 * LIKELY_ACCURACY:.0f} % of the time")
