import pytest

from upcycle.study import words


@pytest.mark.parametrize(("share", "text"), [(0.004, "0.4 points"), (0.01, "1.0 point"), (-0.123, "12.3 points")])
def test_a_share_in_points(share: float, text: str) -> None:
    assert text == words.points(share)


def test_an_interval_has_no_negative_zero() -> None:
    assert "0.0 to 1.0" == words.interval([-0.0001, 0.01])


def step(value: float, interval: list[float], verdict: str, needed: int | None = 4000, goal: float = 0.01) -> str:
    pair = {
        "first": "constant",
        "second": "classic",
        "f1_difference": {"value": value, "interval": interval},
        "difference": {"p": 0.4},
        "holm": {"p": 1.0, "real": False},
        "images_needed": needed,
        "verdict": verdict,
    }
    return words.step(pair, {"constant": "a constant rate", "classic": "One-cycle"}, goal, images=1000)


def test_a_gain_that_may_be_chance_says_how_many_images_would_tell() -> None:
    assert (
        "One-cycle gained 0.4 points of F1 over a constant rate (95 % interval -0.2 to 1.0): not distinguishable "
        "from chance here; about 4,000 test images would narrow it to a point."
    ) == step(0.004, [-0.002, 0.01], "unclear")


def test_the_smallest_difference_that_matters_is_the_users() -> None:
    assert step(0.004, [-0.03, 0.04], "unclear", goal=0.025).endswith("would narrow it to 2.5 points.")


def test_a_loss_says_that_it_hurts() -> None:
    assert (
        "One-cycle lost 2.0 points of F1 against a constant rate (95 % interval -3.0 to -1.0): it hurts here, "
        "by more than chance."
    ) == step(-0.02, [-0.03, -0.01], "loss")


def test_rungs_that_are_the_same_runs_are_said_to_be() -> None:
    pair = {"first": "constant", "second": "tuned"}
    assert "Tuned came out as the same runs as Constant: there is no difference." == words.step(
        pair, {"constant": "Constant", "tuned": "Tuned"}, 0.01, images=10, same=True
    )
