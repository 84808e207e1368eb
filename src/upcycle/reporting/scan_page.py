"""The page of a scan: each finding with pictures, what it would do to the result, and what is proposed."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from upcycle.audit.quarantine import Entry
from upcycle.data import decode
from upcycle.errors import DecodeError
from upcycle.reporting import html, page
from upcycle.reporting.names import counted
from upcycle.reporting.page import Cut, cut
from upcycle.rundir import write_text

PAGE = "scan.html"
ALONE, SETS, IN_SET = 24, 12, 4
"""Pictures of a finding: images that stand alone, sets of images that belong together, images of a set."""
SIDE = 128
"""Pixels of a picture's long side: a few kilobytes."""

Values = dict[str, Any]


def write_scan(
    path: Path,
    values: Values,
    entries: Sequence[Entry],
    *,
    root: Path,
    train: str,
    grouped: str | None,
    scale: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the page of a scan from its audit; gives its path. Pictures are read from below `root`.

    `scale` is white in images of more than 8 bits.

    `train` is the command that trains without what is excluded, `grouped` the one that keeps together what belongs
    together, where anything does. StorageError when the page cannot be written. An image that cannot be read any more
    has no picture.
    """
    findings = [_finding(number, finding) for number, finding in enumerate(values["findings"], 1)]
    groups = [group for finding in findings if finding["pictured"] for group in finding["groups"].items]
    shown = list(dict.fromkeys(image["path"] for group in groups for image in group["images"].items))
    pictures: dict[str, str | None] = {}
    for done, name in enumerate(shown, 1):
        pictures[name] = _picture(root / name, scale)
        if progress is not None:
            progress(done, len(shown))
    text = html.render(
        "scan.html",
        values=values,
        title=f"What is in {Path(values['data']).name}",
        tiles=_tiles(values, entries),
        findings=findings,
        pictures=pictures,
        splits=page.split_rows(values) if values["splits"] else None,
        entries=_entries(entries),
        train=html.command(train),
        grouped=html.command(grouped),
        command=html.command(values["command"]),
    )
    write_text(path, text)
    return path


def _finding(number: int, finding: Values) -> Values:
    """One finding, cut to what the page shows."""
    together = any(len(group) > 1 for group in finding["groups"])
    names = finding["names"] or [""] * finding["count"]
    groups = [
        {"name": name, "images": cut(images, IN_SET)} for name, images in zip(names, finding["groups"], strict=True)
    ]
    pictured = any(image["label"] for group in finding["groups"] for image in group)
    return {
        **finding,
        "id": f"finding-{number}",
        "together": together,
        "pictured": pictured,
        "groups": cut(groups, SETS if together else ALONE),
    }


def _picture(file: Path, scale: float | None) -> str | None:
    try:
        return html.address(decode.thumbnail(file, SIDE, scale))
    except (DecodeError, OSError):
        return None


def _tiles(values: Values, entries: Sequence[Entry]) -> list[Values]:
    """The headline numbers."""
    serious = sum(finding["serious"] for finding in values["findings"])
    aside = sum(entry.excluded for entry in entries)
    classes = counted(len(values["classes"]), "class", "classes")
    listed = sum(file["kind"] == "excluded" for file in values["quarantined"])
    unusable = counted(len(values["quarantined"]) - listed, "file")
    left = f", {listed:,} excluded" if listed else ""
    return [
        {"name": "Images", "value": f"{values['images']:,}", "note": f"{classes}, {unusable} not usable{left}"},
        {
            "name": "Change the result",
            "value": f"{serious}",
            "note": f"of {counted(len(values['findings']), 'finding')}",
        },
        {"name": "To exclude", "value": f"{aside:,}", "note": "proposed in quarantine.csv"},
        {"name": "To decide", "value": f"{len(entries) - aside:,}", "note": "listed there as well, marked no"},
    ]


def _entries(entries: Sequence[Entry]) -> Cut:
    """The list of what is to be excluded, cut."""
    return cut([entry for entry in entries if entry.excluded])
