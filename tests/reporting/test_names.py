import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upcycle.reporting.names import counted, loss_text, printable, rate_text, short


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        (1e-5, "1e-5"),
        (1.0004900e-5, "1e-5"),
        (4.6864e-5, "4.69e-5"),
        (0.03, "0.03"),
        (0.0012, "0.0012"),
        (0, "0"),
        (1, "1"),
    ],
)
def test_rates_are_written_as_they_are_typed(rate: float, expected: str) -> None:
    assert expected == rate_text(rate)


def test_control_characters_and_direction_overrides_are_written_as_escapes() -> None:
    assert "a\\x00b\\nc\\u202ed\\udcffe\\ufffef ü 猫" == printable("a\x00b\nc\u202ed\udcffe\ufffef ü 猫")


def test_characters_to_keep_are_kept() -> None:
    assert "a\nb\\t" == printable("a\nb\t", keep="\n")


@given(st.text(st.characters(codec=None)))
def test_printable_text_fits_into_one_line_of_any_xml_document(text: str) -> None:
    clean = printable(text)
    assert 1 >= len(clean.splitlines())
    assert (
        clean == ET.fromstring(f"<a>{clean.replace('&', '&amp;').replace('<', '&lt;')}</a>".encode()).text or not text
    )


@given(st.text(max_size=60), st.integers(3, 30))
def test_short_text_is_no_longer_than_asked_for(text: str, limit: int) -> None:
    assert len(short(text, limit)) <= limit


def test_long_names_keep_both_their_ends() -> None:
    assert "golden re…ever" == short("golden retriever", 14)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [(0.0004, "0.0004"), (-0.0004, "-0.0004"), (12345.678, "1.23e+04"), (0.5, "0.500"), (0, "0.000")],
)
def test_losses_of_any_size_are_readable(loss: float, expected: str) -> None:
    assert expected == loss_text(loss)


def test_a_plural_that_is_not_made_with_an_s_is_given() -> None:
    assert ("1 loss", "2 losses", "1,200 epochs") == (
        counted(1, "loss", "losses"),
        counted(2, "loss", "losses"),
        counted(1200, "epoch"),
    )
