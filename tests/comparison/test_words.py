from typing import Any

import pytest

from upcycle.comparison import words


@pytest.mark.parametrize(("share", "text"), [(0.004, "0.4 points"), (0.01, "1.0 point"), (-0.123, "12.3 points")])
def test_a_share_in_points(share: float, text: str) -> None:
    assert text == words.points(share)


@pytest.mark.parametrize(
    ("units", "text"), [(1000, "1,000 test images"), (990, "1,000 test images"), (5, "1,000 test images of 5 groups")]
)
def test_few_groups_are_named_beside_their_images(units: int, text: str) -> None:
    assert text == words.tested(1000, units)


def test_what_makes_a_comparison_less_than_it_seems_is_said() -> None:
    said = words.cautions(
        ["EPYC, cuda, H100", "EPYC, cuda, T4"], ["torch 2.11 and 2.15"], ["Default, seed 1"], other_split=True
    )
    assert 4 == len(said)
    assert "The loss exploded and training went on at a lower rate in 1: Default, seed 1." == said[1]
    assert "These runs were trained with different versions: torch 2.11 and 2.15." == said[2]
    assert [] == words.cautions(["EPYC"], [], [], other_split=False)


def test_an_interval_has_no_negative_zero() -> None:
    assert "0.0 to 1.0" == words.interval([-0.0001, 0.01])


def step(value: float, interval: list[float], verdict: str, needed: int | None = 4000, **changed: Any) -> str:
    pair = {
        "first": "constant",
        "second": "classic",
        "f1_difference": {"value": value, "interval": interval},
        "difference": {"p": changed.get("p", 0.4)},
        "corrected": {"step": 1.0},
        "images_needed": needed,
        "verdict": verdict,
        "same_runs": False,
        "again": {"answerable": False, "reason": "3 seeds in common; 5 or more are needed", **changed.get("again", {})},
    }
    titles = {"constant": "a constant rate", "classic": "One-cycle"}
    return words.step(pair, titles, changed.get("goal", 0.01), images=1000)


UNANSWERED = "Whether the recipe would do so trained again is not answerable: 3 seeds in common; 5 or more are needed."


def test_a_gain_that_may_be_chance_says_how_many_images_would_tell() -> None:
    assert (
        "One-cycle gained 0.4 points of F1 over a constant rate (95 % interval -0.2 to 1.0): not distinguishable "
        f"from chance here; about 4,000 test images would narrow it to a point. {UNANSWERED}"
    ) == step(0.004, [-0.002, 0.01], "unclear")


def test_the_smallest_difference_that_matters_is_the_users() -> None:
    assert "would narrow it to 2.5 points." in step(0.004, [-0.03, 0.04], "unclear", goal=0.025)


def test_a_loss_says_that_it_hurts() -> None:
    assert (
        "One-cycle lost 2.0 points of F1 against a constant rate (95 % interval -3.0 to -1.0): it hurts here, "
        f"for these models by more than chance. {UNANSWERED}"
    ) == step(-0.02, [-0.03, -0.01], "loss")


def test_where_f1_and_right_answers_disagree_neither_is_called_chance() -> None:
    assert (
        "(95 % interval 2.7 to 15.0): F1 differs, the number of right answers not by more than chance (p 1.00): "
        "look at the classes"
    ) in step(0.088, [0.027, 0.15], "unclear", p=1.0)


def test_the_recipes_answer_stands_beside_the_models() -> None:
    said = step(0.068, [0.04, 0.09], "gain", again={"answerable": True, "interval": [-0.074, 0.21]})
    assert said.endswith("more than chance. Trained again with other seeds, -7.4 to 21.0: not shown to differ.")


def test_no_difference_at_all_is_said_without_a_direction() -> None:
    assert step(0.0, [-0.01, 0.01], "unclear").startswith("One-cycle has the same F1 as a constant rate (95 %")


def test_rungs_that_are_the_same_runs_are_said_to_be() -> None:
    pair = {"first": "constant", "second": "tuned", "same_runs": True}
    assert "Tuned came out as the same runs as Constant: there is no difference." == words.step(
        pair, {"constant": "Constant", "tuned": "Tuned"}, 0.01, images=10
    )
