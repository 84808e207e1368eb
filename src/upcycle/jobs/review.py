"""What a run says of its images before it trains: `audit.json`, warnings, and what the test set can tell apart."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from upcycle.audit.checks import CHEAP, check, too_dark
from upcycle.audit.findings import Audited, Finding
from upcycle.audit.summary import Audit
from upcycle.audit.summary import audit as audited
from upcycle.data import isolation
from upcycle.data.depth import bits_of
from upcycle.data.index import Index
from upcycle.data.listing import Quarantined, shown
from upcycle.data.preprocessing import Preprocessing
from upcycle.data.splits import components
from upcycle.errors import DecodeError
from upcycle.evaluation.metrics import resolution
from upcycle.jobs.prepare import Prepared
from upcycle.reporting.progress import Observer

LIKELY_ACCURACY = 0.95
"""What two models are taken to have until one is tested, to say what the test images will tell apart."""
FEW = 3
"""Files that are not used for one reason are named one by one up to so many."""
SAMPLED = 256
"""Images, evenly spread, that are looked at to see whether some have more than 8 bits and are dark."""


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


def describe(prepared: Prepared, audit: Audit, show: Observer) -> None:
    """Say how the images were split and what is wrong with them."""
    counts = {name: len(prepared.splits.of(name)) for name in ("train", "val", "test")}
    named = ", ".join(shown(name) for name in prepared.index.classes[:8]) + (
        " ..." if len(prepared.index.classes) > 8 else ""
    )
    show.message(
        f"{len(prepared.index)} images of {len(prepared.index.classes)} classes ({named}): "
        + ", ".join(f"{count} {name}" for name, count in counts.items() if count or name != "test")
    )
    for text in unused(prepared.index.quarantined):
        show.warn(text)
    for warning in audit.warnings:
        show.warn(warning)
    if not counts["test"]:
        return
    groups = len(np.unique(components(prepared.index)[prepared.splits.test]))
    points, says = resolution(groups, LIKELY_ACCURACY, counts["test"], "test")
    show.message(says if points >= 100 else f"{says}, where they are right {100 * LIKELY_ACCURACY:.0f} % of the time")
