"""The run directory, the interface between stages: file names, atomic writes, status.

A file here is either absent or whole: every write goes to a temporary neighbour, is flushed to
disk, and then takes the final name in one rename. History files are appended a line at a time.
"""

import contextlib
import errno
import functools
import json
import math
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BeforeValidator, TypeAdapter, ValidationError

from upcycle.errors import NoRoomError, RunError, StorageError

RunState = Literal["running", "interrupted", "failed", "finished"]
LOCK = ".lock"
_UNFINISHED = re.compile(r"\..+\.(json|jsonl|csv|parquet|safetensors|html|svg|png|jpg)\.[a-z0-9_]{8}")
"""Names that `replacing` gives to what is being written; other hidden files are the user's."""
_OF_SAFETENSORS = re.compile(r"\.tmp[A-Za-z0-9]{6}")
"""Names that the library gives to what it is writing itself, beside the file that it was told to write."""
_ROW = re.compile(r"\[\n *\d+(?:,\n *\d+)*\n *\]")
"""A list of whole numbers as json indents it; no string of JSON holds a line break."""
_MOST_BYTES = 2**28
"""Bytes of a JSON file that is read: a run directory may come from a stranger."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a system says when a file does not fit: the disk, the user's share of it, the largest file."""


def _finite(value: Any) -> Any:
    """Replace NaN and infinities by None, which JSON can say."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _umask() -> int:
    """The permissions the user withholds; it can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a failed write into one line that names the file."""
    try:
        yield
    except OSError as error:
        kind = NoRoomError if error.errno in NO_ROOM else StorageError
        raise kind(f"cannot write {path}: {error.strerror or error}") from error


def _flush_folder(folder: Path) -> None:
    """Bring a rename in `folder` to disk, where the system lets folders be opened."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path` in one rename.

    Whatever goes wrong, the earlier `path` stays as it was and the temporary file is removed.
    Raises StorageError when the disk is full or the folder is read-only.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
            _flush_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def refuse_links(folder: Path) -> None:
    """RunError for a link anywhere in a run's folder: a stranger's would have files written elsewhere.

    So for pipes and devices, whose reading might never end.
    """
    for below, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(below, name)
            if path.is_symlink():
                raise RunError(f"{path} is a link, which upcycle never makes in a run: remove it, or give another run")
            if not (path.is_file() or path.is_dir()) and path.exists():
                raise RunError(f"{path} is no regular file: remove it, or give another run")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other process out of `folder`, made if need be, while it is written.

    RunError where another process is in it, and where it holds a link. The system takes the lock back when a
    process ends, however it ends.
    """
    from filelock import FileLock, Timeout  # a command that writes no run does without

    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    refuse_links(folder)
    lock = FileLock(folder / LOCK)
    with storage_errors(folder / LOCK):
        try:
            lock.acquire(timeout=0)
        except Timeout:  # an OSError
            raise RunError(f"another upcycle is at work in {folder}: wait for it, or give another --out") from None
    try:
        yield
    finally:
        lock.release()


def is_locked(folder: Path) -> bool:
    """Whether another process writes in `folder`, which is there."""
    from filelock import FileLock, Timeout

    if not (folder / LOCK).exists():
        return False
    try:
        with FileLock(folder / LOCK, timeout=0):
            return False
    except Timeout:
        return True


def remove_abandoned(folder: Path) -> None:
    """Delete what killed writes left half-written below a folder that no other process writes: they hold room."""
    for path in folder.rglob(".*"):
        theirs = _OF_SAFETENSORS.fullmatch(path.name) and "checkpoints" in path.relative_to(folder).parts
        if (theirs or _UNFINISHED.fullmatch(path.name)) and path.is_file() and not path.is_symlink():
            with contextlib.suppress(OSError):
                path.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write `text` atomically as UTF-8."""
    write_bytes(path, text.encode(errors="surrogateescape"))  # names of files are any bytes


def write_json(path: Path, value: Any) -> None:
    """Write `value` atomically as indented JSON; numbers that are not finite become null."""
    write_text(path, plain_json(value))


def plain_json(value: Any) -> str:
    """`value` as `write_json` writes it: indented, a list of whole numbers on one line."""
    text = json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False)
    return _ROW.sub(lambda row: "[" + ", ".join(re.findall(r"\d+", row[0])) + "]", text) + "\n"


def read_json(path: Path) -> Any:
    """Read a JSON file of a run; RunError when it is missing, damaged, or larger than any that upcycle writes."""
    try:
        _check_size(path)
        return json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except FileNotFoundError:
        raise RunError(f"{path} is missing: {path.parent} is not a run directory, or not a whole one") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def _check_size(path: Path) -> None:
    if path.stat().st_size > _MOST_BYTES:
        raise RunError(f"{path} has {path.stat().st_size / 1e6:.0f} MB, more than a run writes there: it is not read")


