"""The page of a scan: each finding with pictures, what it would do to the result, and what to do about it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from upcycle.audit.findings import Audit, Finding, FlaggedImage
from upcycle.audit.proposals import Entry
from upcycle.data import decode
from upcycle.errors import DecodeError, counted
from upcycle.reporting import html
from upcycle.reporting.text import Cut, cut
from upcycle.rundir import write_text

PAGE = "scan.html"
ALONE, SETS, IN_SET = 24, 12, 4
"""Pictures of a finding: images that stand alone, sets of images that belong together, images of a set."""
SIDE = 128
"""Pixels of a picture's long side: a few kilobytes."""


def write_scan(
    path: Path,
    audit: Audit,
    entries: Sequence[Entry],
    *,
    root: Path,
    train: str,
    grouped: str | None,
    scale: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the page of a scan from its audit; gives its path. Pictures are read from below `root`.

    `train` is the command that trains without the excluded files, `grouped` the one that keeps images together that
    belong together, where any do. `scale` is white in images of more than 8 bits. StorageError when the page cannot
    be written. An image that cannot be read any more has no picture.
    """
    findings = [_section(number, finding) for number, finding in enumerate(audit.findings, 1)]
    groups = [group for finding in findings if finding.pictured for group in finding.groups.items]
    shown = list(dict.fromkeys(image.path for group in groups for image in group.images.items))
    pictures: dict[str, str | None] = {}
    for done, name in enumerate(shown, 1):
        pictures[name] = _picture(root / name, scale)
        if progress is not None:
            progress(done, len(shown))
    text = html.render(
        "scan.html",
        audit=audit,
        title=f"What is in {Path(audit.data).name}",
        tiles=_tiles(audit, entries),
        findings=findings,
        pictures=pictures,
        splits=html.split_table(audit) if audit.splits else None,
        entries=cut([entry for entry in entries if entry.excluded]),
        train=html.command(train),
        grouped=html.command(grouped),
        command=html.command(audit.command),
    )
    write_text(path, text)
    return path


@dataclass(frozen=True)
class PicturedGroup:
    """Images of a finding that belong together, cut, and their common name."""

    name: str
    images: Cut[FlaggedImage]


@dataclass(frozen=True)
class Section:
    """One finding, cut to what the page shows."""

    id: str
    finding: Finding
    together: bool
    pictured: bool
    groups: Cut[PicturedGroup]


def _section(number: int, finding: Finding) -> Section:
    together = any(len(group) > 1 for group in finding.groups)
    names = finding.names or ("",) * len(finding.groups)
    groups = [PicturedGroup(name, cut(images, IN_SET)) for name, images in zip(names, finding.groups, strict=True)]
    pictured = any(image.label for group in finding.groups for image in group)
    return Section(f"finding-{number}", finding, together, pictured, cut(groups, SETS if together else ALONE))


def _picture(file: Path, scale: float | None) -> str | None:
    try:
        return html.jpeg_address(decode.thumbnail_jpeg(file, SIDE, scale))
    except (DecodeError, OSError):
        return None


def _tiles(audit: Audit, entries: Sequence[Entry]) -> list[html.Tile]:
    """The headline numbers."""
    serious = sum(finding.serious for finding in audit.findings)
    chosen = sum(entry.excluded for entry in entries)
    classes = counted(len(audit.classes), "class", "classes")
    excluded = sum(file.kind == "excluded" for file in audit.quarantined)
    unusable = counted(len(audit.quarantined) - excluded, "unusable file")
    left = f", {excluded:,} excluded" if excluded else ""
    return [
        html.Tile("Images", f"{audit.images:,}", f"{classes}, {unusable}{left}"),
        html.Tile("Change the result", f"{serious}", f"of {counted(len(audit.findings), 'finding')}"),
        html.Tile("To exclude", f"{chosen:,}", "proposed in quarantine.csv"),
        html.Tile("To decide", f"{len(entries) - chosen:,}", "in the same list, marked no"),
    ]
