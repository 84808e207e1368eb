"""A table of the predictions of many files, in parts that outlive a killed process. Needs no torch.

Rows go into FILE.partial/, a part at a time. Once every file has a row the parts become FILE, and the folder is
removed. The same call resumes after the last whole part.
"""

import contextlib
import csv
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from upcycle.errors import ConfigError, RunError, counted, shown
from upcycle.evaluation.novelty import Novelty
from upcycle.jobs.files import Outcome, Predictor, Unlisted, predict_files
from upcycle.jobs.prediction import FILES_AT_ONCE, chunks
from upcycle.reporting.progress import Display, Report
from upcycle.rundir import LOCK, locked, read_json, read_value, remove_abandoned, replacing, write_json

PART = 16 * FILES_AT_ONCE
"""Files of a part: what a killed process has predicted in vain, at most."""
_STATE = "state.json"
_TEXTS = ("path", "label", "error")
"""Columns of text; the others hold numbers."""
_ADVICE = "give those, remove the folder, or give another --out"
_Row = Mapping[str, str | float | None]


class Model(Predictor, Protocol):
    """A predictor that says what it is."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of their probabilities."""

    def fingerprint(self) -> str:
        """Another text for another model: a checksum of its weights and of what describes it."""

    @property
    def novelty(self) -> Novelty | None:
        """What tells images that are unlike the training photos; None where it has no such table."""


@dataclass(frozen=True)
class Part:
    """So many files, of which `failed` could not be read; `paths` is the sha256 of all paths up to its end.

    `unlike` of them are unlike the training photos.
    """

    files: int
    failed: int
    paths: str
    unlike: int = 0


@dataclass(frozen=True)
class _State:
    """What the parts were made with, and those that are whole."""

    model: str
    classes: tuple[str, ...]
    parts: tuple[Part, ...] = ()

    def count(self, what: str) -> int:
        return sum(getattr(part, what) for part in self.parts)


def row_of(outcome: Outcome, classes: Sequence[str]) -> _Row:
    """The columns of one file, None for a value that it lacks; every row has the same names.

    A file without a label and without an error is one that the model is not sure of.
    """
    made = outcome.prediction
    return {
        "path": str(outcome.path),
        "label": made.label if made and made.sure else None,
        "probability": made.probability if made else None,
        **{f"probability:{name}": made.probabilities[name] if made else None for name in classes},
        "p_value": made.p_value if made else None,
        "error": outcome.error,
    }


def check_out(out: Path) -> None:
    """ConfigError for a name that no table can have, RunError for one that exists."""
    if out.suffix not in _KINDS:
        raise ConfigError(f"cannot write predictions into {shown(out)}: give a name that ends in {', '.join(_KINDS)}")
    if os.path.lexists(out):
        raise RunError(f"{shown(out)} already exists: remove it, or give another --out")


@dataclass(frozen=True)
class Work:
    """Part `number` of a table: its files, and where its rows go."""

    number: int
    paths: Sequence[Path | Unlisted]
    place: Path


class Counts(NamedTuple):
    """Files of a part, those of them that could not be read, and those that are unlike the training photos."""

    files: int
    failed: int
    unlike: int


Makers = Callable[[Iterator[Work], Callable[[int], None]], Iterator[tuple[int, Counts]]]
"""Writes parts, in any order, and tells of files that are done; gives the number and the counts of each."""


def write_predictions(
    model: Model,
    paths: Iterable[Path | Unlisted],
    out: Path,
    *,
    show: Display,
    total: int | None = None,
    command: str = "",
    makers: Makers | None = None,
) -> tuple[int, int]:
    """Write OUT, a .parquet, .csv or .jsonl table of all `paths` in their order; returns the files and those that
    could not be read.

    `total` is the number of paths, where it is known; `command` is what resumes this; `makers` write the parts
    elsewhere. Memory does not grow with the paths. Without paths nothing is written.
    RunError where OUT exists, where another process writes it, and where OUT.partial is of another model or paths.
    """
    check_out(out)
    folder, kind = out.with_name(f"{out.name}.partial"), _KINDS[out.suffix]
    with _held(folder):
        check_out(out)  # another process may have written it since
        remove_abandoned(folder)
        state = _resumed(folder, _State(model.fingerprint(), model.classes))
        rest = iter(paths)
        digest = _skip(rest, state.parts, folder)
        begun = len(state.parts)
        waiting: dict[int, Work] = {}

        def work() -> Iterator[Work]:
            for number, some in enumerate(chunks(rest, PART), begun):
                waiting[number] = Work(number, some, _place(folder, number, out))
                yield waiting[number]

        ended: dict[int, Counts] = {}
        try:
            with show.progress("predicting") as progress:
                told = _Told(progress, state.count("files"), total)
                for number, counts in (makers or partial(_made_here, model))(work(), told.more):
                    ended[number] = counts
                    while (next_one := len(state.parts)) in ended:
                        known = ended.pop(next_one)
                        digest.update(b"".join(_line(path_of(one)) for one in waiting.pop(next_one).paths))
                        part = Part(known.files, known.failed, digest.hexdigest(), known.unlike)
                        state = replace(state, parts=(*state.parts, part))
                        write_json(folder / _STATE, asdict(state))
        except KeyboardInterrupt:
            show.message(f"{counted(state.count('files'), 'file')} done; to resume: {command}")
            raise
        if state.parts:
            written = [_place(folder, number, out) for number in range(len(state.parts))]
            names = list(row_of(Outcome(out, None, None), model.classes))
            with replacing(folder / out.name) as temporary:  # where what a kill leaves behind is removed
                kind.merge(written, names, temporary)
            check_out(out)
            (folder / out.name).replace(out)
        _remove_content(folder)
    if state.parts:
        show.message(f"{counted(state.count('files'), 'file')}: {out}")
    read = state.count("files") - state.count("failed")
    if model.novelty and (warning := model.novelty.warning_of(state.count("unlike"), read)):
        show.warn(warning)
    return state.count("files"), state.count("failed")


