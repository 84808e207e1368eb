"""Image files read and decoded in processes of their own, within bounds of time and memory (`worker` is their inside).

Decoders are C code that reads whatever a file holds. One that crashes, spins or fills the memory takes its process
along, and nothing else: the file is reported with the reason, and a new process is started for the next. A process
reads a file itself, takes its sha256 and decodes it, so a file is read once and never sent. Not
`concurrent.futures`: its processes import the caller's main module, which a script without a guard, `python -c` and
standard input do not survive, and a process that is killed takes the questions of all others along.
"""

import atexit
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt

from upcycle.data.decode import Header
from upcycle.data.preprocessing import Decoding
from upcycle.data.worker import READY, ImageStatistics, Reply
from upcycle.errors import DataError, DecodeError, FileProblem, UpcycleError, shown
from upcycle.remote import Address, read

_MOST = 64
"""Processes at once."""
_IDLE = 20.0
_PIPE = 2**20
_LONGEST_LINE = 2**20
_MOST_LINES = 10_000
_MOST_BYTES = 2**30
_BROKEN = (OSError, ValueError, KeyError, TypeError)
"""What reading from or writing to a process that has died, or answers nonsense, raises."""
_START = (
    "import contextlib, hashlib, json, os, signal, sys\n"  # the library's own, whatever lies on the path
    "try: import resource\n"
    "except ImportError: pass\n"
    "sys.path[:] = json.loads(sys.argv[1])\n"
    "from upcycle.data.worker import main\n"
    "main(int(sys.argv[2]))"
)


class Limits(NamedTuple):
    """What one file may cost: `seconds` of processor time, `patience` seconds of waiting, bytes of `memory`.

    An image of the 200 million pixels that are allowed takes about 10 s and, transparent, 3.3 GB. Processor time does
    not depend on what else the machine does; the patience is for a process that waits for ever. Memory is address
    space. Windows bounds the patience alone, macOS not the memory.
    """

    seconds: int = 60
    patience: float = 600.0
    memory: int = 5 * 2**30


class DiedError(Exception):
    """A process ended without a reply; `reason` where it was one of the limits."""

    def __init__(self, reason: str | None) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(eq=False)
class Process:
    """A process and since when it has been idle, or until when it may go on, by `time.monotonic`.

    `lent`: seconds in which it could do nothing; `overdue`: whether it was killed for its slowness.
    """

    process: "subprocess.Popen[bytes]"
    limits: Limits
    idle_since: float | None = None
    deadline: float | None = None
    lent: float = 0.0
    overdue: bool = False

    def is_overdue(self, now: float) -> bool:
        """Whether it has been at one file, or at starting, for too long."""
        return self.deadline is not None and now > self.deadline + self.lent

    def _begin(self) -> None:
        self.lent = 0.0
        self.deadline = time.monotonic() + self.limits.patience

    def ask(self, head: Mapping[str, object], data: bytes) -> Reply:
        """What the process answers; DiedError."""
        assert self.process.stdin is not None
        self._begin()
        try:
            self.process.stdin.write(json.dumps(head).encode() + b"\n")
            self.process.stdin.write(data)
            self.process.stdin.flush()
            return self._reply()
        except _BROKEN:
            raise DiedError(self._why()) from None
        finally:
            self.deadline = None

    def await_ready(self) -> None:
        """Wait for the first reply, past what else Python prints as it starts; DiedError."""
        assert self.process.stdout is not None
        self._begin()
        for _ in range(_MOST_LINES):
            line = self.process.stdout.readline(_LONGEST_LINE)
            if line == READY:
                self.deadline = None
                return
            if not line:
                break
        raise DiedError(None)

    def _reply(self) -> Reply:
        """The next reply; ValueError where it ends early."""
        assert self.process.stdout is not None
        head = json.loads(self.process.stdout.readline(_LONGEST_LINE))
        size = head["content"]
        if not 0 <= size <= _MOST_BYTES:
            raise ValueError(f"a reply of {size} bytes")
        content = self.process.stdout.read(size)
        if len(content) != size:
            raise ValueError("a reply cut short")
        return Reply(**{**head, "content": content})

    def _why(self) -> str | None:
        code = self.end(0.5)  # a process that is dying has a moment to say of what
        if self.overdue:
            return f"decoding it had not ended after {self.limits.patience:.0f} s"
        if hasattr(signal, "SIGXCPU") and code == -signal.SIGXCPU:
            return f"decoding it takes more than {self.limits.seconds} s of processor time"
        return None

    def hang_up(self) -> None:
        """Let an idle process end."""
        with contextlib.suppress(OSError):
            assert self.process.stdin is not None
            self.process.stdin.close()

    def end(self, moment: float = 0.0) -> int:
        """End the process, after a moment in which it may do so by itself; its exit code."""
        try:
            code = self.process.wait(moment)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()
        return code


