"""Figures as files, and names in letters that a font lacks: another font that is installed, or escapes."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib as mpl
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import FontEntry, fontManager

from tests.reporting.pages import words
from tests.reporting.values import PETS, evaluation, history, one_cycle
from upcycle.errors import StorageError
from upcycle.evaluation.results import Evaluation
from upcycle.history import History
from upcycle.reporting import style
from upcycle.reporting.figures import confusion_figure, curves_figure, metrics_figure, schedule_figure
from upcycle.reporting.style import PALETTE, Drawing, fonts_for, png, save, svg

NOBODYS = "\ue001\ue002"
"""Letters of the private area: no font of anybody's has them but those made here."""


@pytest.fixture(autouse=True)
def _no_other_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style, "installed_fonts", list)


def make_font(path: Path, family: str, letters: str) -> Path:
    """A font of squares of another height for each letter."""
    names = [".notdef", *(f"u{ord(letter):x}" for letter in letters)]
    shapes = {}
    for at, name in enumerate(names):
        pen = TTGlyphPen(None)
        pen.moveTo((100, 0))
        for corner in ((100, 200 + 250 * at), (700, 200 + 250 * at), (700, 0)):
            pen.lineTo(corner)
        pen.closePath()
        shapes[name] = pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(letter): f"u{ord(letter):x}" for letter in letters})
    builder.setupGlyf(shapes)
    builder.setupHorizontalMetrics(dict.fromkeys(names, (800, 100)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2(usWeightClass=400)
    builder.setupPost()
    builder.save(path)
    return path


@pytest.fixture
def nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An installed font that has the letters."""
    before = list(fontManager.ttflist)
    fontManager.addfont(make_font(tmp_path / "font.ttf", "Nobodys", NOBODYS))
    added = [entry for entry in fontManager.ttflist if entry not in before]
    monkeypatch.setattr(style, "installed_fonts", lambda: added)
    yield "Nobodys"
    fontManager.ttflist = before


def test_letters_that_no_font_here_has_are_escapes() -> None:
    families, missing = fonts_for(["cat", f"a{NOBODYS}", "naïve", "Ωж", "a\nb"])
    assert (["DejaVu Sans"], {0xE001: "\\ue001", 0xE002: "\\ue002"}) == (families, missing)


@pytest.mark.parametrize("figure", [confusion_figure, metrics_figure])
def test_classes_without_glyphs_differ_in_pixels(figure: Callable[[Evaluation], Drawing], tmp_path: Path) -> None:
    made = figure(evaluation([NOBODYS[0], f"a{NOBODYS[1]}"]))
    save({"figure": made}, {"figure": svg(made)}, tmp_path)
    assert png(made) != png(figure(evaluation([NOBODYS[1], f"a{NOBODYS[0]}"])))
    assert png(made) == (tmp_path / "figure.png").read_bytes()
    assert {NOBODYS[0], f"a{NOBODYS[1]}"} <= set(words(made))
    assert "\\ue001" not in (tmp_path / "figure.svg").read_text(encoding="utf-8")


def test_an_installed_font_that_has_the_letters_draws_them(nobodys: str) -> None:
    assert (["DejaVu Sans", nobodys], {}) == fonts_for(["cat", NOBODYS])

    def drawn(*names: str) -> tuple[str, bytes]:
        made = confusion_figure(evaluation(names))
        return svg(made), png(made)

    assert drawn(*NOBODYS) == drawn(*NOBODYS)
    assert drawn(*NOBODYS)[1] != drawn(NOBODYS[0], NOBODYS[0] * 2)[1]
    assert nobodys not in drawn(*NOBODYS)[0]


def test_the_fewest_fonts_are_taken_and_damaged_ones_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "damaged.ttf").write_bytes(b"no font")
    made = [
        FontEntry(fname=str(tmp_path / "damaged.ttf"), name="A"),
        FontEntry(fname=str(make_font(tmp_path / "b.ttf", "B", NOBODYS[0])), name="B"),
        FontEntry(fname=str(make_font(tmp_path / "c.ttf", "C", NOBODYS)), name="C"),
    ]
    monkeypatch.setattr(style, "installed_fonts", lambda: made)
    assert (["DejaVu Sans", "C"], {0xE003: "\\ue003"}) == fonts_for([NOBODYS, "\ue003"])


def test_a_font_of_boxes_is_no_font(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert not [entry.name for entry in style.installed_fonts() if "last resort" in entry.name.lower()]


# ------------------------------------------------------------------------------------------- files


def test_saving_writes_a_vector_and_a_pixel_file(tmp_path: Path) -> None:
    made = curves_figure(History())
    save({"curve.v2": made}, {"curve.v2": svg(made)}, tmp_path / "deep")
    pixels, vector = sorted((tmp_path / "deep").iterdir())
    assert ("curve.v2.png", "curve.v2.svg") == (pixels.name, vector.name)
    assert vector.read_text() == svg(made)
    assert pixels.read_bytes().startswith(b"\x89PNG")


def test_a_folder_that_cannot_be_made_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StorageError, match="cannot write"):
        save({"curves": curves_figure(History())}, {"curves": ""}, tmp_path / "taken")


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
