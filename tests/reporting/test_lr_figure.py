"""The picture, the plot and the table of a range test."""

import re

import pytest
from rich.console import Console

from upcycle.reporting.lr_figure import interval_text, lr_figure, lr_table
from upcycle.reporting.style import svg
from upcycle.training.rate_curve import LrFinding, Sweep, found, suggestion

SWEEP = Sweep(1e-6, 1.0, 61, 3)


def made(fall: float, repeats: int = 3) -> LrFinding:
    """Losses that fall by so much between updates 20 and 40, and burst at 50."""
    falls = [-fall * min(max(at - 20, 0) / 20, 1) + max(at - 50, 0) for at in range(56)]
    losses = [[1 + change * (1 + repeat / 50) for change in falls] for repeat in range(repeats)]
    return found(SWEEP, losses, [[1.0] * 56] * repeats, fallback=3e-4, fallback_reason="that of the options")


EMPTY = found(SWEEP, [()], [()], fallback=3e-4, fallback_reason="that of the options")


def words(finding: LrFinding) -> list[str]:
    return [re.sub("<.*?>", "", text) for text in re.findall("<text.*?</text>", svg(lr_figure(finding)), re.DOTALL)]


def printed(finding: LrFinding) -> str:
    console = Console(width=80, record=True, file=None)
    with console.capture() as shown:
        console.print(lr_table(finding))
    return shown.get()


def test_the_picture_has_each_rule_with_its_interval_and_which_one_is_taken() -> None:
    finding = made(0.4)
    shown = words(finding)
    assert "learning rate" in shown
    for one in finding.suggestions:
        assert sum(text.startswith(f"{one.rule} ") and interval_text(one) in text for text in shown) == 1
    assert 1 == sum(text.startswith("minimum ") and text.endswith(", taken") for text in shown)
    assert f"Range test of the learning rate: {finding.peak.reason}." in svg(lr_figure(finding))


def test_without_a_valley_it_says_what_is_used() -> None:
    assert "no usable valley: 3e-4 is used instead" in words(made(0.0))
    assert "The loss explodes at once." in words(EMPTY)


def test_the_table_fits_a_terminal_and_has_every_rule() -> None:
    finding = made(0.4)
    lines = printed(finding).splitlines()
    assert max(map(len, lines)) <= 80
    assert "Training loss by rate, smoothed" in lines[0]
    rows = [line for line in lines if line.startswith(("steepest", "valley", "minimum"))]
    assert [one.rule for one in finding.suggestions] == [row.split()[0] for row in rows]
    assert ["minimum"] == [row.split()[0] for row in rows if row.rstrip().endswith("yes")]
    assert all(interval_text(one) in row for one, row in zip(finding.suggestions, rows, strict=True))


def test_without_a_valley_there_is_the_plot_alone() -> None:
    assert "steepest" not in printed(made(0.0))
    assert "nothing to draw" in printed(EMPTY)


@pytest.mark.parametrize(("picks", "text"), [([1e-3, 1e-3], "1e-3 to 1e-3"), ([1e-3], "–")])
def test_an_interval_that_is_not_known_is_a_dash(picks: list[float], text: str) -> None:
    assert text.replace("1e-3", "0.001") == interval_text(suggestion("valley", picks))