def append_line(path: Path, row: Mapping[str, object]) -> None:
    """Append `row` as one JSON line and flush it to disk."""
    line = json.dumps(_finite(row), ensure_ascii=False, allow_nan=False) + "\n"
    with storage_errors(path), path.open("a", encoding="utf-8") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def write_lines(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write a JSON-lines file atomically."""
    write_text(path, plain_lines(rows))


def plain_lines(rows: Sequence[Mapping[str, object]]) -> str:
    """`rows` as `write_lines` writes them."""
    return "".join(json.dumps(_finite(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def read_lines(path: Path, *, whole: bool = False) -> list[dict[str, Any]]:
    """Read a JSON-lines file; a last line cut short by a crash is left out, unless it is to be `whole`."""
    if not path.exists():
        return []
    _check_size(path)
    rows: list[dict[str, Any]] = []
    lines = path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    lines = lines[:-1] if lines[-1] == "" else lines
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if whole or number < len(lines):
                raise RunError(f"{path}, line {number} is damaged: {error}") from error
            continue
        if not isinstance(row, dict):
            raise RunError(f"{path}, line {number} is damaged: it holds no JSON object")
        rows.append(row)
    return rows


class _Place:
    """A file or a folder by its place in a run directory."""

    def __init__(self, place: str) -> None:
        self._place = place

    def __get__(self, run: "RunDir", _: object = None) -> Path:
        return run.root / self._place


@dataclass(frozen=True)
class RunDir:
    """Names of everything in a run directory; holds no state of its own."""

    root: Path

    config = _Place("config.json")
    """The resolved configuration (JSON)."""
    environment = _Place("environment.json")
    """Versions, processor, threads, precision and the command that started the run (JSON)."""
    manifest = _Place("manifest.json")
    """The checksums of its files (JSON)."""
    model = _Place("model.json")
    """Architecture, classes, preprocessing and the sha256 of the starting weights (JSON)."""
    plan = _Place("plan.json")
    """Phases with their schedules (JSON)."""
    probe = _Place("probe.json")
    """How the probe came out (JSON)."""
    events = _Place("plan.jsonl")
    """What changed the plan under way, each written before it took effect (JSON lines)."""
    request = _Place("finish")
    """There while someone asks the run to finish early."""
    audit = _Place("audit.json")
    """What is wrong with the data: quarantined files, duplicates, conflicts, warnings (JSON)."""
    splits = _Place("splits.csv")
    """Every image with its label, split and content hash (CSV)."""
    history = _Place("history.jsonl")
    """One row an epoch (JSON lines)."""
    timings = _Place("timings.jsonl")
    """Clock values of each epoch, outside every promise of repeatability (JSON lines)."""
    best = _Place("checkpoints/best.safetensors")
    """The best weights."""
    fine_tuned = _Place("checkpoints/finetune.safetensors")
    """The best fine-tuned weights, where another model was kept instead."""
    novelty = _Place("novelty.safetensors")
    """What tells images that are unlike the training photos."""
    last = _Place("checkpoints/last")
    """The folder of the last resumable state."""
    evaluation = _Place("evaluation.json")
    """Metrics with intervals, by split (JSON)."""
    thresholds = _Place("thresholds.json")
    """When its model answers, where that was chosen (JSON)."""
    test_reads = _Place("test_reads.jsonl")
    """When its test images were read since training, and by what (JSON lines)."""
    thumbnails = _Place("thumbnails")
    """Small JPEGs of the misclassified test images, named by content hash."""
    figures = _Place("figures")
    """The figures as files."""
    report = _Place("report.html")
    """The self-contained page."""
    status_file = _Place("status.json")
    """State of the run and, at its end, its result (JSON)."""

    def predictions(self, split: str) -> Path:
        """Logits of every image of `split` (CSV)."""
        return self.root / "predictions" / f"{split}.csv"

    def note_test_read(self, by: str) -> None:
        """Record that the test images were read; nothing where the run may not be written."""
        with contextlib.suppress(StorageError):
            append_line(self.test_reads, {"at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "by": by})

    def exists(self) -> bool:
        """Whether the folder is there and holds anything but what a killed write left behind."""
        return self.root.is_dir() and any(not path.name.startswith(".") for path in self.root.iterdir())

    def is_run(self) -> bool:
        """Whether a run was started here."""
        return self.status_file.exists()

    def has_work(self) -> bool:
        """Whether training began here; until then there is nothing to lose."""
        return self.plan.exists() or any(self.root.glob("fold-*"))

    def status(self) -> dict[str, Any]:
        """The last recorded status; RunError when this is not a run directory."""
        status: Any = read_json(self.status_file)
        if not isinstance(status, dict) or status.get("state") not in get_args(RunState):
            raise RunError(f"{self.status_file} does not hold the state of a run")
        return status

    def set_status(self, state: RunState, **details: Any) -> None:
        """Record the state of the run, replacing the earlier one."""
        write_json(self.status_file, {"state": state, **details})


# ------------------------------------------------------------------------------------- values read back

Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A float; JSON has null where it is not finite."""

Value = TypeVar("Value")


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def read_value(kind: type[Value], values: object, source: str) -> Value:
    """`values`, plain ones of JSON, as a `kind`; RunError that names `source` and the place which does not fit."""
    adapter: TypeAdapter[Value] = _adapter(kind)  # type: ignore[arg-type]
    try:
        return adapter.validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise RunError(f"{source} is damaged{f' at {place!a}' if place else ''}: {first['msg']}") from error


def read_values(kind: type[Value], rows: Iterable[Mapping[str, object]], source: str) -> tuple[Value, ...]:
    """The same of each row of a file of lines."""
    return tuple(read_value(kind, row, f"{source}, line {number},") for number, row in enumerate(rows, 1))
