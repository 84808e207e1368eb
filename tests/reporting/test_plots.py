import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from upcycle.errors import StorageError
from upcycle.reporting.drawing import PALETTE
from upcycle.reporting.names import printable, short
from upcycle.reporting.plots import (
    NARROW,
    confusion_figure,
    curves_figure,
    metrics_figure,
    phase_name,
    png,
    rate_text,
    save,
    schedule_figure,
    svg,
)

HOSTILE = ["<script>alert(1)</script>", "a\"b'c & $\\frac{$\x00\n\u202e", "猫", "\udcff", "x" * 300]
SVG = "{http://www.w3.org/2000/svg}"


def words(figure: Figure) -> list[str]:
    """Every text of the figure, as its SVG has it."""
    return ["".join(node.itertext()) for node in ET.fromstring(svg(figure)).iter(f"{SVG}text")]


def phase(name: str, rates: list[float], momenta: list[float] | None = None, **more: Any) -> dict[str, Any]:
    given = {"name": name, "epochs": len(rates), "steps_per_epoch": 1, "per": "step"} | more
    points = [{"step": 100 + step * given["steps_per_epoch"], "lr": rate} for step, rate in enumerate(rates)]
    for point, momentum in zip(points, momenta or [], strict=False):
        point["momentum"] = momentum
    return {**given, "rates": points}


def classic() -> dict[str, Any]:
    rates = [1e-5 + 1.8e-5 * epoch if epoch < 5 else 1e-5 + 9e-5 * 0.8 ** (epoch - 5) for epoch in range(50)]
    return {"phases": [phase("train", rates, steps_per_epoch=63, per="epoch")]}


def two_phases() -> dict[str, Any]:
    head = phase("head", [1e-3, 3e-2, 1e-6], [0.95, 0.85, 0.95])
    return {"phases": [head, phase("finetune", [1e-5, 3e-4, 2e-8], [0.95, 0.85, 0.95])]}


def history(head: int, finetune: int) -> list[dict[str, Any]]:
    rows = []
    for name, epochs in (("head", head), ("finetune", finetune)):
        for epoch in range(1, epochs + 1):
            row = {"phase": name, "epoch": epoch, "loss": 0.5 / epoch, "accuracy": 1 - 0.2 / epoch}
            held = {"val_loss": 0.6 / epoch, "val_accuracy": 1 - 0.3 / epoch}
            rows.append({**row, **held, "best": epoch in (1, epochs - 1)})
    return rows


def metric(value: float | None, width: float = 0.05) -> dict[str, Any]:
    if value is None:
        return {"value": None, "low": None, "high": None, "method": ""}
    return {"value": value, "low": max(value - width, 0), "high": min(value + width, 1), "method": "wilson"}


def evaluation(names: list[str], confusion: list[list[int]] | None = None) -> dict[str, Any]:
    size = len(names)
    counts = confusion or (np.eye(size, dtype=int) * 9 + np.eye(size, k=1, dtype=int)).tolist()
    per_class = {name: {"f1": metric(0.5 + 0.4 * at / size)} for at, name in enumerate(names)}
    return {"classes": names, "confusion": counts, "f1_macro": metric(0.7), "per_class": per_class}


PETS = evaluation(["cats", "dogs"], [[71, 4], [3, 82]])


# ------------------------------------------------------------------------------------------- words


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


def test_a_phase_of_another_name_keeps_it() -> None:
    assert ["Fine-tuning", "warm"] == [phase_name("finetune"), phase_name("warm")]


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


# ---------------------------------------------------------------------------------------- schedule


def test_the_classic_schedule_names_its_first_peak_and_last_rate() -> None:
    found = words(schedule_figure(classic()))
    assert {"first 1e-5", "peak 1e-4", "last 1e-5"} <= set(found)
    assert "50 epochs of 63 steps, set every epoch" in found


def test_a_rate_set_per_epoch_is_drawn_in_steps_over_epochs() -> None:
    line = schedule_figure(classic()).subfigs[0].axes[0].lines[0]
    assert "steps-post" == line.get_drawstyle()
    assert [0, 1, 49] == [line.get_xdata()[at] for at in (0, 1, -1)]


def test_a_constant_rate_is_named_first_and_peak_at_once() -> None:
    assert {"first and peak 1e-4", "last 1e-4"} <= set(words(schedule_figure({"phases": [phase("train", [1e-4] * 3)]})))


def test_momentum_has_a_panel_where_it_varies() -> None:
    still = {"phases": [phase("train", [1e-4, 2e-4], [0.9, 0.9])]}
    assert [1, 2] == [len(schedule_figure(plan).subfigs[0].axes) for plan in (still, two_phases())]


@pytest.mark.parametrize(("width", "expected"), [(9.0, (2, 1)), (NARROW, (1, 2))])
def test_phases_stand_beside_each_other_where_there_is_room(width: float, expected: tuple[int, int]) -> None:
    cells = [cell.bbox for cell in schedule_figure(two_phases(), width=width).subfigs]
    assert expected == (len({cell.x0 for cell in cells}), len({cell.y0 for cell in cells}))


