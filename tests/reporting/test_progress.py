"""What a job tells: lines in a terminal, live curves in a real notebook."""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from rich.console import Console

from tests.conftest import TINY
from upcycle.history import History, Row
from upcycle.reporting.progress import Several, Silent, Terminal, line

ROW = Row("finetune", 3, 21, 4.6e-05, 0.9, 0.5532, 0.7121, 0.5110, 0.7232, 0.72, best=True)


def test_an_epochs_line_names_rate_losses_and_accuracies() -> None:
    expected = (
        "finetune 3/100  rate 4.6000e-05  loss 0.5532  accuracy 0.7121  val loss 0.5110  val accuracy 0.7232  "
        "12.3 images/s *"
    )
    assert expected == line(ROW, 100, 12.34)


def test_a_terminal_prints_a_line_an_epoch_and_marks_warnings() -> None:
    written = io.StringIO()
    show = Terminal(Console(file=written, soft_wrap=True))
    show.row(History((ROW,)), 100, 12.34)
    show.warn("the val split has only [4] images")
    with show.progress("decoding") as progress:
        progress(1, 2)
    assert [line(ROW, 100, 12.34), "warning: the val split has only [4] images"] == written.getvalue().splitlines()


def test_silence_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    show = Silent()
    show.message("a")
    show.warn("b")
    show.row(History((ROW,)), 1, 1.0)
    with show.progress("c") as progress:
        progress(1, 1)
    assert ("", "") == capsys.readouterr()


def test_several_observers_each_hear_everything_in_order() -> None:
    heard: list[tuple[str, str]] = []

    class Heard(Silent):
        def __init__(self, name: str) -> None:
            self.name = name

        def message(self, text: str) -> None:
            heard.append((self.name, text))

        def started(self, run: Path) -> None:
            heard.append((self.name, f"started {run}"))

        @contextlib.contextmanager
        def progress(self, what: str) -> Iterator[Callable[[int, int], None]]:
            yield lambda done, total: heard.append((self.name, f"{what} {done}/{total}"))

    both = Several(Heard("a"), Heard("b"))
    both.started(Path("run"))
    both.message("text")
    with both.progress("decoding") as progress:
        progress(1, 2)
    for call in (lambda: both.resumed(Path("run"), 1), lambda: both.finished(Path("run")), lambda: both.warn("text")):
        call()
    both.row(History((ROW,)), 100, 5.0)
    both.table("a table")
    expected = ["started run", "text", "decoding 1/2"]
    assert [(name, text) for text in expected for name in ("a", "b")] == heard


def test_a_notebook_shows_curves_that_grow_in_one_place(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    code = f"""
import upcycle
import upcycle.reporting.run_page
upcycle.reporting.run_page.write_report = lambda run: run.report
run = upcycle.train({str(photos)!r}, out={str(tmp_path / "run")!r}, weights={str(tiny_weights)!r}, arch={TINY!r},
                    image_size=32, epochs=3, threads=1, precision="fp32")
"""
    cells = [nbformat.v4.new_code_cell(code), nbformat.v4.new_code_cell("run.history.plot()")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    outputs: list[dict[str, Any]] = notebook.cells[0].outputs
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert 1 == len(pictures)  # updated in place, not one an epoch
    assert any("finetune 3/3" in output.get("data", {}).get("text/plain", "") for output in outputs)
    assert "image/png" in notebook.cells[1].outputs[0]["data"]


def test_no_escape_sequence_of_anyones_reaches_the_terminal() -> None:
    written = io.StringIO()
    show = Terminal(Console(file=written, soft_wrap=True, force_terminal=False))
    show.message("not used: a\x1b]0;title\x07.jpg\nsecond line")
    show.warn("\x1b[31mred")
    assert [
        "not used: a\\x1b]0;title\\x07.jpg",
        "second line",
        "warning: \\x1b[31mred",
    ] == written.getvalue().splitlines()


def test_a_reader_that_has_gone_ends_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with contextlib.suppress(BrokenPipeError), os.fdopen(writer, "w", buffering=1) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        show = Terminal()
        show.message("a")
        show.warn("b")
        show.table("c")
        with show.progress("d") as progress:
            progress(1, 1)
        assert show.lost is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
def test_what_a_full_disk_has_lost_is_known_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(full, write_through=True))
        show = Terminal()
        show.message("a")
        assert show.lost is not None
        assert errno.ENOSPC == show.lost.errno


def test_without_a_standard_output_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    show = Terminal()
    show.message("a")
    assert show.lost is None
