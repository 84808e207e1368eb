"""Every image of DATA inspected, and what is wrong with them found; nothing here loads torch."""

from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc

from upcycle.audit import proposals
from upcycle.audit.checks import run_checks
from upcycle.audit.findings import Audited, Finding
from upcycle.audit.statistics import inspect
from upcycle.config import Config
from upcycle.data.frames import default_root, written_in
from upcycle.data.index import check_exists
from upcycle.data.listing import Layout
from upcycle.data.splits import split_by
from upcycle.device import crowded, threads_for
from upcycle.errors import DataError
from upcycle.hardware import usable_cores
from upcycle.reporting.progress import Display


def inspect_images(
    data: Path, config: Config, show: Display, *, label_errors: bool
) -> tuple[Audited, list[proposals.Entry]]:
    """Every image, without those that `--quarantine` excludes, split where that can be; and the rows of that list."""
    check_exists(data)
    if label_errors:
        from upcycle.jobs.label_errors import check_weights  # it brings torch

        check_weights(config)
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


def find_problems(data: Audited, config: Config, show: Display, *, label_errors: bool) -> list[Finding]:
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
