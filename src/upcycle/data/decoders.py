"""Image files opened and decoded in processes of their own, within bounds of time and memory.

Decoders are C code that reads whatever a file holds. One that crashes, spins or fills the memory takes its process
along, and nothing else: the file is reported with the reason, a new process is started for the next. `header`,
`load` and `look` give what the functions of these names in `decode` and `look` give, to the bit.
"""

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from upcycle.data import decode
from upcycle.data.look import Look
from upcycle.data.preprocessing import Interpolation
from upcycle.errors import DecodeError, UpcycleError

_IDLE = 20.0
_PIPE = 2**20
_LONGEST_LINE = 2**20
_MOST_BYTES = 2**30
_BROKEN = (OSError, ValueError, KeyError, TypeError)
"""What reading from or writing to a process that has died, or says nonsense, raises."""
_START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from upcycle.data.worker import main; main(int(sys.argv[2]))"
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


class _DiedError(Exception):
    """A process ended without a reply; `reason` where it was one of the limits."""

    def __init__(self, reason: str | None) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(eq=False)
class _Worker:
    """A process and since when it has been idle, or until when it may go on, by `time.monotonic`."""

    process: "subprocess.Popen[bytes]"
    limits: Limits
    idle_since: float | None = None
    deadline: float | None = None
    overdue: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, head: dict[str, Any], data: bytes) -> tuple[Any, bytes]:
        """The values and bytes of a reply; DecodeError with the reason; _DiedError."""
        self.deadline = time.monotonic() + self.limits.patience
        try:
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps(head).encode() + b"\n")
            self.process.stdin.write(data)
            self.process.stdin.flush()
            reply, content = self.reply()
        except _BROKEN:
            raise _DiedError(self._why()) from None
        finally:
            self.deadline = None
        if "failed" in reply:
            raise DecodeError(str(reply["failed"]))
        return reply["values"], content

    def reply(self) -> tuple[dict[str, Any], bytes]:
        """The next reply; ValueError where it ends early."""
        assert self.process.stdout is not None
        head = json.loads(self.process.stdout.readline(_LONGEST_LINE))
        if not 0 <= head["bytes"] <= _MOST_BYTES:
            raise ValueError(f"a reply of {head['bytes']} bytes")
        content = self.process.stdout.read(head["bytes"])
        if len(content) != head["bytes"]:
            raise ValueError("a reply cut short")
        return head, content

    def _why(self) -> str | None:
        code = self.end()
        if self.overdue:
            return f"decoding it had not ended after {self.limits.patience:.0f} s"
        if code == -getattr(signal, "SIGXCPU", 0):
            return f"decoding it takes more than {self.limits.seconds} s of processor time"
        return None

    def end(self) -> int:
        """End the process; its exit code."""
        with self.lock:
            for pipe in (self.process.stdin, self.process.stdout):
                with contextlib.suppress(OSError):
                    if pipe is not None:
                        pipe.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(0.2)  # closed pipes end it; one that is dying has a moment to
            self.process.kill()
            return self.process.wait()


class Decoders:
    """Processes that decode; as many as there are threads that ask at once. They end when idle, and with Python."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._workers: list[_Worker] = []
        self._changed = threading.Lock()
        self._watched = False

    def header(self, data: bytes) -> decode.Header:
        """What the first bytes say of an image; DecodeError with the reason."""
        width, height, kind = self._ask("header", data)[0]
        return decode.Header(int(width), int(height), str(kind))

    def load(self, data: bytes, *, side: int, interpolation: Interpolation) -> npt.NDArray[np.uint8]:
        """Pixels [H, W, 3] as `decode.load` gives them, not writable; DecodeError with the reason."""
        shape, content = self._ask("load", data, side=side, interpolation=interpolation)
        return np.frombuffer(content, np.uint8).reshape(shape)

    def look(self, data: bytes) -> Look:
        """What all of an image file tells an audit; DecodeError with the reason."""
        values, small = self._ask("look", data)
        header, pixels, perceptual, contrast, color = values
        return Look(decode.Header(*header), str(pixels), int(perceptual), float(contrast), float(color), small)

    def close(self) -> None:
        """End the processes; the next question starts others."""
        with self._changed:
            workers, self._workers = self._workers, []
        for worker in workers:
            worker.end()

    def forget(self) -> None:
        """In a forked process: the processes are the parent's."""
        self.__init__(self.limits)  # type: ignore[misc]

    def _ask(self, task: str, data: bytes, **options: Any) -> tuple[Any, bytes]:
        head = {"task": task, "options": options, "bytes": len(data), "seconds": self.limits.seconds}
        for last in (False, True):
            try:
                with self._worker() as worker:
                    return worker.ask(head, data)
            except _DiedError as died:
                # whatever else ends processes (a scarcity of memory, a person) may have ended this one: once
                if died.reason is not None or last:
                    raise DecodeError(died.reason or "decoding it ends the process that decodes it") from None
        raise AssertionError

    @contextlib.contextmanager
    def _worker(self) -> Iterator[_Worker]:
        """A process that does nothing else; it is put back, unless it has died or may still be busy."""
        with self._changed:
            idle = [worker for worker in self._workers if worker.idle_since is not None]
            if idle:
                idle[-1].idle_since = None
        worker = idle[-1] if idle else self._start()
        try:
            yield worker
        except BaseException as error:
            if not isinstance(error, DecodeError):
                worker.end()
                with self._changed:
                    if worker in self._workers:
                        self._workers.remove(worker)
            raise
        finally:
            worker.idle_since = time.monotonic()

    def _start(self) -> _Worker:
        worker = _start(self.limits)
        with self._changed:
            self._workers.append(worker)
            if not self._watched:
                self._watched = True
                threading.Thread(target=self._watch, name="decoders", daemon=True).start()
        return worker

    def _watch(self) -> None:
        """Kill what is overdue, end what is idle; until there is nothing left to watch."""
        while True:
            time.sleep(min(1.0, self.limits.patience / 4))
            now = time.monotonic()
            with self._changed:
                for worker in self._workers:
                    if worker.deadline is not None and now > worker.deadline:
                        worker.overdue = True
                        worker.process.kill()
                old = [one for one in self._workers if one.idle_since is not None and now > one.idle_since + _IDLE]
                self._workers = [worker for worker in self._workers if worker not in old]
                self._watched = bool(self._workers)
            for worker in old:
                worker.end()
            if not self._watched:
                return


def _start(limits: Limits) -> _Worker:
    """A process that has said it is ready; UpcycleError where there can be none."""
    command = [sys.executable, "-P", "-B", "-c", _START, json.dumps(sys.path), str(limits.memory)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
    except OSError as error:
        raise UpcycleError(f"no process to decode images can be started: {error.strerror or error}") from None
    worker = _Worker(process, limits)
    _widen(process)
    try:
        worker.reply()
    except _BROKEN:
        code = worker.end()
        raise UpcycleError(
            f"the process to decode images ended as it began (exit code {code}): is memory short?"
        ) from None
    return worker


def _widen(process: "subprocess.Popen[bytes]") -> None:
    """Let the pipes hold an image, where the system can: fewer switches between the processes."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        for pipe in (process.stdin, process.stdout):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)  # type: ignore[arg-type]


SHARED = Decoders()
"""Those of this process."""
atexit.register(SHARED.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=SHARED.forget)
