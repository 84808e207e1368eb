"""Image files opened and decoded in processes of their own, within bounds of time and memory.

Decoders are C code that reads whatever a file holds. One that crashes, spins or fills the memory takes its process
along, and nothing else: the file is reported with the reason, a new process is started for the next. `header`,
`load` and `look` give what the functions of these names in `decode` and `look` give, to the bit.
"""

import atexit
import contextlib
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from upcycle.data import decode
from upcycle.data.look import Look
from upcycle.data.preprocessing import Interpolation
from upcycle.data.process import DiedError, Limits, Process, start
from upcycle.errors import DecodeError, UpcycleError

MOST = 64
"""Processes at once."""
_IDLE = 20.0
_PARENTS: list[Process] = []
"""Processes of the one this was forked from: never closed here, as that would end them there."""


class Decoders:
    """Processes that decode; as many as there are threads that ask at once. They end when idle, and with Python."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._begin()

    def _begin(self) -> None:
        self._workers: list[Process] = []
        self._changed = threading.Lock()
        self._free = threading.BoundedSemaphore(MOST)
        self._watched = False

    def header(self, data: bytes) -> decode.Header:
        """What the first bytes say of an image; DecodeError with the reason."""
        width, height, kind = self._ask("header", data)[0]
        return decode.Header(int(width), int(height), str(kind))

    def load(
        self, data: bytes, *, side: int, interpolation: Interpolation, scale: float | None = None
    ) -> npt.NDArray[np.uint8]:
        """Pixels [H, W, 3] as `decode.load` gives them, not writable; DecodeError with the reason."""
        shape, content = self._ask("load", data, side=side, interpolation=interpolation, scale=scale)
        return np.frombuffer(content, np.uint8).reshape(shape)

    def peak(self, data: bytes) -> float:
        """What `decode.peak` gives; DecodeError with the reason."""
        return float(self._ask("peak", data)[0])

    def look(self, data: bytes, scale: float | None = None) -> Look:
        """What all of an image file tells an audit; DecodeError with the reason."""
        values, small = self._ask("look", data, scale=scale)
        header, pixels, perceptual, contrast, color, peak = values
        known = str(pixels), int(perceptual), float(contrast), float(color)
        return Look(decode.Header(*header), *known, small, float(peak))

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

    def _ask(self, task: str, data: bytes, **options: Any) -> tuple[Any, bytes]:
        head = {"task": task, "options": options, "bytes": len(data), "seconds": self.limits.seconds}
        for again in (False, True):
            try:
                with self._free, self._worker(new=again) as worker:
                    return worker.ask(head, data)
            except DiedError as died:
                # whatever else ends processes (a scarcity of memory, a person) may have ended this one: once
                if died.reason is not None or again:
                    raise DecodeError(died.reason or "decoding it ends the process that decodes it", "limit") from None
        raise AssertionError

    @contextlib.contextmanager
    def _worker(self, *, new: bool) -> Iterator[Process]:
        """A process that does nothing else; it is put back, unless it has died or may still be busy."""
        worker = (None if new else self._idle()) or self._start()
        try:
            yield worker
        except DecodeError:
            worker.idle_since = time.monotonic()
            raise
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

    def _start(self) -> Process:
        """A process that has said it is ready; UpcycleError where there can be none."""
        worker = start(self.limits)
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
            how = f"did not begin within {self.limits.patience:.0f} s" if worker.overdue else f"ended with code {code}"
            raise UpcycleError(f"the process to decode images {how} as it began: is memory short?") from None
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


SHARED = Decoders()
"""Those of this process."""
atexit.register(SHARED.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=SHARED.forget)
