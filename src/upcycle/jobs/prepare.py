"""From DATA to decoded images and splits: what is used and what is excluded, and what a run reports of it."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from upcycle.audit import proposals
from upcycle.audit.checks import run_checks, too_dark
from upcycle.audit.findings import Audit, Audited, Finding
from upcycle.config import Config
from upcycle.data import isolation
from upcycle.data.dataset import Dataset
from upcycle.data.fetching import Kept
from upcycle.data.formats import bits_of
from upcycle.data.frames import Cache, Stream, default_root, open_cache, open_stream, spare_root, written_in
from upcycle.data.index import Index, index_images
from upcycle.data.listing import Layout, Quarantined, Unusable
from upcycle.data.preprocessing import Preprocessing
from upcycle.data.splits import NAMES, Splits, components, split_by
from upcycle.device import Hardware, detect
from upcycle.errors import DataError, DecodeError, NoRoomError, StorageError, shown
from upcycle.evaluation.metrics import resolution
from upcycle.remote import Address
from upcycle.reporting.progress import Display

SMALLEST_AUTO_SIZE = 128
"""Images smaller than the weights' own size are not blown up further than this."""
_LIKELY_ACCURACY = 0.95
"""What two models are taken to have until one is tested, to estimate what the test images will distinguish."""
_FEW = 3
"""Files that are not used for one reason are named one by one up to so many."""
_SAMPLED = 256
"""Images, evenly spread, that are decoded to find out whether some have more than 8 bits and are dark."""


def machine_of(config: Config) -> Hardware:
    """What this configuration computes on here; ConfigError for what this machine does not have."""
    return detect(
        precision=config.precision,
        threads=config.threads,
        device=config.device,
        fold_bn=config.fold_bn,
        workers=config.workers,
    )


def cache_root(config: Config) -> Path:
    """The folder shared by runs: the option, else the default."""
    return Path(config.cache) if config.cache else default_root()


def kept_photos(config: Config) -> Kept:
    """Where photos that lie elsewhere are kept for a while."""
    return Kept(cache_root(config) / "fetched", int(config.cache_budget * 1e9))


def read_index(data: Path, config: Config, machine: Hardware, show: Display) -> Index:
    """What DATA holds, without what `--quarantine` excludes; DataError when it cannot be trained on."""
    file = Path(config.quarantine) if config.quarantine else None
    listed = proposals.read_list(file)
    memory = written_in(cache_root(config), "scans")
    with show.progress("scanning") as progress:
        index = index_images(
            data,
            Layout.of(config),
            progress=progress,
            threads=machine.threads,
            memory=memory,
            kept=kept_photos(config),
        )
    left = proposals.exclude(index, listed, file.name if file else "")
    for warning in left.warnings(file):
        show.warn(warning)
    return left.index


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


def decode(index: Index, preprocessing: Preprocessing, config: Config, machine: Hardware, show: Display) -> Dataset:
    """Decoded images, not split yet; those that cannot be decoded are moved to the index's quarantine.

    Where the default folder cannot be written a temporary one is used. Where there is no room in it the images
    are decoded each time they are needed.
    """
    frames: Cache | Stream
    with show.progress("decoding") as progress:
        threads, decoding = machine.threads, preprocessing.decoding
        kept = kept_photos(config)
        most = kept.budget if isinstance(index.root, Address) else math.inf
        build = partial(open_cache, index, decoding, threads=threads, progress=progress, kept=kept, most=most)
        try:
            frames, failures = _cached(build, config, show)
        except StorageError as error:
            if config.cache and not isinstance(error, NoRoomError):  # a folder that was asked for
                raise
            show.warn(f"{error}. Continuing without: every epoch reads and decodes the files again, which is slower")
            frames, failures = open_stream(index, decoding, threads=threads, progress=progress, kept=kept)
    limited = sum(failure.kind == "limit" for failure in failures.values())
    if limited and isinstance(frames, Cache):
        # never removed by itself: the runs that were started without these images would have others
        show.warn(
            f"the decoding of {limited} images met a limit of memory or time, which may have been the machine's: they "
            f"stay out of new runs too as long as {frames.path} is there; what was started without them needs it"
        )
    dataset = Dataset(index, frames, preprocessing)
    return dataset.without(failures) if failures else dataset


