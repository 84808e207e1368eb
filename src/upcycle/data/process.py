"""One process that decodes images, asked over its standard input and output (`worker` is its inside)."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from upcycle.data.worker import READY
from upcycle.errors import DecodeError, UpcycleError

_PIPE = 2**20
_LONGEST_LINE = 2**20
_MOST_LINES = 10_000
_MOST_BYTES = 2**30
_BROKEN = (OSError, ValueError, KeyError, TypeError)
"""What reading from or writing to a process that has died, or says nonsense, raises."""
_START = (
    "import contextlib, json, os, signal, sys\n"  # the library's own, whatever lies on the path
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
        deadline = self.deadline
        return deadline is not None and now > deadline + self.lent

    def _begin(self) -> None:
        self.lent = 0.0
        self.deadline = time.monotonic() + self.limits.patience

    def ask(self, head: dict[str, Any], data: bytes) -> tuple[Any, bytes]:
        """The values and bytes of a reply; DecodeError with the reason; DiedError."""
        assert self.process.stdin is not None
        self._begin()
        try:
            self.process.stdin.write(json.dumps(head).encode() + b"\n")
            self.process.stdin.write(data)
            self.process.stdin.flush()
            reply, content = self._reply()
        except _BROKEN:
            raise DiedError(self._why()) from None
        finally:
            self.deadline = None
        if "failed" in reply:
            raise DecodeError(str(reply["failed"]), reply["kind"])
        return reply["values"], content

    def await_ready(self) -> None:
        """Wait for the first reply, past what else Python prints as it starts; DiedError."""
        assert self.process.stdout is not None
        self._begin()
        ready = json.dumps({"values": READY, "bytes": 0}).encode() + b"\n"
        for _ in range(_MOST_LINES):
            line = self.process.stdout.readline(_LONGEST_LINE)
            if line == ready:
                self.deadline = None
                return
            if not line:
                break
        raise DiedError(None)

    def _reply(self) -> tuple[dict[str, Any], bytes]:
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


def start(limits: Limits) -> Process:
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
    _widen(process)
    return Process(process, limits)


def _widen(process: "subprocess.Popen[bytes]") -> None:
    """Let the pipes hold an image, where the system can: fewer switches between the processes."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        for pipe in (process.stdin, process.stdout):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)  # type: ignore[arg-type]
