"""Signals that ask a job to stop: the first waits until the work is at a place to stop at, the second does not."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from upcycle.errors import HungUp, Terminated

MEANINGS: dict[int, type[KeyboardInterrupt]] = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}
if hasattr(signal, "SIGHUP"):  # Windows has none
    MEANINGS[signal.SIGHUP] = HungUp
SIGNALS = tuple(MEANINGS)


class Stopping:
    """Whether someone asked the job to stop, and whether it may stop where it is."""

    repeated = False
    """Whether whoever started the process passes on what the terminal has sent it as well: torchrun sends SIGTERM."""

    def __init__(self) -> None:
        self._asked: int | None = None
        self._held = False
        self._hung_up = False

    @property
    def asked(self) -> bool:
        """Whether a signal waits to be obeyed."""
        return self._asked is not None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Inside, a first signal waits until `obey` or the end; a second one stops at once."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        self.obey()

    def obey(self) -> None:
        """Raise what was asked for: KeyboardInterrupt, Terminated or HungUp."""
        if self._asked is not None:
            asked, self._asked = self._asked, None
            raise MEANINGS[asked]

    def signalled(self, number: int, _frame: FrameType | None) -> None:
        """What a signal does. A terminal that closes may send its own twice: the second one says nothing new."""
        if MEANINGS[number] is HungUp:
            if self._hung_up:
                return
            self._hung_up = True
        if self.repeated and self._held and self._asked not in (None, number):
            return
        at_once = not self._held or self._asked is not None
        self._asked = number
        if at_once:
            self.obey()


@contextlib.contextmanager
def stopping() -> Iterator[Stopping]:
    """Listen to the signals inside; in a thread other than the main one, where that cannot be, to none.

    A signal that whoever started the process had it ignore stays ignored, as Ctrl-C does in a shell's background
    and SIGHUP under nohup.
    """
    job = Stopping()
    if threading.current_thread() is not threading.main_thread():
        yield job
        return
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, job.signalled) for number in heard}
    try:
        yield job
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
