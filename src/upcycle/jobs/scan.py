"""The scan job: look at every image, say what is wrong and what it would do, and propose what to exclude."""

import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import pyarrow.compute as pc

from upcycle import __version__
from upcycle.audit import duplicates, quarantine
from upcycle.audit.checks import check
from upcycle.audit.duplicates import name_groups
from upcycle.audit.findings import Audited, Finding
from upcycle.audit.statistics import inspect
from upcycle.audit.summary import Audit, audit
from upcycle.config import IMAGES, READING, Config, absolute, canonical, expanded, path_or_none
from upcycle.data.frames import default_root, written_in
from upcycle.data.index import check_there
from upcycle.data.listing import Layout, shown
from upcycle.data.splits import split
from upcycle.device import crowded, threads_for
from upcycle.errors import ConfigError, DataError, RunError
from upcycle.hardware import usable_cores
from upcycle.jobs.start import free, name_of, removed_unless_started, reserve, spelled
from upcycle.options import TrainOptions
from upcycle.recipes import resolve
from upcycle.reporting.names import counted
from upcycle.reporting.progress import Observer, default_show
from upcycle.reporting.scan_page import PAGE, write_scan
from upcycle.rundir import read_json, write_json

AUDIT, QUARANTINE, GROUPED = "audit.json", "quarantine.csv", "grouped.csv"
TRAINING = (*READING, "val_fraction", "test_fraction", "seed", "split_seed", "scale")
"""Options that decide which images train, validate and test, and how they are read."""