# ------------------------------------------------------------------------------------------ curves


def test_curves_show_both_phases_with_their_best_epochs() -> None:
    found = words(curves_figure(history(4, 6)))
    assert {"head", "○ best: epoch 3", "Fine-tuning", "○ best: epoch 5"} <= set(found)
    assert 2 == found.count("validation")
    assert 2 == found.count("training")


def test_training_and_validation_differ_in_stroke_and_marker() -> None:
    training, validation = curves_figure(history(0, 6)).axes[0].lines[:2]
    assert [0.5, 0.6] == [training.get_ydata()[0], validation.get_ydata()[0]]
    assert ("--", "s") == (training.get_linestyle(), training.get_marker())
    assert ("-", "o") == (validation.get_linestyle(), validation.get_marker())


def test_a_dashed_line_divides_the_phases() -> None:
    first, second = curves_figure(history(4, 6)).axes[:2]
    styles = [axes.spines["left"].get_linestyle() for axes in (first, second)]
    assert ["solid", (0, (5, 3))] == styles


def test_losses_of_all_phases_share_one_scale() -> None:
    first, second = curves_figure(history(4, 6)).axes[:2]
    assert first.get_ylim() == second.get_ylim()


@pytest.mark.parametrize("rows", [history(0, 1), history(1, 1), history(1, 300)])
def test_short_and_long_runs_can_be_drawn(rows: list[dict[str, Any]]) -> None:
    assert "training" in words(curves_figure(rows, width=NARROW))


def test_values_that_were_not_finite_leave_a_gap() -> None:
    rows = history(0, 3)
    rows[1]["val_loss"] = None
    figure = curves_figure(rows)
    assert [False, True, False] == np.isnan(figure.axes[0].lines[1].get_ydata()).tolist()
    assert "validation" in words(figure)


def test_a_run_that_diverged_at_once_can_be_drawn() -> None:
    row = {"phase": "train", "epoch": 1, "loss": None, "accuracy": None, "val_loss": None, "val_accuracy": None}
    assert "training" not in words(curves_figure([row]))


def test_no_rows_give_a_sentence() -> None:
    assert ["No epoch has finished yet."] == words(curves_figure([]))


# ------------------------------------------------------------------------------- confusion, metrics


def test_cells_hold_counts_and_shares_of_their_row() -> None:
    found = words(confusion_figure(PETS))
    assert ["71", "94.7 %", "4", "5.3 %", "3", "3.5 %", "82", "96.5 %"] == [word for word in found if word[0].isdigit()]
    assert {"cats", "dogs", "true class", "predicted class"} <= set(found)


@pytest.mark.parametrize("size", [2, 5, 12, 20, 50])
def test_confusion_matrices_of_up_to_50_classes_name_each_class_twice(size: int) -> None:
    found = words(confusion_figure(evaluation([f"species {at}" for at in range(size)])))
    assert [2] * size == [found.count(f"species {at}") for at in range(size)]


def test_of_more_than_50_classes_those_with_most_mistakes_are_shown() -> None:
    counts = np.eye(60, dtype=int)
    counts[3, 57] = 5
    found = words(confusion_figure(evaluation([f"species {at}" for at in range(60)], counts.tolist())))
    assert "The 50 classes with most mistakes; 10 more are left out." in found
    assert [2, 2, 0] == [found.count(f"species {at}") for at in (3, 57, 56)]


def test_a_class_without_test_images_has_an_empty_row() -> None:
    found = words(confusion_figure(evaluation(["a", "b"], [[0, 0], [1, 3]])))
    assert ["0", "0", "1", "25.0 %", "3", "75.0 %"] == [word for word in found if word[0].isdigit()]


