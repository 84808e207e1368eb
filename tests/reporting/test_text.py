import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from tests.reporting.values import evaluation as plain
from tests.reporting.values import metric
from upcycle.errors import counted
from upcycle.evaluation.results import ClassMetrics
from upcycle.reporting.text import evaluation_table, loss_text, models_table, printable, rate_text, short


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


# -------------------------------------------------------------------------------------------- tables


def evaluation(classes, confusion, **more):
    shares = metric(0.9, 0.85, 0.95), metric(0.5, 0.25, 0.75)
    scores = {name: ClassMetrics(*shares, metric(at / len(classes), 0, 1), 1234) for at, name in enumerate(classes)}
    f1 = metric(0.92, 0.9, 0.97)
    return plain(classes, confusion, n=1200, per_class=scores, f1_macro=f1, resolution="it says", **more)


def rendered(renderable, width=80):
    console = Console(width=width, no_color=True, force_terminal=False)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


TWO = evaluation(["cats", "dogs"], [[71, 1], [6, 82]], roc_auc=metric(0.99, 0.98, 1.0))


def test_the_table_reads_without_colour():
    expected = """\
Metrics of 1,200 images
metric             value   95 % interval
────────────────────────────────────────
F1 (macro)         0.920  [0.900, 0.970]
Accuracy           0.950  [0.912, 0.979]
Precision (macro)  0.940  [0.900, 0.970]
Recall (macro)     0.930  [0.900, 0.970]
ROC AUC            0.990  [0.980, 1.000]
Log loss           0.147  [0.107, 0.200]

By class, with 95 % intervals
class          precision             recall                 F1  images
──────────────────────────────────────────────────────────────────────
cats   0.90 [0.85, 0.95]  0.50 [0.25, 0.75]  0.00 [0.00, 1.00]   1,234
dogs   0.90 [0.85, 0.95]  0.50 [0.25, 0.75]  0.50 [0.00, 1.00]   1,234

Confusion matrix: one row per true class, one column per predicted class
true class    cats    dogs
──────────────────────────
cats            71       1
dogs             6      82

it says
"""
    assert expected == rendered(evaluation_table(TWO))


def test_costs_of_any_size_keep_three_digits():
    row = replace(TWO, log_loss=metric(1234.5, 0.0001234, 12.345))
    assert "Log loss           1.23e+03  [0.000123, 12.345]\n" in rendered(evaluation_table(row))


def test_roc_auc_is_left_out_where_it_is_undefined():
    assert "ROC AUC" not in rendered(evaluation_table(evaluation(list("abc"), [[1, 0, 0]] * 3)))


LONG = ["Siamese cats with long names in the garden", "日本語の長い名前" * 6, *"abcd"]


@pytest.mark.parametrize("show", [evaluation_table, lambda row: models_table({"a model of a long name" * 3: row})])
def test_long_names_give_way_so_that_numbers_fit_80_columns(show):
    text = rendered(show(evaluation(LONG, [[123456] * 6] * 6)))
    assert 80 >= max(map(cell_len, text.splitlines()))
    assert "…" in text
    numbers = "0.950 [0.912, 0.979]" if "models" in text.lower() else "0.90 [0.85, 0.95]  0.50 [0.25, 0.75]"
    assert numbers in text


def test_with_many_classes_the_worst_and_the_commonest_mistakes_are_listed():
    names = [f"class {i:02}" for i in range(30)]
    confusion = [[0] * 30 for _ in names]
    confusion[3][4], confusion[7][9], confusion[5][5] = 12, 34, 99
    lines = rendered(evaluation_table(evaluation(names, confusion))).splitlines()
    assert "The 20 of 30 classes with the lowest F1, with 95 % intervals" in lines
    assert not [line for line in lines if line.startswith("class 20")]
    start = lines.index("The most frequent mistakes")
    assert ["class 07    class 09       34", "class 03    class 04       12", ""] == lines[start + 3 : start + 6]


def test_classes_that_no_image_is_of_are_neither_the_worst_nor_scored():
    names = [f"class {i:02}" for i in range(30)]
    confusion = [[0] * 30 for _ in names]
    confusion[25][25], confusion[28][29] = 9, 3
    lines = rendered(evaluation_table(evaluation(names, confusion))).splitlines()
    rows = [line for line in lines if line.startswith("class ")][1:21]
    assert ["class 25", "class 28", "class 29", "class 00"] == [row[:8] for row in rows[:4]]
    assert ["class 00", "–", "–", "–", "1,234"] == [" ".join(rows[3].split()[:2]), *rows[3].split()[2:]]


def test_names_are_text_and_neither_markup_nor_escape_sequences():
    text = rendered(evaluation_table(evaluation(["[red]x[/red]", "a\x1b[31mb"], [[1, 0], [0, 1]])))
    assert "[red]x[/red]" in text
    assert r"a\x1b[31mb" in text
    assert "\x1b" not in text


def test_models_stand_side_by_side_a_row_each():
    other = replace(TWO, accuracy=metric(0.5, 0.4, 0.6), resolution="it says less")
    expected = """\
Models compared
model                   accuracy             F1, macro  log loss
────────────────────────────────────────────────────────────────
probe       0.950 [0.912, 0.979]  0.920 [0.900, 0.970]     0.147
simple CNN  0.500 [0.400, 0.600]  0.920 [0.900, 0.970]     0.147

at the accuracy of probe: it says
at the accuracy of simple CNN: it says less
"""
    assert expected == rendered(models_table({"probe": TWO, "simple CNN": other}))


def test_models_of_which_the_same_is_said_have_one_line_for_it():
    assert ["", "it says"] == rendered(models_table({"probe": TWO, "simple CNN": TWO})).splitlines()[-2:]


def test_the_tables_import_no_torch():
    code = "import sys, upcycle.reporting.text; sys.exit('torch' in sys.modules)"
    assert 0 == subprocess.run([sys.executable, "-c", code], check=False).returncode


@pytest.mark.parametrize("width", [40, 60, 68, 72])
def test_a_narrow_terminal_still_shows_which_class_a_row_is_of(width):
    text = rendered(evaluation_table(evaluation(["Siamese", "tabby cats"], [[71, 1], [6, 82]])), width)
    assert "Siamese" in text
    assert "tabby c" in text


def test_one_image_is_one_image():
    assert rendered(evaluation_table(replace(TWO, n=1))).startswith("Metrics of 1 image\n")