def _start(limits: Limits) -> Process:
    """A new process, its modules those of this one and not what lies in the current folder; UpcycleError without one.

    It may be asked once `await_ready` has returned.
    """
    path = [place for place in sys.path if isinstance(place, str) and place]
    path.append(str(Path(__file__).resolve().parents[2]))
    command = [sys.executable or "python3", "-P", "-B", "-c", _START, json.dumps(path), str(limits.memory)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
    except OSError as error:
        raise UpcycleError(f"no process to decode images can be started: {error.strerror or error}") from None
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        # an image fits in the pipe: fewer switches between the processes
        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, _PIPE)  # type: ignore[arg-type]
    return Process(process, limits)


_PARENTS: list[Process] = []
"""Processes of the one this was forked from: never closed here, as that would end them there."""


class Decoders:
    """Processes that decode; as many as there are threads that ask at once. They end when idle, and with Python.

    `source` is the path of a file, which a process reads, or its bytes. A file that the system cannot read is an
    OSError, an image that cannot be decoded a DecodeError with the reason.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._begin()

    def _begin(self) -> None:
        self._workers: list[Process] = []
        self._changed = threading.Lock()
        self._free = threading.BoundedSemaphore(_MOST)
        self._watched = False

    def header(self, source: Path | bytes) -> tuple[str, Header]:
        """The sha256 of a file or of bytes, and what its first bytes say of the image."""
        reply = self._ask("header", source)
        width, height, kind = reply.values
        return reply.sha256, Header(int(width), int(height), str(kind))

    def load(self, source: Path | bytes, decoding: Decoding, sha256: str | None = None) -> npt.NDArray[np.uint8]:
        """Pixels [H, W, 3] as `decode.load_image` gives them, not writable.

        DataError for a file that cannot be read or is another, where its `sha256` is given.
        """
        reply = self._ask("load", source, sha256, **decoding._asdict())
        return np.frombuffer(reply.content, np.uint8).reshape(reply.values)

    def peak(self, source: Path | bytes) -> float:
        """What `decode.peak` gives."""
        return float(self._ask("peak", source).values)

    def statistics(self, source: Path | bytes, scale: float | None = None) -> tuple[str, ImageStatistics]:
        """The sha256 of a file or of bytes, and what all of the image tells an audit."""
        reply = self._ask("statistics", source, scale=scale)
        header, pixels, perceptual, contrast, color, peak = reply.values
        return reply.sha256, ImageStatistics(
            Header(*header), pixels, perceptual, contrast, color, bytes(reply.content), peak
        )

    def close(self) -> None:
        """End the processes; the next question starts others."""
        with self._changed:
            workers, self._workers = self._workers, []
        for worker in workers:
            if worker.idle_since is not None:
                worker.hang_up()
            else:
                worker.process.kill()
        for worker in workers:
            worker.end(0.2)

    def forget(self) -> None:
        """In a forked process: the processes are the parent's, and so are their pipes."""
        for worker in self._workers:
            worker.process.returncode = 0
        _PARENTS.extend(self._workers)
        self._begin()

    def _ask(self, task: str, source: Path | bytes, sha256: str | None = None, **options: object) -> Reply:
        head: dict[str, object] = {"task": task, "options": options, "seconds": self.limits.seconds}
        data, digest = b"", ""
        if isinstance(source, Address):
            source = _content(source, known=sha256 is not None)
        if isinstance(source, Path):
            head |= {"path": os.fsencode(source.absolute()).hex(), "sha256": sha256}
        else:
            head["bytes"], data, digest = len(source), source, hashlib.sha256(source).hexdigest()
            if sha256 and digest != sha256:
                raise DataError("a photo at an address has changed since it was scanned: run again")
        reply = self._answer(head, data)
        reply = reply._replace(sha256=digest) if digest else reply
        if reply.problem == "changed":
            raise DataError(f"{shown(source)} {reply.reason}: run again")
        if reply.problem == "system":
            raise OSError(reply.code, reply.reason)
        if reply.problem:
            raise DecodeError(reply.reason, cast(FileProblem, reply.problem))
        return reply

    def _answer(self, head: Mapping[str, object], data: bytes) -> Reply:
        for again in (False, True):
            try:
                with self._free, self._worker(new=again) as worker:
                    return worker.ask(head, data)
            except DiedError as died:
                # whatever else ends processes (a scarcity of memory, a person) may have ended this one: once
                if died.reason is not None or again:
                    reason = died.reason or "decoding it ends the process that decodes it"
                    raise DecodeError(reason, "limit") from None
        raise AssertionError

    @contextlib.contextmanager
    def _worker(self, *, new: bool) -> Iterator[Process]:
        """A process that does nothing else; it is put back, unless it has died or may still be busy."""
        worker = (None if new else self._idle()) or self._new()
        try:
            yield worker
        except BaseException:
            self._drop(worker)
            worker.end()
            raise
        worker.idle_since = time.monotonic()

    def _drop(self, *ended: Process) -> None:
        with self._changed:
            self._workers = [worker for worker in self._workers if worker not in ended]

    def _idle(self) -> Process | None:
        """An idle process that is alive, no longer idle; those that have ended are dropped."""
        with self._changed:
            idle = [worker for worker in self._workers if worker.idle_since is not None]
            ended = [worker for worker in idle if worker.process.poll() is not None]
            found = next((worker for worker in idle if worker not in ended), None)
            if found is not None:
                found.idle_since = None
        self._drop(*ended)
        for worker in ended:
            worker.end()
        return found

    def _new(self) -> Process:
        """A process that is ready; UpcycleError where there can be none."""
        worker = _start(self.limits)
        with self._changed:
            self._workers.append(worker)
            if not self._watched:
                threading.Thread(target=self._watch, name="decoders", daemon=True).start()
                self._watched = True
        try:
            worker.await_ready()
        except DiedError:
            self._drop(worker)
            code = worker.end(0.5)
            how = f"did not start within {self.limits.patience:.0f} s" if worker.overdue else f"ended with code {code}"
            raise UpcycleError(f"the process to decode images {how} as it started: is memory short?") from None
        except BaseException:
            self._drop(worker)
            worker.end()
            raise
        return worker

    def _watch(self) -> None:
        """Kill what is overdue, end what is idle; until there is nothing left to watch."""
        watching, pause = True, min(1.0, self.limits.patience / 4)
        now = time.monotonic()
        while watching:
            time.sleep(pause)
            # while this process was stopped (Ctrl-Z, a suspended machine) those that decode were as well
            before, now = now, time.monotonic()
            stopped = max(0.0, now - before - 2 * pause)
            with self._changed:
                for worker in self._workers:
                    worker.lent += stopped
                    worker.overdue = worker.overdue or worker.is_overdue(now)
                    if worker.overdue:
                        worker.process.kill()
                old = [one for one in self._workers if one.idle_since is not None and now > one.idle_since + _IDLE]
                self._workers = [worker for worker in self._workers if worker not in old]
                watching = self._watched = bool(self._workers)
            for worker in old:
                worker.hang_up()
            for worker in old:
                worker.end(0.2)


def _content(address: Address, *, known: bool) -> bytes:
    """The bytes at an address; where the photo was there before, DataError for one that is not any more."""
    try:
        return read(address)
    except FileNotFoundError as error:
        if known:
            raise DataError(f"{shown(address)} cannot be read any more (it is not there): run again") from error
        raise


DECODERS = Decoders()
"""Those of this process."""
atexit.register(DECODERS.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=DECODERS.forget)