def _made_here(model: Model, work: Iterator[Work], told: Callable[[int], None]) -> Iterator[tuple[int, Counts]]:
    """The parts one after the other, in this process."""
    for one in work:
        yield one.number, write_part(model, one, told)


def write_part(model: Model, work: Work, told: Callable[[int], None] = lambda _: None) -> Counts:
    """Predict the files of one part and write its rows; tells of some files at a time."""
    outcomes: list[Outcome] = []
    for outcome in predict_files(model, work.paths):
        outcomes.append(outcome)
        if len(outcomes) % FILES_AT_ONCE == 0:
            told(FILES_AT_ONCE)
    with replacing(work.place) as temporary:
        _KINDS[work.place.suffix].write([row_of(outcome, model.classes) for outcome in outcomes], temporary)
    made = [outcome.prediction for outcome in outcomes if outcome.prediction is not None]
    level = model.novelty.level if model.novelty else 0.0
    unlike = sum(one.p_value is not None and one.p_value <= level for one in made)
    return Counts(len(outcomes), len(outcomes) - len(made), unlike)


@dataclass
class _Told:
    """How many files are done, as a progress bar shows them."""

    progress: Report
    done: int
    total: int | None

    def more(self, files: int) -> None:
        self.done += files
        self.progress(self.done, self.total if self.total is not None and self.total >= self.done else None)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Keep every other process out of `folder`, which is removed at the end where it then holds nothing.

    As long as it is locked: after that it may be the next process's.
    """
    with locked(folder):
        try:
            yield
        finally:
            _remove_empty(folder)
    if os.name == "nt":  # where no open file can be removed: ours not before now, and nobody else's
        _remove_empty(folder)


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        if all(path.name == LOCK for path in folder.iterdir()):
            (folder / LOCK).unlink(missing_ok=True)
            folder.rmdir()


def _remove_content(folder: Path) -> None:
    """Remove all but the lock, and first the list of the parts: what a kill leaves then is no table."""
    with contextlib.suppress(OSError):
        (folder / _STATE).unlink(missing_ok=True)
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != LOCK:
                path.unlink(missing_ok=True)


def _resumed(folder: Path, now: _State) -> _State:
    """What the folder holds already, `now` where it is new; RunError where that is of another model."""
    if not (folder / _STATE).exists():
        return now
    before = read_value(_State, read_json(folder / _STATE), str(folder / _STATE))
    if before.classes != now.classes:
        raise RunError(f"{shown(folder)} was started with a model of other classes: {_ADVICE}")
    if before.model != now.model:
        raise RunError(f"{shown(folder)} was started with another model: {_ADVICE}")
    return before


def _skip(paths: Iterator[Path | Unlisted], parts: Sequence[Part], folder: Path) -> "hashlib._Hash":
    """Take the paths of `parts` off `paths`; returns their digest. RunError where they are others."""
    digest, at = hashlib.sha256(), 0
    for part in parts:
        for one in islice(paths, part.files):
            digest.update(_line(path_of(one)))
        if digest.hexdigest() != part.paths:
            files = f"files {at + 1:,} to {at + part.files:,} are others"
            raise RunError(f"{shown(folder)} was started with other paths ({files}): {_ADVICE}")
        at += part.files
    return digest


def path_of(one: Path | Unlisted) -> Path:
    """The path of a file, or of what could not be listed."""
    return one.path if isinstance(one, Unlisted) else one


def _line(path: Path) -> bytes:
    return os.fsencode(path) + b"\0"


def _place(folder: Path, number: int, out: Path) -> Path:
    return folder / f"{number:06}{out.suffix}"


# ------------------------------------------------------------------------------------------ kinds of table


def _write_csv(rows: Sequence[_Row], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:  # names of files are any bytes
        csv.writer(file, lineterminator="\n").writerows(row.values() for row in rows)


def _merge_csv(parts: Sequence[Path], names: Sequence[str], path: Path) -> None:
    _write_csv([dict(zip(names, names, strict=True))], path)
    _append(parts, names, path)


def _write_json_lines(rows: Sequence[_Row], path: Path) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def _append(parts: Sequence[Path], _names: Sequence[str], path: Path) -> None:
    with path.open("ab") as file:
        for part in parts:
            with part.open("rb") as source:
                shutil.copyfileobj(source, file)


def _write_parquet(rows: Sequence[_Row], path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    columns = {
        _utf8(name): pa.array([_utf8(row[name]) for row in rows], pa.string() if name in _TEXTS else pa.float64())
        for name in rows[0]
    }
    parquet.write_table(pa.table(columns), path)


def _merge_parquet(parts: Sequence[Path], _names: Sequence[str], path: Path) -> None:
    from pyarrow import parquet

    with parquet.ParquetWriter(path, parquet.read_schema(parts[0])) as writer:
        for part in parts:
            writer.write_table(parquet.ParquetFile(part).read())


def _utf8(value: Any) -> Any:
    """Text with an escape for each byte that is no UTF-8, which Parquet cannot hold."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


class _Kind(NamedTuple):
    """How a part is written, and how parts become a table with these names of columns."""

    write: Callable[[Sequence[_Row], Path], None]
    merge: Callable[[Sequence[Path], Sequence[str], Path], None]


_KINDS = {
    ".parquet": _Kind(_write_parquet, _merge_parquet),
    ".csv": _Kind(_write_csv, _merge_csv),
    ".jsonl": _Kind(_write_json_lines, _append),
}
