"""Which bytes a run's files were written with, so that damage which leaves a file readable is found.

`manifest.json` names a file's sha256, or two while it is being replaced: whatever is cut off, the file has one of them.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from upcycle.errors import RunError
from upcycle.rundir import RunDir, plain_json, plain_lines, read_json, refuse_links, write_json, write_text

RESULTS = (
    "model.json",
    "plan.json",
    "plan.jsonl",
    "probe.json",
    "audit.json",
    "splits.csv",
    "history.jsonl",
    "timings.jsonl",
    "evaluation.json",
    "thresholds.json",
    "predictions/*.csv",
    "novelty.safetensors",
)
"""What is sealed when a run is finished, beside its configuration; weights hold a checksum of their own."""
_Sums = dict[str, list[str]]


def write_sealed(run: RunDir, path: Path, value: Any) -> None:
    """Write a JSON file of a run, and its checksum beside it."""
    _write(run, path, plain_json(value))


def write_sealed_lines(run: RunDir, path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write a JSON-lines file of a run, and its checksum beside it."""
    _write(run, path, plain_lines(rows))


def _write(run: RunDir, path: Path, text: str) -> None:
    name, digest = _name(run, path), hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
    known = _read(run)
    if name in known:  # else the file, whatever it was, is judged by nobody until it is written
        write_json(run.manifest, {**known, name: [*known[name], digest]})
    write_text(path, text)
    write_json(run.manifest, {**known, name: [digest]})


def remove_sealed(run: RunDir, path: Path) -> None:
    """Remove a file of a run, and its checksum before it."""
    write_json(run.manifest, {name: sums for name, sums in _read(run).items() if name != _name(run, path)})
    path.unlink()


def seal(run: RunDir) -> None:
    """Take down the checksums of a finished run's results."""
    files = sorted(path for pattern in RESULTS for path in run.root.glob(pattern))
    write_json(run.manifest, {**_begun(run), **{_name(run, path): [_digest(path)] for path in files}})


def unseal(run: RunDir) -> None:
    """Forget those of the results: the run is at work again."""
    if _read(run) != _begun(run):
        write_json(run.manifest, _begun(run))


def unsealed(run: RunDir) -> list[str]:
    """Names of results without a checksum, sorted: all of them where a run has no manifest."""
    names = {_name(run, path) for pattern in RESULTS for path in run.root.glob(pattern)}
    return sorted(names - _read(run).keys())


def check(run: RunDir) -> None:
    """RunError for a file that is not as it was written, or a link; one without a checksum is not judged."""
    refuse_links(run.root)
    for name, digests in _read(run).items():
        path = run.root / name
        if not path.is_file():
            raise RunError(f"{path} is missing: the run is not whole")
        if _digest(path) not in digests:
            raise RunError(f"{path} is damaged or was changed: its content is not what upcycle wrote")


def _begun(run: RunDir) -> _Sums:
    begun = {_name(run, path) for path in (run.config, run.environment, run.events)}
    return {name: digests for name, digests in _read(run).items() if name in begun}


def _name(run: RunDir, path: Path) -> str:
    return path.relative_to(run.root).as_posix()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(run: RunDir) -> _Sums:
    """The checksums; none where a run has none yet. RunError for a file that holds anything else."""
    if not run.manifest.exists():
        return {}
    values = read_json(run.manifest)
    if not isinstance(values, dict) or not all(
        isinstance(digests, list) and _is_inside(name) for name, digests in values.items()
    ):
        raise RunError(f"{run.manifest} does not hold the checksums of a run")
    return values


def _is_inside(name: str) -> bool:
    path = Path(name)
    return not path.is_absolute() and ".." not in path.parts
