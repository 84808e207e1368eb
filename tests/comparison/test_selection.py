import numpy as np
import pytest

from upcycle.comparison.selection import Behind, Candidate, Gain, Selection, behind, fitting, gain, staying
from upcycle.errors import RunError
from upcycle.evaluation.results import Metric, Predictions


def gap(low: float) -> Behind:
    return Behind(low + 0.1, low, low + 0.2)


def candidate(name: str, **more: object) -> Candidate:
    f1 = Metric(0.9, 0.85, 0.94, "bootstrap")
    values = {"megabytes": 62.0, "local": True, "size": 224, "images": 800, "log_loss": 0.2, "accuracy": 0.9}
    costs = {"f1_macro": f1, "behind": None, "images_per_second": 30.0, "minutes": 5.0, "milliseconds": 33.0}
    return Candidate(name, name, "auto", "Apache-2.0", **{**values, **costs, **more})  # type: ignore[arg-type]


def selection(*names: str, alike: tuple[str, ...], winner: str, found: Gain | None = None) -> Selection:
    rows = tuple(candidate(name) for name in names)
    return Selection("/photos", winner, rows, alike, found, (200, 400), 120)


def test_the_better_half_stays_and_so_do_those_whose_interval_reaches_0() -> None:
    assert [True, True, False, False] == staying([gap(-0.1), gap(0.01), gap(0.02), gap(0.03)])
    assert [True, True, True, False] == staying([gap(-0.1), gap(0.01), gap(0.0), gap(0.03)])
    assert [True, True, False] == staying([gap(-0.1), gap(0.01), gap(0.02)])
    assert [True, False] == staying([gap(-0.1), gap(0.02)])
    assert [True] == staying([gap(0)])


def test_what_fits_into_the_time_is_taken_in_order_and_the_first_one_always() -> None:
    assert [True, True, False, True] == fitting([5, 3, 9, 2], 10)
    assert [True, False] == fitting([50, 3], 10)
    assert [True, True] == fitting([50, 3], float("inf"))
    assert [True, False] == fitting([5, 1], -1)


def predictions(logits: list[float], groups: tuple[str, ...] | None = None) -> Predictions:
    n = len(logits)
    paths = tuple(f"{at}.png" for at in range(n))
    labels = np.arange(n) % 2
    column = np.array(logits, np.float32)[:, None]
    return Predictions(("a", "b"), paths, tuple(map(str, range(n))), groups or ("",) * n, labels, column)


def test_the_difference_is_the_mean_of_paired_losses_and_its_interval_students() -> None:
    leader, other = predictions([-4, 4] * 8), predictions([-4, 2] * 8)
    found = behind(other, leader)
    first, second = np.log1p(np.exp(-4)), np.log1p(np.exp(-2))
    differences = np.array([0, second - first] * 8)
    half = 2.131449546 * differences.std(ddof=1) / 4  # Student's t with 15 degrees of freedom
    assert found.value == pytest.approx(differences.mean())
    assert (found.low, found.high) == pytest.approx((differences.mean() - half, differences.mean() + half))


def test_one_group_tells_nothing() -> None:
    one, two = (predictions([-1, value], groups=("g", "g")) for value in (1.0, 2.0))
    assert behind(one, two).low == -np.inf


def test_the_gain_is_the_second_ones_over_the_first() -> None:
    good, bad = predictions([-3, 3] * 20), predictions([-3, 3, 3, -3] * 10)
    found = gain(bad, good, over="resnet50", time=0.8)
    assert found.value == pytest.approx(0.5)
    assert found.low < found.value < found.high


def test_the_verdict_is_one_line() -> None:
    found = Gain("resnet50", 0.029, 0.011, 0.048, 0.8)
    assert "use x: +2.9 points of F1 (1.1 to 4.8) over resnet50 at 0.8x the time" == (
        selection("x", "resnet50", alike=("x",), winner="x", found=found).verdict
    )
    assert "not distinguishable: x, y: take y, the faster" == (
        selection("x", "y", "z", alike=("x", "y"), winner="y", found=found).verdict
    )
    assert "use x: it is the only candidate" == selection("x", alike=("x",), winner="x").verdict


def test_a_notebook_shows_the_scores_and_the_verdict_with_names_escaped() -> None:
    made = selection("a<b", "resnet50", alike=("a<b",), winner="a<b", found=Gain("resnet50", 0.03, 0.01, 0.05, 2.0))
    page = made._repr_html_()
    row = '<tr><th style="text-align:left">a&lt;b</th><td>0.900</td><td>0.850 to 0.940</td><td>5.0</td></tr>'
    assert row in page
    assert page.endswith("<p>use a&lt;b: +3.0 points of F1 (1.0 to 5.0) over resnet50 at 2x the time</p>")


def test_a_selection_is_read_back_as_it_was() -> None:
    one = selection("x", "y", alike=("x",), winner="x", found=Gain("y", 0.1, 0.0, 0.2, 2.0))
    assert one == Selection.from_dict(one.to_dict())
    assert "use x" in one.to_dict()["verdict"]
    with pytest.raises(RunError, match=r"choice\.json is damaged"):
        Selection.from_dict({"winner": 5})
