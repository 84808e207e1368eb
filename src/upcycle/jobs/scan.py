"""The scan job: check every image, report what is wrong and its effect, and propose what to exclude."""

import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from upcycle import __version__
from upcycle.audit import duplicates, quarantine
from upcycle.audit.findings import Audit, Audited, Finding
from upcycle.config import IMAGES, READING, Config, absolute, canonical, expanded, path_or_none
from upcycle.errors import ConfigError, RunError
from upcycle.jobs.inspection import check_request, find_problems, inspect_images
from upcycle.jobs.start import free, name_of, removed_unless_started, reserve, spelled
from upcycle.options import TrainOptions
from upcycle.recipes import resolve
from upcycle.reporting.progress import Display, default_show
from upcycle.reporting.scan_page import PAGE, write_scan
from upcycle.reporting.text import counted
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

    `options` are those of `upcycle scan --help`. Raises an UpcycleError with one line for what cannot be scanned;
    findings raise nothing.
    """
    folder, page = path_or_none(out, "one folder"), path_or_none(html, "one file")
    asked = begin_scan(expanded(data, IMAGES), options, out=folder, html=page, label_errors=label_errors)
    with removed_unless_started(asked.out, reserved=folder is None):
        return Scan(run_scan(asked, show or default_show()))


@dataclass(frozen=True)
class Asked:
    """What is to be scanned, how, and where the answer goes."""

    data: Path
    config: Config
    out: Path
    page: Path
    command: str
    label_errors: bool
    given: Mapping[str, Any]

    def training(self, data: Path, *words: str) -> str:
        """The command that trains on `data` as this scan has split it, or would split it."""
        kept = {name: self.given[name] for name in _TRAINING if name in self.given}
        if data != self.data:
            elsewhere = set(READING) - {"drop_empty_classes"}  # they do not concern the manifest that a scan writes
            kept = {name: value for name, value in kept.items() if name not in elsewhere}
        return shlex.join(["upcycle", "train", str(data), *words, *spelled(kept)])


def begin_scan(
    data: Path, options: Mapping[str, Any], *, out: Path | None, html: Path | None, label_errors: bool
) -> Asked:
    """What a call of `scan` means; ConfigError or RunError for what it cannot mean."""
    given = absolute(canonical(options))
    config = resolve(given)
    named, out = out, out or free(name_of(data, "scan"))
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise RunError(f"{out} is not empty, and may hold a list that you have edited: give another --out")
    for place in (out, html):
        if place is not None and data.is_dir() and place.resolve().is_relative_to(data.resolve()):
            raise ConfigError(f"{place} lies inside {data}, where its images are searched for: give another place")
    out = named or reserve(name_of(data, "scan"))
    words = ["upcycle", "scan", str(data.resolve()), *(["--label-errors"] if label_errors else []), *spelled(given)]
    words += ["--out", str(out), *(["--html", str(html)] if html else [])]
    return Asked(data.resolve(), config, out, html or out / PAGE, shlex.join(words), label_errors, given)


def run_scan(asked: Asked, show: Display) -> Path:
    """Scan, and write audit.json, quarantine.csv, the page and, where images belong together, grouped.csv.

    Findings are no failure. DataError where DATA is nothing to scan.
    """
    started = time.perf_counter()
    check_request(asked.data, asked.config, label_errors=asked.label_errors)
    data, decided = inspect_images(asked.data, asked.config, show)
    findings = find_problems(data, asked.config, show, label_errors=asked.label_errors)
    audit = replace(
        Audit.of(data, findings),
        data=str(asked.data),
        created=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        command=asked.command,
        seconds=round(time.perf_counter() - started, 1),
        upcycle=__version__,
    )
    # what a person has decided stands
    entries = list({entry.path: entry for entry in (*quarantine.proposed(findings), *decided)}.values())
    write_json(asked.out / _AUDIT, audit.to_dict())
    quarantine.write_list(asked.out / _QUARANTINE, entries)
    train = asked.training(asked.data, "--quarantine", str(asked.out / _QUARANTINE))
    grouped = asked.training(asked.out / _GROUPED) if _write_grouped(asked.out / _GROUPED, data, entries) else None
    with show.progress("images") as progress:
        write_scan(
            asked.page,
            audit,
            entries,
            root=data.index.root,
            train=train,
            grouped=grouped,
            scale=asked.config.scale,
            progress=progress,
        )
    for line in _summary(data, findings):
        show.message(line)
    excluded = sum(entry.excluded for entry in entries)
    show.message(f"\nto exclude: {excluded:,}, to decide: {len(entries) - excluded:,}; check the list, then: {train}")
    if grouped:
        show.message(f"with what belongs together on one side: {grouped}")
    show.message(f"page: {asked.page}")
    return asked.out


def _write_grouped(path: Path, data: Audited, entries: list[quarantine.Entry]) -> bool:
    """A manifest with groups, without what is to be excluded, where images belong together."""
    assert data.statistics is not None
    groups = [*duplicates.same_pixels(data.statistics), *(duplicates.near_duplicates(data.statistics) or [])]
    names = duplicates.name_groups(data.index)
    if names is None and not groups:
        return False
    groups += names.positions() if names is not None else []
    excluded = {entry.path for entry in entries if entry.excluded}
    duplicates.write_grouped(path, data.index, groups, without=excluded)
    return True


def _summary(data: Audited, findings: list[Finding]) -> list[str]:
    """How much there is, and each finding in a few lines."""
    serious = sum(finding.serious for finding in findings)
    excluded = sum(file.kind == "excluded" for file in data.index.quarantined)
    lines = [
        f"{counted(len(data.index), 'image')} of {counted(len(data.index.classes), 'class', 'classes')}, "
        f"{counted(len(data.index.quarantined) - excluded, 'file')} that cannot be used"
        f"{f', {excluded:,} excluded' if excluded else ''}: "
        f"{counted(len(findings), 'finding')}, {serious} of which {'changes' if serious == 1 else 'change'} the result"
    ]
    for finding in findings:
        lines.append(f"\n{'!' if finding.serious else '-'} {finding.title}")
        texts = (finding.named(), finding.effect, finding.advice and f"-> {finding.advice}")
        lines += [f"    {text}" for text in texts if text]
    return lines