@dataclass(frozen=True)
class Scan:
    """The folder of a scan, read when it is asked."""

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", expanded(self.path).absolute())  # the working directory may change

    @property
    def audit(self) -> Audit:
        """What was found: `scan.audit.findings[0].effect`."""
        return Audit.from_dict(read_json(self.path / AUDIT))

    @property
    def quarantine(self) -> Path:
        """The list of files to exclude, for you to look through: `upcycle.train(..., quarantine=scan.quarantine)`."""
        return self.path / QUARANTINE

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
    show: Observer | None = None,
    **options: Unpack[TrainOptions],
) -> Scan:
    """Look at every image of `data`; what is wrong and what it would do to the result.

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
        kept = {name: self.given[name] for name in TRAINING if name in self.given}
        if data != self.data:
            elsewhere = set(READING) - {"drop_empty_classes"}  # they say nothing of the manifest that a scan writes
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
            raise ConfigError(f"{place} lies inside {data}, where pictures are looked for: give another place")
    out = named or reserve(name_of(data, "scan"))
    words = ["upcycle", "scan", str(data.resolve()), *(["--label-errors"] if label_errors else []), *spelled(given)]
    words += ["--out", str(out), *(["--html", str(html)] if html else [])]
    return Asked(data.resolve(), config, out, html or out / PAGE, shlex.join(words), label_errors, given)


def run_scan(asked: Asked, show: Observer) -> Path:
    """Scan, and write audit.json, quarantine.csv, the page and, where images belong together, grouped.csv.

    Findings are no failure. DataError where DATA is nothing to scan.
    """
    began = time.perf_counter()
    check_there(asked.data)
    if asked.label_errors:
        _check_weights(asked.config)
    looked, decided = _looked(asked, show)
    data = _split(looked, asked.config, show)
    findings = check(data)
    problem = _untrainable(data)
    if problem is not None:
        findings.insert(0, problem)
    if asked.label_errors:
        labels = _label_errors(data, asked.config, show)
        findings = sorted([*findings, *labels], key=lambda finding: not finding.serious)
    known = replace(
        audit(data.index, data.splits, findings),
        data=str(asked.data),
        created=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        command=asked.command,
        seconds=round(time.perf_counter() - began, 1),
        upcycle=__version__,
    )
    # what a person has decided stands
    entries = list({entry.path: entry for entry in (*quarantine.entries(findings), *decided)}.values())
    write_json(asked.out / AUDIT, known.to_dict())
    quarantine.write(asked.out / QUARANTINE, entries)
    train = asked.training(asked.data, "--quarantine", str(asked.out / QUARANTINE))
    grouped = asked.training(asked.out / GROUPED) if _write_grouped(asked.out / GROUPED, data, entries) else None
    with show.progress("pictures") as progress:
        root = data.index.root
        scale = asked.config.scale
        write_scan(
            asked.page,
            known,
            entries,
            root=root,
            train=train,
            grouped=grouped,
            scale=scale,
            progress=progress,
        )
    _tell(asked, data, findings, entries, train=train, grouped=grouped, show=show)
    return asked.out


def _looked(asked: Asked, show: Observer) -> tuple[Audited, list[quarantine.Entry]]:
    """Every image, decoded once or remembered, without those that --quarantine excludes, and what of it is there."""
    config = asked.config
    listed = quarantine.read(Path(config.quarantine)) if config.quarantine else []
    folder = written_in(Path(config.cache) if config.cache else default_root(), "facts")
    threads = threads_for(config.threads, usable_cores(Path("/")))
    if crowd := crowded(config.threads):
        show.warn(crowd)
    with show.progress("scanning") as progress:
        index, facts = inspect(
            asked.data,
            folder=folder,
            layout=Layout.of(config),
            scale=config.scale,
            threads=threads,
            progress=progress,
        )
    listed = quarantine.resolved(index, listed)
    left, unknown = quarantine.apply(index, listed, Path(config.quarantine or "").name, trainable=False)
    if unknown:
        show.warn(f"{len(unknown)} listed files are not there, the first {shown(unknown[0])}")
    kept = pc.is_in(index.paths, value_set=left.paths).to_numpy(zero_copy_only=False)
    gone = set(unknown)
    return Audited(left, None, facts[kept]), [entry for entry in listed if entry.path not in gone]


def _split(data: Audited, config: Config, show: Observer) -> Audited:
    """With the split that DATA declares, or that training with these options would draw."""
    try:
        drawn = split(
            data.index,
            seed=config.seed_of_split,
            val_fraction=config.val_fraction,
            test_fraction=config.test_fraction,
            regroup=config.regroup,
        )
    except DataError as error:
        show.warn(f"no split can be made, so nothing is said of leaks: {error}")
        return data
    return replace(data, splits=drawn)


def _untrainable(data: Audited) -> Finding | None:
    """That nothing could be trained on these images as they are, and why."""
    try:
        data.index.check_trainable()
    except DataError as error:
        return Finding("untrainable", "Nothing can be trained on these images yet", str(error), "", serious=True)
    return None


def _check_weights(config: Config) -> None:
    from upcycle.jobs.label_errors import check_weights

    check_weights(config)


def _label_errors(data: Audited, config: Config, show: Observer) -> list[Finding]:
    # it brings torch, which a scan without it does not wait for
    from upcycle.jobs.label_errors import label_errors

    try:
        found = label_errors(data, config, show)
    except DataError as error:
        show.warn(f"label errors were not looked for: {error}")
        return []
    return [found] if found is not None else []


def _write_grouped(path: Path, data: Audited, entries: list[quarantine.Entry]) -> bool:
    """A manifest with groups, without what is to be excluded, where images belong together."""
    assert data.facts is not None
    groups = [*duplicates.same_pixels(data.facts), *(duplicates.near(data.facts) or [])]
    names = name_groups(data.index)
    if names is None and not groups:
        return False
    aside = {entry.path for entry in entries if entry.excluded}
    duplicates.write_grouped(path, data.index, groups, names.codes if names is not None else None, without=aside)
    return True


# ----------------------------------------------------------------------------------------- telling


def _tell(
    asked: Asked,
    data: Audited,
    findings: list[Finding],
    entries: list[quarantine.Entry],
    *,
    train: str,
    grouped: str | None,
    show: Observer,
) -> None:
    """The findings, three lines each, and where everything is."""
    serious = sum(finding.serious for finding in findings)
    listed = sum(file.kind == "excluded" for file in data.index.quarantined)
    show.message(
        f"{counted(len(data.index), 'image')} of {counted(len(data.index.classes), 'class', 'classes')}, "
        f"{counted(len(data.index.quarantined) - listed, 'file')} that cannot be used"
        f"{f', {listed:,} excluded' if listed else ''}: "
        f"{counted(len(findings), 'finding')}, {serious} of which {'changes' if serious == 1 else 'change'} the result"
    )
    for finding in findings:
        show.message(f"\n{'!' if finding.serious else '-'} {finding.title}")
        for line in (finding.named(), finding.effect, finding.advice and f"-> {finding.advice}"):
            if line:
                show.message(f"    {line}")
    aside = sum(entry.excluded for entry in entries)
    show.message(f"\nto exclude: {aside:,}, to decide: {len(entries) - aside:,}; look through the list, then: {train}")
    if grouped:
        show.message(f"with what belongs together on one side: {grouped}")
    show.message(f"page: {asked.page}")
