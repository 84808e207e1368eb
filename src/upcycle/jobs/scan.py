"""The scan job: check every image, report what is wrong and its effect, and propose what to exclude."""

import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import pyarrow.compute as pc

from upcycle import __version__
from upcycle.audit import proposals
from upcycle.audit.checks import run_checks
from upcycle.audit.findings import Audit, Audited, Finding
from upcycle.audit.statistics import inspect, near_duplicates, same_pixels
from upcycle.config import IMAGES, READING, Config, absolute, canonical, expanded, path_or_none
from upcycle.data.frames import default_root, written_in
from upcycle.data.index import check_exists
from upcycle.data.listing import Layout
from upcycle.data.splits import split_by
from upcycle.device import crowded, threads_for
from upcycle.errors import ConfigError, DataError, RunError
from upcycle.hardware import usable_cores
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
        check_exists(data)
        if label_errors:
            from upcycle.jobs.label_errors import check_weights  # it brings torch

            check_weights(config)
        images, decided = _inspect_images(data, config, show)
        findings = _find_problems(images, config, show, label_errors=label_errors)
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
    if _write_grouped(folder / _GROUPED, images, entries):
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
    excluded = sum(entry.excluded for entry in entries)
    show.message(f"\nto exclude: {excluded:,}, to decide: {len(entries) - excluded:,}; check the list, then: {train}")
    if grouped:
        show.message(f"with what belongs together on one side: {grouped}")
    show.message(f"page: {page}")


def _training(data: str, options: Mapping[str, Any], *words: str) -> str:
    """The command that trains on `data` as this scan has split it, or would split it."""
    return shlex.join(["upcycle", "train", data, *words, *spelled(options)])


def _inspect_images(data: Path, config: Config, show: Display) -> tuple[Audited, list[proposals.Entry]]:
    """Every image, without those that `--quarantine` excludes, split where that can be; and the rows of that list."""
    file = Path(config.quarantine) if config.quarantine else None
    listed = proposals.read_list(file)
    folder = written_in(Path(config.cache) if config.cache else default_root(), "statistics")
    if crowd := crowded(config.threads):
        show.warn(crowd)
    with show.progress("scanning") as progress:
        index, statistics = inspect(
            data,
            folder=folder,
            layout=Layout.of(config),
            scale=config.scale,
            threads=threads_for(config.threads, usable_cores(Path("/"))),
            progress=progress,
        )
    left = proposals.exclude(index, listed, file.name if file else "", trainable=False)
    for warning in left.warnings(file):
        show.warn(warning)
    remaining = pc.is_in(index.paths, value_set=left.index.paths).to_numpy(zero_copy_only=False)
    audited = Audited(left.index, statistics=statistics[remaining])
    try:
        return replace(audited, splits=split_by(config, left.index)), left.entries
    except DataError as error:
        show.warn(f"no split can be made, so leaks are not checked: {error}")
        return audited, left.entries


def _find_problems(data: Audited, config: Config, show: Display, *, label_errors: bool) -> list[Finding]:
    """All findings, serious ones first; an image set that cannot be trained on before all others."""
    findings = run_checks(data)
    if label_errors:
        from upcycle.jobs.label_errors import find_label_errors

        try:
            found = find_label_errors(data, config, show)
        except DataError as error:
            show.warn(f"label errors were not checked: {error}")
        else:
            findings += [found] if found is not None else []
            findings.sort(key=lambda finding: not finding.serious)
    try:
        data.index.check_trainable()
    except DataError as error:
        findings.insert(
            0, Finding("untrainable", "Nothing can be trained on these images yet", str(error), "", serious=True)
        )
    return findings


def _write_grouped(path: Path, data: Audited, entries: list[proposals.Entry]) -> bool:
    """A manifest with groups, without what is to be excluded, where images belong together."""
    groups = [*same_pixels(data.statistics), *(near_duplicates(data.statistics) or [])]
    names = proposals.name_groups(data.index)
    if names is None and not groups:
        return False
    groups += names.positions() if names is not None else []
    excluded = {entry.path for entry in entries if entry.excluded}
    proposals.write_grouped(path, data.index, groups, without=excluded)
    return True


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
