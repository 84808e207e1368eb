"""Figures as files, and names in letters that our font lacks."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.text import Text

from tests.reporting.pages import words
from tests.reporting.values import PETS, evaluation, history, one_cycle
from upcycle.errors import StorageError
from upcycle.evaluation.results import Evaluation
from upcycle.history import History
from upcycle.reporting import style
from upcycle.reporting.figures import confusion_figure, curves_figure, metrics_figure, schedule_figure
from upcycle.reporting.style import PALETTE, Drawing, png, save, svg


def test_letters_that_our_font_lacks_are_drawn_with_an_installed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style, "OTHER_FAMILIES", ("DejaVu Sans Mono", "No Such Font"))
    made = metrics_figure(evaluation(["a", "b"]))
    families = [text.get_fontfamily() for text in made.findobj(Text)]
    png(made)
    assert families == [text.get_fontfamily() for text in made.findobj(Text)]
    assert "No Such Font" not in svg(made)


@pytest.mark.parametrize("figure", [confusion_figure, metrics_figure])
def test_names_without_glyphs_stay_text(figure: Callable[[Evaluation], Drawing]) -> None:
    made = figure(evaluation(["\ue001", "a\ue002"]))
    assert b"\x89PNG" == png(made)[:4]
    assert {"\ue001", "a\ue002"} <= set(words(made))


# ------------------------------------------------------------------------------------------- files


def test_saving_writes_a_vector_and_a_pixel_file(tmp_path: Path) -> None:
    expected = (tmp_path / "deep" / "curve.v2.svg", tmp_path / "deep" / "curve.v2.png")
    assert expected == save(curves_figure(History()), tmp_path / "deep" / "curve.v2.png")
    assert sorted(expected) == sorted((tmp_path / "deep").iterdir())
    assert expected[0].read_text().startswith("<?xml")
    assert expected[1].read_bytes().startswith(b"\x89PNG")


def test_a_folder_that_cannot_be_made_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StorageError, match="cannot write"):
        save(curves_figure(History()), tmp_path / "taken" / "curves")


def test_drawing_again_gives_the_same_document() -> None:
    assert 1 == len({svg(schedule_figure(one_cycle())) for _ in range(6)})


def test_a_users_own_matplotlib_style_changes_nothing() -> None:
    expected = svg(curves_figure(history(4)))
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "black", "lines.linewidth": 9, "axes.grid": True}):
        assert expected == svg(curves_figure(history(4)))


def test_drawing_leaves_matplotlibs_settings_alone() -> None:
    before = dict(mpl.rcParams)
    curves_figure(history(4))._repr_png_()
    assert before == dict(mpl.rcParams)


def test_a_notebook_is_given_a_png() -> None:
    assert b"\x89PNG" == curves_figure(history(4))._repr_png_()[:4]


def test_only_colours_of_the_palette_are_used() -> None:
    drawn = "".join(
        svg(figure)
        for figure in (
            schedule_figure(one_cycle()),
            curves_figure(history(6)),
            confusion_figure(PETS),
            metrics_figure(PETS),
        )
    )
    assert set(PALETTE.values()) >= set(re.findall(r"#[0-9a-f]{6}\b", drawn))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a home is found otherwise")
def test_a_home_that_cannot_be_written_is_nothing_to_speak_of(tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    kept = {name: text for name, text in os.environ.items() if name != "MPLCONFIGDIR" and not name.startswith("XDG_")}
    words = [sys.executable, "-c", "import upcycle.reporting.run_page"]
    environment = {**kept, "HOME": str(tmp_path / "home")}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert ("", "") == (done.stdout, done.stderr)
