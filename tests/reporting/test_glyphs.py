"""Names in letters that a font lacks: another font that is installed, or numbers and escapes."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager
from PIL import Image

from tests.reporting.test_plots import evaluation
from upcycle.reporting import drawing, glyphs
from upcycle.reporting.drawing import Drawing
from upcycle.reporting.glyphs import drawable, fonts_for
from upcycle.reporting.plots import confusion_figure, metrics_figure, png, save, svg

NOBODYS = "\ue001\ue002"
"""Letters of the private area: no font of anybody's has them but those made here."""


@pytest.fixture(autouse=True)
def _no_other_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glyphs, "installed", list)


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
    monkeypatch.setattr(glyphs, "installed", lambda: added)
    yield "Nobodys"
    fontManager.ttflist = before


def test_names_without_glyphs_are_numbered_and_escaped() -> None:
    names = ["cat", NOBODYS[0], f"a{NOBODYS[1]}", NOBODYS[0] * 9]
    assert ["cat", "2 \\ue001", "3 a\\ue002", "4 \\ue001\\ue001\\…\\ue001"] == drawable(names)
    assert ["cat", "naïve", "Ωж", "a\nb"] == drawable(["cat", "naïve", "Ωж", "a\nb"])


@pytest.mark.parametrize("figure", [confusion_figure, metrics_figure])
def test_classes_without_glyphs_can_be_told_apart_in_pixels(figure: type[Drawing], tmp_path: Path) -> None:
    values = evaluation([NOBODYS[0], NOBODYS[1]])
    made = figure(values)
    drawn = made.in_pixels()  # type: ignore[misc]
    said = {text.get_text() for text in drawn.findobj(drawing.Text)}
    assert {"1 \\ue001", "2 \\ue002"} <= said
    assert any("names: see report.html" in text for text in said)
    document, pixels = save(made, tmp_path / "figure")
    assert png(drawn) == pixels.read_bytes()
    text = document.read_text(encoding="utf-8")
    assert NOBODYS[0] in text and NOBODYS[1] in text and "report.html" not in text  # noqa: PT018


def test_names_that_can_be_drawn_have_no_note() -> None:
    made = confusion_figure(evaluation(["cat", "Ωж"]))
    drawn = made.in_pixels()  # type: ignore[misc]
    assert svg(made) == svg(drawn)


def test_an_installed_font_that_has_the_letters_draws_them(nobodys: str) -> None:
    assert ("DejaVu Sans", nobodys) == fonts_for(["cat", NOBODYS]).families
    assert list(NOBODYS) == drawable(list(NOBODYS))
    made = confusion_figure(evaluation([NOBODYS[0], NOBODYS[1]]))
    before = svg(made)
    first = png(made)
    same = png(confusion_figure(evaluation([NOBODYS[0], NOBODYS[0] + NOBODYS[0]])))
    assert first == png(made)
    assert first != same
    assert before == svg(confusion_figure(evaluation([NOBODYS[0], NOBODYS[1]])))
    assert nobodys not in before


def test_the_fewest_fonts_are_taken_and_damaged_ones_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "damaged.ttf").write_bytes(b"no font")
    made = [
        glyphs.FontEntry(fname=str(tmp_path / "damaged.ttf"), name="A"),
        glyphs.FontEntry(fname=str(make_font(tmp_path / "b.ttf", "B", NOBODYS[0])), name="B"),
        glyphs.FontEntry(fname=str(make_font(tmp_path / "c.ttf", "C", NOBODYS)), name="C"),
    ]
    monkeypatch.setattr(glyphs, "installed", lambda: made)
    found = fonts_for([NOBODYS, "\ue003"])
    assert (("DejaVu Sans", "C"), {"\ue003"}) == (found.families, found.lacking)


def test_a_font_of_boxes_is_no_font(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert not [entry.name for entry in glyphs.installed() if "last resort" in entry.name.lower()]


def test_drawn_names_differ_in_the_picture(tmp_path: Path) -> None:
    made = confusion_figure(evaluation([NOBODYS[0], NOBODYS[1]]))
    (tmp_path / "a.png").write_bytes(png(made))
    swapped = confusion_figure(evaluation([NOBODYS[1], NOBODYS[0]]))
    (tmp_path / "b.png").write_bytes(png(swapped))
    one, two = (np.asarray(Image.open(tmp_path / name).convert("L")) for name in ("a.png", "b.png"))
    assert one.shape == two.shape
    assert (one != two).any()