def _cached(
    build: Callable[..., tuple[Cache, dict[int, Unusable]]], config: Config, show: Display
) -> tuple[Cache, dict[int, Unusable]]:
    """What `build` gives in the cache folder, or in a spare one where nobody named a folder and the default fails."""
    root = cache_root(config)
    try:
        return build(root=root / "images")
    except StorageError as error:
        if config.cache or isinstance(error, NoRoomError):
            raise
        spare = spare_root()
        why = getattr(error.__cause__, "strerror", None) or error
        show.warn(f"cannot write {root}: {why}. Using {spare}: give --cache FOLDER, or set UPCYCLE_CACHE")
        return build(root=spare / "images")


def decodable(index: Index, config: Config, machine: Hardware, show: Display) -> Index:
    """`index` without the images that cannot be decoded, found out at a small size."""
    return decode(index, Preprocessing(size=32, scale=config.scale), config, machine, show).index


def changed_since(config: Config) -> DataError:
    """That images were decoded before and cannot be now."""
    cached = cache_root(config) / "images"
    return DataError(f"an image that could be decoded before cannot be decoded now: remove {cached}, then run again")


def prepare(
    index: Index,
    preprocessing: Preprocessing,
    config: Config,
    machine: Hardware,
    show: Display,
    splits: Splits | None = None,
) -> Dataset:
    """Decode and split, unless the caller has split already."""
    dataset = decode(index, preprocessing, config, machine, show)
    if splits is None:
        splits = split_by(config, dataset.index)
    elif sum(len(splits.of(name)) for name in NAMES) != len(dataset):
        raise changed_since(config)
    return replace(dataset, splits=splits)


# ----------------------------------------------------------------------------------- reports


def audit_dataset(dataset: Dataset) -> Audit:
    """All findings that need no second decoding."""
    data = Audited(dataset.index, dataset.splits)
    dark = darkness(dataset.index, dataset.preprocessing)
    return Audit.of(data, [*([dark] if dark else []), *run_checks(data)])


def darkness(index: Index, preprocessing: Preprocessing) -> Finding | None:
    """That images of more than 8 bits come out dark, as nothing defines their white; None where they do not."""
    if preprocessing.scale is not None:
        return None
    may_be = np.flatnonzero(np.isin(index.formats, (b"PNG", b"TIFF")))
    peaks = []
    for at in may_be[:: -(-len(may_be) // _SAMPLED) or 1].tolist():
        try:
            peak = isolation.DECODERS.peak(index.file(at))
        except (DecodeError, OSError):  # the file was read before: something else is wrong with it
            continue
        if peak and bits_of(peak) is None:  # a bright one is enough
            return None
        peaks += [peak] if peak else []
    return too_dark(peaks)


def unused(files: Sequence[Quarantined], most: int = 10) -> Iterator[str]:
    """A line for each reason for which files are not used, or for each file where few share it."""
    reasons: dict[str, list[str]] = {}
    for file in files:
        reasons.setdefault(file.reason, []).append(file.path)
    lines: list[tuple[int, str]] = []
    for reason, paths in sorted(reasons.items(), key=lambda item: len(item[1]) <= _FEW):
        if len(paths) > _FEW:
            lines.append((len(paths), f"not used: {len(paths):,} files, {shown(paths[0])} for one: {reason}"))
        else:
            lines += [(1, f"not used: {shown(path)}: {reason}") for path in paths]
    yield from (line for _, line in lines[:most])
    if len(lines) > most:
        yield f"not used: {sum(count for count, _ in lines[most:]):,} files more, listed in audit.json"


def describe(dataset: Dataset, audit: Audit, show: Display) -> None:
    """Report how the images were split and what is wrong with them."""
    index, test = dataset.index, dataset.splits.test
    counts = {name: len(dataset.splits.of(name)) for name in ("train", "val", "test")}
    named = ", ".join(map(shown, index.classes[:8])) + (" ..." if len(index.classes) > 8 else "")
    show.message(
        f"{len(index)} images of {len(index.classes)} classes ({named}): "
        + ", ".join(f"{count} {name}" for name, count in counts.items() if count or name != "test")
    )
    for warning in (*unused(index.quarantined), *audit.warnings):
        show.warn(warning)
    if not len(test):
        return
    groups = len(np.unique(components(index)[test]))
    points, text = resolution(groups, _LIKELY_ACCURACY, len(test), "test")
    show.message(text if points >= 100 else f"{text}, where they are right {100 * _LIKELY_ACCURACY:.0f} % of the time")