def test_scores_are_drawn_with_their_intervals_best_first() -> None:
    figure = metrics_figure(evaluation(["low", "high"]))
    found = words(figure)
    assert {"0.500 (0.450 to 0.550)", "0.700 (0.650 to 0.750)"} <= set(found)
    assert ["low", "high", "macro average"] == [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert [0.45, 0.55] == pytest.approx(figure.axes[0].lines[0].get_xdata())


def test_the_average_has_another_marker_than_the_classes() -> None:
    markers = [line.get_marker() for line in metrics_figure(PETS).axes[0].lines]
    assert ["|", "o", "|", "o", "|", "D"] == markers[:6]


def test_a_score_that_is_unknown_leaves_its_row_empty() -> None:
    values = evaluation(["a", "b"])
    values["per_class"]["a"]["f1"] = metric(None)
    labels = metrics_figure(values).axes[0].get_yticklabels()
    assert ["a", "b", "macro average"] == [label.get_text() for label in labels]


def test_names_are_taken_as_they_are() -> None:
    for figure in (confusion_figure(evaluation(HOSTILE)), metrics_figure(evaluation(HOSTILE))):
        found = words(figure)
        assert any(word.startswith("<script>aler") for word in found)
        assert any(word.startswith("a\"b'c & $\\") for word in found)
        assert {"猫", "\\udcff"} <= set(found)
        assert b"\x89PNG" == png(figure, dpi=30)[:4]


# ------------------------------------------------------------------------------------------- files


def test_saving_writes_a_vector_and_a_pixel_file(tmp_path: Path) -> None:
    expected = (tmp_path / "deep" / "curve.v2.svg", tmp_path / "deep" / "curve.v2.png")
    assert expected == save(curves_figure([]), tmp_path / "deep" / "curve.v2.png")
    assert sorted(expected) == sorted((tmp_path / "deep").iterdir())
    assert expected[0].read_text().startswith("<?xml")
    assert expected[1].read_bytes().startswith(b"\x89PNG")


def test_a_folder_that_cannot_be_made_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StorageError, match="cannot write"):
        save(curves_figure([]), tmp_path / "taken" / "curves")


def test_drawing_again_gives_the_same_document() -> None:
    assert 1 == len({svg(schedule_figure(two_phases(), width=NARROW)) for _ in range(6)})


def test_a_users_own_matplotlib_style_changes_nothing() -> None:
    expected = svg(curves_figure(history(2, 2)))
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "black", "lines.linewidth": 9, "axes.grid": True}):
        assert expected == svg(curves_figure(history(2, 2)))


def test_drawing_leaves_matplotlibs_settings_alone() -> None:
    before = dict(mpl.rcParams)
    curves_figure(history(2, 2))._repr_png_()
    assert before == dict(mpl.rcParams)


def test_a_notebook_is_given_a_png() -> None:
    assert b"\x89PNG" == curves_figure(history(2, 2))._repr_png_()[:4]


def test_only_colours_of_the_palette_are_used() -> None:
    drawn = "".join(
        svg(figure)
        for figure in (
            schedule_figure(two_phases()),
            curves_figure(history(3, 3)),
            confusion_figure(PETS),
            metrics_figure(PETS),
        )
    )
    assert set(PALETTE.values()) >= set(re.findall(r"#[0-9a-f]{6}\b", drawn))


def test_figures_and_report_load_neither_torch_nor_pyplot() -> None:
    code = (
        "import sys, upcycle.reporting.report as r; from upcycle.reporting import plots;"
        "plots.curves_figure([])._repr_png_();"
        "print({'torch', 'timm', 'matplotlib.pyplot'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "set()" == found.stdout.strip()


def test_a_loss_that_leaps_leaves_the_others_apart() -> None:
    rows = history(0, 4)
    for row, loss in zip(rows, (0.8, 361.0, 0.6, 0.5), strict=True):
        row["loss"] = row["val_loss"] = loss
    figure = curves_figure(rows)
    loss, accuracy = figure.axes[0], figure.axes[1]
    assert ("log", "linear") == (loss.get_yscale(), accuracy.get_yscale())
    assert "logarithmic axis" in words(figure)
    heights = loss.transLimits.transform(loss.transScale.transform([(1, 0.8), (1, 0.5)]))[:, 1]
    assert heights[0] - heights[1] > 0.04
    assert "linear" == curves_figure(history(0, 30)).axes[0].get_yscale()


@pytest.mark.parametrize("width", [NARROW, 9.2])
@pytest.mark.parametrize("size", [2, 3, 6, 12, 25])
def test_what_a_cell_holds_is_no_wider_than_the_cell(width: float, size: int) -> None:
    counts = (np.eye(size, dtype=int) * 12_000 + 345).tolist()
    figure = confusion_figure(evaluation([f"{at:018}" for at in range(size)], counts), width=width)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    axes = figure.axes[0]
    cell = axes.transData.transform((1, 0))[0] - axes.transData.transform((0, 0))[0]
    assert axes.texts
    assert max(text.get_window_extent(renderer).width for text in axes.texts) <= cell


def test_a_last_loss_of_zero_on_a_logarithmic_axis_keeps_its_label_in_the_panel() -> None:
    rows = history(0, 3)
    for row, loss in zip(rows, (0.8, 361.0, 0.0), strict=True):
        row["loss"] = row["val_loss"] = loss
    heights = [text.get_position()[1] for text in curves_figure(rows).axes[0].texts if text.get_text() == "training"]
    assert heights
    assert all(0 <= height <= 1 for height in heights)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a home is found otherwise")
def test_a_home_that_cannot_be_written_is_nothing_to_speak_of(tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    kept = {name: text for name, text in os.environ.items() if name != "MPLCONFIGDIR" and not name.startswith("XDG_")}
    words = [sys.executable, "-c", "import upcycle.reporting.plots"]
    environment = {**kept, "HOME": str(tmp_path / "home")}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert ("", "") == (done.stdout, done.stderr)
