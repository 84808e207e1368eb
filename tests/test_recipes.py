"""Recipes and the plan they make."""

import pytest

from upcycle.changes import Retry
from upcycle.errors import ConfigError
from upcycle.planning import adapted_rate, phases, schedule, steps_per_epoch
from upcycle.recipes import effective, peak_rate, resolve, without_effect
from upcycle.schedules import OneCycle, RampSustainDecay


def test_classic_is_the_articles_recipe() -> None:
    config = resolve({"recipe": "classic"})
    named = {
        "epochs": 100,
        "batch_size": 32,
        "optimizer": "adam",
        "weight_decay": 0.0,
        "momentum": 0.9,
        "beta2": 0.999,
        "eps": 1e-7,
        "freeze": "none",
        "bn": "train",
        "augment": "none",
        "monitor": "val_loss",
        "patience": 5,
        "probe": False,
        "label_smoothing": 0.0,
        "mixup": 0.0,
        "layer_decay": 1.0,
        "arch": "resnet50",
    }
    assert named == {name: getattr(config, name) for name in named}


def test_classic_sets_the_articles_rate_once_an_epoch() -> None:
    (phase,) = phases(resolve({"recipe": "classic"}), 2000)
    assert RampSustainDecay(1e-5, 1e-4, 1e-5, 5, 0, 0.8, steps_per_epoch=63) == phase.schedule
    assert {1e-4} == {phase.rate(step).lr for step in range(5 * 63, 6 * 63)}


def test_options_win_over_the_recipe() -> None:
    assert (7, 5) == (lambda config: (config.epochs, config.patience))(resolve({"recipe": "classic", "epochs": 7}))


def test_the_default_recipe_fine_tunes_by_one_cycle_whose_steps_count_from_0() -> None:
    (tuned,) = phases(resolve({"epochs": 3}), 1000)
    assert ("finetune", 0, 3 * 32) == (tuned.name, tuned.first_step, tuned.steps)
    assert isinstance(tuned.schedule, OneCycle)


def test_the_probe_has_no_phase() -> None:
    assert () == phases(resolve({"recipe": "probe"}), 1000)


def test_a_networks_first_training_is_not_called_fine_tuning() -> None:
    assert ["train"] == [phase.name for phase in phases(resolve({"recipe": "simple-cnn"}), 100)]


@pytest.mark.parametrize(
    ("images", "steps"), [(1, 1), (31, 1), (32, 1), (33, 1), (34, 2), (64, 2), (65, 2), (2000, 63)]
)
def test_a_last_batch_of_one_image_joins_the_one_before(images: int, steps: int) -> None:
    assert steps == steps_per_epoch(images, 32)


def test_an_unknown_recipe_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="unknown recipe 'fast': choose one of default, classic, probe, simple-cnn"):
        resolve({"recipe": "fast"})


def test_a_plan_draws_at_most_500_points_and_every_epoch_of_classic() -> None:
    long = phases(resolve({"epochs": 40}), 10_000)[0].to_dict()
    classic = phases(resolve({"recipe": "classic"}), 2000)[0].to_dict()
    assert len(long["rates"]) <= 501
    assert 101 == len(classic["rates"])
    assert 40 * 313 - 1 + long["first_step"] == long["rates"][-1]["step"]


@pytest.mark.parametrize(
    ("probe_loss", "classes", "rate"),
    [(0.0, 2, 1e-4), (0.046, 2, 1.8961e-4), (0.258, 2, 1e-3), (0.69, 2, 1e-3), (0.28164, 5, 5e-4)],
)
def test_the_peak_is_lower_where_the_frozen_network_already_fits(probe_loss: float, classes: int, rate: float) -> None:
    assert rate == pytest.approx(adapted_rate(1e-3, probe_loss, classes), rel=1e-3)


def test_a_slowed_phase_counts_its_steps_from_the_runs_first() -> None:
    (tuned,) = phases(resolve({"epochs": 3}), 320)
    slowed = tuned.changed(Retry(tuned.first_step + 10, 0.5, ""))
    rates = [slowed.rate(tuned.first_step + at).lr / tuned.rate(tuned.first_step + at).lr for at in (9, 10, 29)]
    assert [1.0, 0.5, 0.5] == rates


