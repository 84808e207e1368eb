"""What a run reports of its images before it trains: `audit.json`, warnings, and what the test set can distinguish."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from upcycle.audit.checks import run_checks, too_dark
from upcycle.audit.findings import Audit, Audited, Finding
from upcycle.data import isolation
from upcycle.data.dataset import Dataset
from upcycle.data.formats import bits_of
from upcycle.data.index import Index
from upcycle.data.listing import Quarantined, shown
from upcycle.data.preprocessing import Preprocessing
from upcycle.data.splits import components
from upcycle.errors import DecodeError
from upcycle.evaluation.metrics import resolution
from upcycle.reporting.progress import Display

_LIKELY_ACCURACY = 0.95
"""What two models are taken to have until one is tested, to estimate what the test images will distinguish."""
_FEW = 3
"""Files that are not used for one reason are named one by one up to so many."""
_SAMPLED = 256
"""Images, evenly spread, that are decoded to find out whether some have more than 8 bits and are dark."""


def audit_dataset(dataset: Dataset) -> Audit:
    """All findings that need no second decoding."""
    data = Audited(dataset.index, dataset.splits)
    dark = darkness(dataset.index, dataset.preprocessing)
    return Audit.of(data, [*([dark] if dark else []), *run_checks(data)])


def darkness(index: Index, preprocessing: Preprocessing) -> Finding | None:
    """That images of more than 8 bits come out dark, as nothing defines their white; None where they do not."""
    return too_dark(_peaks(index)) if preprocessing.scale is None else None


def _peaks(index: Index) -> list[float]:
    """The greatest value of each image of more than 8 bits, of a sample; one alone where it is bright."""
    may_be = np.flatnonzero(np.isin(index.formats, (b"PNG", b"TIFF")))
    peaks = []
    for at in may_be[:: -(-len(may_be) // _SAMPLED) or 1].tolist():
        peak = _peak(index.file(at))
        if peak and bits_of(peak) is None:
            return [peak]
        peaks += [peak] if peak else []
    return peaks


def _peak(file: Path) -> float:
    try:
        return isolation.DECODERS.peak(file)
    except (DecodeError, OSError):  # the file was read before: something else is wrong with it
        return 0.0


def unused(files: Sequence[Quarantined], most: int = 10) -> Iterator[str]:
    """A line for each reason for which files are not used, or for each file where few share it."""
    reasons: dict[str, list[str]] = {}
    for file in files:
        reasons.setdefault(file.reason, []).append(file.path)
    lines = [
        (len(paths), f"not used: {len(paths):,} files, {shown(paths[0])} for one: {reason}")
        for reason, paths in reasons.items()
        if len(paths) > _FEW
    ]
    lines += [
        (1, f"not used: {shown(path)}: {reason}")
        for reason, paths in reasons.items()
        if len(paths) <= _FEW
        for path in paths
    ]
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
