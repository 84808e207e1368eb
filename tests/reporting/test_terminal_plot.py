import io
import math
import os
import subprocess
import sys

import pytest

from upcycle.reporting.terminal_plot import terminal_plot

STEPS = range(100)
RISING = [step / 1000 for step in STEPS]


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setenv("COLUMNS", "80")


def test_a_curve_is_drawn_with_its_title_labels_and_ticks_in_the_terminals_width():
    text = terminal_plot({"default": (STEPS, RISING)}, title="Learning rate", x_label="update", y_label="rate")
    lines = text.splitlines()
    assert "Learning rate" == lines[0]
    assert ["rate", "update"] == lines[-1].split()
    assert ["0", "25", "50", "75"] == lines[-2].split()
    assert 80 == max(map(len, lines))
    assert 1 + 15 == len(lines)
    assert "\x1b" not in text


@pytest.mark.parametrize(("asked", "drawn"), [(60, 60), (400, 100), (5, 30), (None, 80)])
def test_the_width_has_limits(asked, drawn):
    text = terminal_plot({"a": (STEPS, RISING)}, title="", width=asked)
    assert drawn == max(map(len, text.splitlines()))


def test_several_curves_have_a_legend_with_their_markers_and_coinciding_ones_take_turns():
    text = terminal_plot({"first": (STEPS, RISING), "second": (STEPS, RISING)}, title="two")
    assert "• first   × second" == text.splitlines()[1]
    body = "".join(text.splitlines()[2:])
    assert body.count("•") > 20
    assert body.count("×") > 20


def test_a_long_legend_goes_on_in_the_next_line():
    text = terminal_plot({f"variant-{at}-with-a-long-name": ([0, 1], [at, at]) for at in range(5)}, title="many")
    assert 3 == sum("variant-" in line for line in text.splitlines())
    assert 80 >= max(map(len, text.splitlines()))


def test_a_name_cannot_change_the_terminal():
    assert "\x1b" not in terminal_plot({"\x1b[31m": (STEPS, RISING), "b": (STEPS, RISING)}, title="\x1b[2J")


def test_an_output_that_is_not_utf_8_gets_ascii(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
    text = terminal_plot({"a": (STEPS, RISING), "é": (STEPS, RISING)}, title="two")
    assert text.isascii()
    assert "* a   x ?" == text.splitlines()[1]


def test_colors_are_for_terminals_and_not_where_no_color_is_set(monkeypatch):
    class Screen(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdout", Screen())
    monkeypatch.delenv("NO_COLOR", raising=False)
    both = {"a": (STEPS, RISING), "b": (STEPS, RISING)}
    assert "\x1b[" in terminal_plot(both, title="two")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in terminal_plot(both, title="two")


def test_logarithmic_axes_have_powers_of_ten():
    text = terminal_plot({"a": ([1, 10, 100], [1e-5, 1e-3, 1e-1])}, title="log", log_x=True, log_y=True)
    assert ["1", "10", "100"] == text.splitlines()[-1].split()
    ticks = [line.split("┤")[0].strip() for line in text.splitlines() if "┤" in line]
    assert ["0.1", "0.01", "0.001", "0.0001", "1e-5"] == ticks


def test_points_that_cannot_be_drawn_are_left_out():
    text = terminal_plot({"a": ([0, 1, 2, 3], [1, math.nan, math.inf, -1])}, title="some", log_y=True)
    assert text.count("•") == 1
    assert "some\nnothing to draw" == terminal_plot({"a": ([1], [math.nan])}, title="some")
    assert "some\nnothing to draw" == terminal_plot({}, title="some")


def test_the_peaks_of_a_long_curve_are_kept():
    many = [1.0 if step == 54_321 else 0.0 for step in range(100_000)]
    top = next(
        line for line in terminal_plot({"a": (range(100_000), many)}, title="spike").splitlines() if "1┤" in line
    )
    assert "•" in top


def test_drawing_leaves_the_librarys_figure_as_new():
    before = terminal_plot({"a": (STEPS, RISING)}, title="one")
    terminal_plot({"b": ([1, 10], [5, 1e6])}, title="two", log_x=True, log_y=True, x_label="x", y_label="y")
    assert before == terminal_plot({"a": (STEPS, RISING)}, title="one")


def test_help_loads_no_plotext():
    code = "import sys; from upcycle.cli import main; main(['--help']); sys.exit('plotext' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=dict(os.environ))