def test_a_rate_that_is_named_is_the_rate() -> None:
    assert resolve({}).lr_adapt
    assert not resolve({"lr": 1e-3}).lr_adapt
    assert not resolve({"lr_max": 1e-3}).lr_adapt
    assert not resolve({"recipe": "classic"}).lr_adapt


def test_until_a_range_test_has_picked_a_rate_it_is_the_recipe_s_own() -> None:
    assert [1e-3, 1e-4, 1e-3] == [
        peak_rate(resolve({"recipe": recipe, "lr": "auto"})) for recipe in ("default", "classic", "simple-cnn")
    ]
    assert 0.5 == peak_rate(resolve({"recipe": "classic", "lr": 0.5}))
    assert resolve({"lr": "auto"}).lr_adapt  # the probe decides where there is no usable valley
    assert not resolve({"lr": "auto", "lr_adapt": False}).lr_adapt
    (phase,) = phases(resolve({"recipe": "classic", "lr": "auto"}), 320)
    assert 1e-4 == phase.peak


def test_without_pretrained_weights_nothing_is_frozen_and_no_probe_is_trained() -> None:
    config = resolve({"weights": "none"})
    assert (False, "none", "train", 1.0) == (config.probe, config.freeze, config.bn, config.layer_decay)
    assert "layer2" == resolve({"weights": "none", "freeze": "layer2"}).freeze


def test_a_rate_below_classics_own_ends_is_an_error() -> None:
    with pytest.raises(ConfigError, match="lr = 1e-06 is to be the highest rate, but lr_start is 1e-05"):
        resolve({"recipe": "classic", "lr": 1e-6})


def test_every_option_of_the_shape_reaches_the_schedule() -> None:
    given = {"pct_start": 0.4, "div": 7, "div_final": 70, "anneal": "linear", "moms": (0.9, 0.8, 0.7)}
    found = schedule(resolve({"lr": 0.5, "epochs": 2, **given}), 10)
    assert OneCycle(0.5, 20, 0.4, 7, 70, "linear", (0.9, 0.8, 0.7)) == found


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ("auto", 300, 1.0, 0.99)),
        ({"epochs": 3}, ("always", 0, 1.0, 0.99)),
        ({"epochs": 3, "fine_tune": "auto", "min_updates": 50}, ("auto", 50, 1.0, 0.99)),
        ({"epochs": 0}, ("auto", 0, 1.0, 0.99)),
        ({"schedule": "custom"}, ("auto", 0, 1.0, 0.99)),
        ({"probe": False}, ("auto", 0, 1.0, 0.0)),
        ({"weights": "none"}, ("auto", 0, 1.0, 0.0)),
        ({"recipe": "classic"}, ("always", 0, 0.0, 0.0)),
        ({"recipe": "classic", "probe": True}, ("always", 0, 0.0, 0.0)),
        ({"recipe": "simple-cnn"}, ("always", 0, 0.0, 0.0)),
    ],
)
def test_what_the_probe_decides_is_switched_off_by_what_is_named(
    options: dict[str, object], expected: tuple[str, int, float, float]
) -> None:
    config = resolve(options)
    assert expected == (config.fine_tune, config.min_updates, config.clip_grad, config.ema_decay)


def test_never_fine_tuning_is_the_recipe_probe() -> None:
    never, probe = effective(resolve({"fine_tune": "never"})), effective(resolve({"recipe": "probe"}))
    assert probe == never
    assert 0 == never["epochs"]


def test_options_of_the_probe_have_no_effect_without_one() -> None:
    options = {"probe": False, "fine_tune": "never", "min_updates": 9, "ema_decay": 0.9, "clip_grad": 2.0}
    config = resolve(options)
    assert not {"fine_tune", "min_updates", "ema_decay"} & set(effective(config))
    assert 2.0 == effective(config)["clip_grad"]
    assert [
        f"{name} has no effect: it is for runs with a probe" for name in ("fine_tune", "min_updates", "ema_decay")
    ] == (without_effect(options, config))


@pytest.mark.parametrize("without", [{"probe": False}, {"recipe": "classic"}, {"weights": "none"}])
def test_the_layers_of_a_probe_have_no_effect_without_one(without: dict[str, object]) -> None:
    options = {**without, "probe_layers": "last"}
    config = resolve(options)
    assert "probe_layers" not in effective(config)
    assert ["probe_layers has no effect: it is for runs with a probe"] == without_effect(options, config)
    assert "last" == effective(resolve({"probe_layers": "last"}))["probe_layers"]
