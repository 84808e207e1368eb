"""How a job tells what it is doing: lines and progress in a terminal, live curves in a notebook, or nothing."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal, cast

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from upcycle.history import History, Row
from upcycle.reporting.text import printable

Report = Callable[[int, int | None], None]
"""Told (done, total); the total is None while it is unknown."""


class Display:
    """What a job reports, as it happens: messages, progress, rows, and when it starts, resumes and ends.

    A display does something with what it overrides, and nothing with the rest.
    """

    def started(self, run: Path) -> None:
        """Work on the run's directory starts, whether it is new or resumed."""

    def resumed(self, run: Path, epoch: int) -> None:
        """Training resumes from a checkpoint, `epoch` epochs of its phase being done."""

    def finished(self, run: Path) -> None:
        """The run is trained and tested, and its report is written."""

    def message(self, text: str) -> None:
        """A line worth reading."""

    def warn(self, text: str) -> None:
        """A line that may change what the user does."""

    def table(self, table: RenderableType) -> None:
        """A table or another block."""

    @contextlib.contextmanager
    def progress(self, what: str) -> Iterator[Report]:  # noqa: ARG002 nothing is shown
        """A bar for `what`; call the value it gives with (done, total)."""
        yield lambda _done, _total: None

    def row(self, history: History, epochs: int, images_per_second: float) -> None:
        """The last row of `history` is new; its phase has `epochs` at most."""


def line(row: Row, epochs: int, images_per_second: float) -> str:
    """An epoch in one line: which, its rate, losses and accuracies."""
    mark = " *" if row.best else ""
    return (
        f"{row.phase} {row.epoch}/{epochs}  rate {row.lr:.4e}  loss {row.loss:.4f}  accuracy {row.accuracy:.4f}  "
        f"val loss {row.val_loss:.4f}  val accuracy {row.val_accuracy:.4f}  {images_per_second:.1f} images/s{mark}"
    )


class Silent(Display):
    """Reports nothing."""


class Standard:
    """Standard output or error, whichever it is at the time: what cannot be written there is left out.

    A job does not end because nobody listens any more. `lost` is why something was left out, other than a reader that
    has gone: a full disk may hold the rest again.
    """

    def __init__(self, name: Literal["stdout", "stderr"]) -> None:
        self._name = name
        self._closed = False
        self.lost: OSError | None = None

    @property
    def _stream(self) -> Any:
        stream = getattr(sys, self._name)
        return getattr(stream, "rich_proxied_file", stream)  # what a bar has put in its place writes to this one

    def write(self, text: str) -> int:
        """Write what can be written; says that all was."""
        self._attempt(lambda stream: stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Hand on what is written, where that can be."""
        self._attempt(lambda stream: stream.flush())

    def isatty(self) -> bool:
        """Whether a person may be looking."""
        stream = self._stream
        return stream is not None and not stream.closed and bool(stream.isatty())

    def fileno(self) -> int:
        """The system's number of the stream."""
        return int(self._stream.fileno())

    def _attempt(self, act: Callable[[Any], object]) -> None:
        stream = self._stream
        if self._closed or stream is None or stream.closed:
            return
        try:
            act(stream)
        except BrokenPipeError:
            self._closed = True
        except OSError as error:
            self.lost = error


def console_of(name: Literal["stdout", "stderr"]) -> Console:
    """A console that writes plain lines to a stream that may go away."""
    return Console(file=cast(IO[str], Standard(name)), soft_wrap=True, highlight=False)


class _Speed(ProgressColumn):
    """How many per second."""

    def render(self, task: Task) -> Text:
        """Nothing until two reports have come."""
        return Text(f"{task.speed:,.0f}/s" if task.speed else "")


class Terminal(Display):
    """Lines on standard output; bars, where it is a terminal, that vanish when they are done."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or console_of("stdout")

    @property
    def lost(self) -> OSError | None:
        """Why some of what was told could not be written; None where all was, or nobody was there to read it."""
        stream = self.console.file
        return stream.lost if isinstance(stream, Standard) else None

    def message(self, text: str) -> None:
        """Print the line."""
        self.console.print(Text(printable(text, keep="\n")))

    def warn(self, text: str) -> None:
        """Print the line, marked."""
        self.console.print(Text.assemble(("warning: ", "bold yellow"), printable(text, keep="\n")))

    def table(self, table: RenderableType) -> None:
        """Print the block."""
        self.console.print(table, soft_wrap=False)

    @contextlib.contextmanager
    def progress(self, what: str) -> Iterator[Report]:
        """A bar with the time left."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Speed(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as bars:
            task = bars.add_task(what, total=None)
            yield lambda done, total: bars.update(task, completed=done, total=total)

    def row(self, history: History, epochs: int, images_per_second: float) -> None:
        """Print the epoch's line."""
        self.message(line(history.rows[-1], epochs, images_per_second))


class Notebook(Terminal):
    """A terminal's lines, and curves that grow with each epoch of fine-tuning."""

    def __init__(self) -> None:
        super().__init__()
        self._handle: Any = None

    def row(self, history: History, epochs: int, images_per_second: float) -> None:
        """Draw the curves again in the same place."""
        from IPython.display import display

        from upcycle.reporting.figures import curves_figure

        super().row(history, epochs, images_per_second)
        figure = curves_figure(history)
        if self._handle is None:
            self._handle = display(figure, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(figure)


def _told_to_each(name: str) -> Callable[..., None]:
    def tell(self: "Several", *what: Any) -> None:
        for display in self.displays:
            getattr(display, name)(*what)

    return tell


class Several(Display):
    """Several displays as one: each gets everything, in order."""

    def __init__(self, *displays: Display) -> None:
        self.displays = displays

    started = _told_to_each("started")
    resumed = _told_to_each("resumed")
    finished = _told_to_each("finished")
    message = _told_to_each("message")
    warn = _told_to_each("warn")
    table = _told_to_each("table")
    row = _told_to_each("row")

    @contextlib.contextmanager
    def progress(self, what: str) -> Iterator[Report]:
        """A bar of each."""
        with contextlib.ExitStack() as stack:
            bars = [stack.enter_context(display.progress(what)) for display in self.displays]

            def report(done: int, total: int | None) -> None:
                for bar in bars:
                    bar(done, total)

            yield report


def default_show() -> Display:
    """Live curves in a notebook, lines elsewhere."""
    kernel = sys.modules.get("IPython")
    shell = kernel.get_ipython() if kernel is not None else None
    return Notebook() if shell is not None and "IPKernelApp" in shell.config else Terminal()
