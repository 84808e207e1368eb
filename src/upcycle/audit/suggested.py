"""What a scan proposes: which files to exclude, and which images belong in one group."""

import csv
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from upcycle.audit.alike import Groups
from upcycle.audit.findings import Finding, Group, Image
from upcycle.audit.quarantine import Entry
from upcycle.data.folder import Index, equal
from upcycle.data.units import components
from upcycle.rundir import replacing

EXCLUDED = ("conflicts", "blank", "empty", "too-large", "truncated", "misplaced", "limit", "unreadable")
"""Kinds whose images no training should see."""
TO_DECIDE = ("label-errors", "leaks", "near", "tiny", "odd-aspect", "copies")
"""Kinds that a person has to look at first."""
_REASONS = {
    "conflicts": "the same image as",
    "leaks": "the same image as",
    "copies": "the same image as",
    "near": "nearly the same picture as",
    "blank": "blank",
    "tiny": "tiny",
    "odd-aspect": "very long",
}


def entries(findings: Sequence[Finding]) -> list[Entry]:
    """A row for each file, those to exclude marked; the most pressing reason where there are several."""
    rows: dict[str, Entry] = {}
    for kind in (*EXCLUDED, *TO_DECIDE):
        for group in (group for finding in findings if finding.kind == kind for group in finding.groups):
            for image in group[1:] if kind == "copies" else group:
                rows.setdefault(image.path, Entry(image.path, _reason(kind, image, group), kind in EXCLUDED))
    return list(rows.values())


def _reason(kind: str, image: Image, group: Group) -> str:
    said = _REASONS.get(kind, "")
    other = next((other for other in group if other != image), None)
    if other is not None:
        more = f" and {len(group) - 2} more" if len(group) > 2 else ""
        return f"{said} {other.path} ({', '.join(filter(None, (other.label, other.split)))}){more}"
    return f"{said}: {image.note}" if said and image.note else said or image.note


def write_grouped(
    path: Path, index: Index, tied: Groups, codes: npt.NDArray[np.int64] | None, *, without: Collection[str] = ()
) -> None:
    """Write the images as a manifest whose column `group` keeps on one side what belongs together.

    `tied`: positions of copies and near copies; `codes` [n]: groups that names show, -1 for none; `without`: paths to
    leave out. Paths are absolute, and there is no column `split`: one that cuts through groups is to be replaced.
    """
    together = _together(index, tied, codes)
    several = np.bincount(together)[together] > 1
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerow(("path", "label", "group"))
        for at in range(len(index)):
            if index.path(at) not in without:
                group = f"group-{together[at]}" if several[at] else ""
                writer.writerow((str(index.file(at)), index.label(at), group))


def _together(index: Index, tied: Groups, codes: npt.NDArray[np.int64] | None) -> npt.NDArray[np.int32]:
    """A number for each image, the same for those that belong together in any way, also in a chain."""
    numbers: npt.NDArray[np.int32] = components(index)  # DATA's own groups and equal bytes
    links = [(group[0], other) for group in tied for other in group[1:]]
    for group in equal(codes) if codes is not None else []:
        links += [(group[0], other) for other in group[1:] if codes is not None and codes[group[0]] >= 0]
    one, other = numbers[np.array(links, np.int64).reshape(-1, 2)].T
    count = int(numbers.max()) + 1
    graph = coo_array((np.ones(len(one), bool), (one, other)), shape=(count, count))
    merged: npt.NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return merged[numbers]
