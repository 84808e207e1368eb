"""The scan job: check every image, report what is wrong and its effect, and propose what to exclude."""

import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from upcycle import __version__
from upcycle.audit import proposals
from upcycle.audit.findings import Audit, Audited
from upcycle.config import IMAGES, READING, absolute, canonical, expanded, path_or_none
from upcycle.errors import ConfigError, RunError, counted
from upcycle.jobs.inspection import find_problems, inspect_images
from upcycle.jobs.start import free, name_of, removed_unless_started, reserve, spelled
from upcycle.options import TrainOptions
from upcycle.recipes import resolve
from upcycle.reporting.progress import Display, default_show
from upcycle.reporting.scan_page import PAGE, write_scan
from upcycle.rundir import read_json, write_json

_AUDIT, _QUARANTINE, _GROUPED = "audit.json", "quarantine.csv", "grouped.csv"
_TRAINING = (*READING, "val_fraction", "test_fraction", "seed", "split_seed", "scale")
"""Options that decide which images train, validate and test, and how they are read."""


@dataclass(frozen=True)
class Scan:
    """The folder of a scan; its files are read on access."""

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", expanded(self.path).absolute())  # the working directory may change

    @property
    def audit(self) -> Audit:
        """What was found: `scan.audit.findings[0].effect`."""
        return Audit.from_dict(read_json(self.path / _AUDIT))

    @property
    def quarantine(self) -> Path:
        """The list of files to exclude, for you to look through: `upcycle.train(..., quarantine=scan.quarantine)`."""
        return self.path / _QUARANTINE

    def _repr_html_(self) -> str:
        """What a notebook shows: the findings."""
        from upcycle.reporting.html import scan_fragment

        return scan_fragment(self.audit)


def scan(
    data: Path | str,
    *,
    out: Path | str | None = None,
    html: Path | str | None = None,
    label_errors: bool = False,
    show: Display | None = None,
    **options: Unpack[TrainOptions],
) -> Scan:
    """Check every image of `data`: what is wrong and what it would do to the result.

    Writes audit.json, quarantine.csv, a page and, where images belong together, grouped.csv. `options` are those of
    `upcycle scan --help`. Raises an UpcycleError with one line for what cannot be scanned; findings raise nothing.
    """
    named, page = path_or_none(out, "one folder"), path_or_none(html, "one file")
    data, given = expanded(data, IMAGES), absolute(canonical(options))
    config, name, show = resolve(given), name_of(data, "scan"), show or default_show()
    folder = named or free(name)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise RunError(f"{folder} is not empty, and may hold a list that you have edited: give another --out")
    for place in (folder, page):
        if place is not None and data.is_dir() and place.resolve().is_relative_to(data.resolve()):
            raise ConfigError(f"{place} lies inside {data}, where its images are searched for: give another place")
    data, folder = data.resolve(), named or reserve(name)
    with removed_unless_started(folder, reserved=named is None):
        started = time.perf_counter()
        images, decided = inspect_images(data, config, show, label_errors=label_errors)
        findings = find_problems(images, config, show, label_errors=label_errors)
        words = ["upcycle", "scan", str(data), *(["--label-errors"] if label_errors else []), *spelled(given)]
        audit = replace(
            Audit.of(images, findings),
            data=str(data),
            created=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
            command=shlex.join([*words, "--out", str(folder), *(["--html", str(page)] if page else [])]),
            seconds=round(time.perf_counter() - started, 1),
            upcycle=__version__,
        )
        _write(folder, page or folder / PAGE, images, audit, decided, given, show)
        return Scan(folder)


def _write(
    folder: Path,
    page: Path,
    images: Audited,
    audit: Audit,
    decided: list[proposals.Entry],
    given: Mapping[str, Any],
    show: Display,
) -> None:
    """All files of a scan, and its summary; `given`: the options that were given."""
    # what a person has decided stands
    entries = list({entry.path: entry for entry in (*proposals.proposed(audit.findings), *decided)}.values())
    write_json(folder / _AUDIT, audit.to_dict())
    proposals.write_list(folder / _QUARANTINE, entries)
    kept = {name: given[name] for name in _TRAINING if name in given}
    train = _training(audit.data, kept, "--quarantine", str(folder / _QUARANTINE))
    grouped = None
    if groups := proposals.together(images):
        excluded = {entry.path for entry in entries if entry.excluded}
        proposals.write_grouped(folder / _GROUPED, images.index, groups, without=excluded)
        elsewhere = set(READING) - {"drop_empty_classes"}  # they do not concern the manifest that a scan writes
        kept = {name: value for name, value in kept.items() if name not in elsewhere}
        grouped = _training(str(folder / _GROUPED), kept)
    with show.progress("images") as progress:
        write_scan(
            page,
            audit,
            entries,
            root=images.index.root,
            train=train,
            grouped=grouped,
            scale=resolve(given).scale,
            progress=progress,
        )
    for line in _summary(audit):
        show.message(line)
    count = sum(entry.excluded for entry in entries)
    show.message(f"\nto exclude: {count:,}, to decide: {len(entries) - count:,}; check the list, then: {train}")
    if grouped:
        show.message(f"with what belongs together on one side: {grouped}")
    show.message(f"page: {page}")


def _training(data: str, options: Mapping[str, Any], *words: str) -> str:
    """The command that trains on `data` as this scan has split it, or would split it."""
    return shlex.join(["upcycle", "train", data, *words, *spelled(options)])


def _summary(audit: Audit) -> list[str]:
    """How much there is, and each finding in a few lines."""
    serious = sum(finding.serious for finding in audit.findings)
    excluded = sum(file.kind == "excluded" for file in audit.quarantined)
    lines = [
        f"{counted(audit.images, 'image')} of {counted(len(audit.classes), 'class', 'classes')}, "
        f"{counted(len(audit.quarantined) - excluded, 'file')} that cannot be used"
        f"{f', {excluded:,} excluded' if excluded else ''}: {counted(len(audit.findings), 'finding')}, "
        f"{serious} of which {'changes' if serious == 1 else 'change'} the result"
    ]
    for finding in audit.findings:
        lines.append(f"\n{'!' if finding.serious else '-'} {finding.title}")
        texts = (finding.named(), finding.effect, finding.advice and f"-> {finding.advice}")
        lines += [f"    {text}" for text in texts if text]
    return lines
