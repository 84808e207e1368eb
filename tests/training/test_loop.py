"""The loop: rows, rates, resuming, divergence."""

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch

from upcycle.changes import MicroBatch
from upcycle.config import OPTIMIZERS, Config
from upcycle.data.augment import Augmentation
from upcycle.data.dataset import Batch, Batches
from upcycle.data.preprocessing import Preprocessing
from upcycle.device import Hardware, detect
from upcycle.errors import DivergenceError
from upcycle.model.network import ModelSpec, create
from upcycle.planning import phases
from upcycle.recipes import resolve
from upcycle.schedules import Rate
from upcycle.task import Task
from upcycle.training import loop, optim
from upcycle.training.loop import Progress, Setting, State, Sums, Totals, fit, start, train_epoch
from upcycle.training.loss import CustomLoss, Loss, Scores
from upcycle.training.optim import frozen_names, set_training_mode

NETWORK = ModelSpec("test_resnet", Task.of(("a", "b")), Preprocessing(size=32), "test", "")
NOTHING = Scores(0.5, 0.5, 0.5)


def frames(count: int) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    random = np.random.default_rng(0)
    return [random.integers(0, 100 + 100 * (at % 2), (37, 40, 3), dtype=np.uint8) for at in range(count)]


def setting(options: dict[str, Any] | None = None, images: int = 12) -> Setting:
    config: Config = resolve({"recipe": "classic", "batch_size": 4, "precision": "fp32", **(options or {})})
    model = create(NETWORK)
    return Setting(
        config=config,
        phase=phases(config, images)[-1],
        batches=Batches(
            frames(images),
            np.arange(images) % 2,
            np.arange(images),
            preprocessing=NETWORK.preprocessing,
            batch_size=config.batch_size,
            augmentation=Augmentation.of(config.augment, mixup=config.mixup),
            seed=config.seed,
            task=NETWORK.task,
        ),
        task=NETWORK.task,
        loss=Loss(NETWORK.task),
        machine=detect(precision="fp32", threads=1, device="cpu"),
        frozen=frozen_names(model.body, config.freeze),
    )


def begin(config: Config, step: int = 0, machine: Hardware | None = None) -> State:
    return start(create(NETWORK, machine, seed=1), config, step=step)


def whole_epoch(state: State, here: Setting, progress: Progress | None = None) -> Totals:
    """An epoch without a pause."""
    with pytest.raises(StopIteration) as ended:
        next(train_epoch(state, here, progress))
    return ended.value.value


def test_each_epoch_yields_a_row_with_its_rate_as_the_article_sets_it() -> None:
    here = setting({"epochs": 7, "patience": None})
    rows = [row for row, _ in fit(begin(here.config), here, validate=lambda _: NOTHING)]
    assert list(range(1, 8)) == [row.epoch for row in rows]
    assert [1e-5, 2.8e-5, 4.6e-5, 6.4e-5, 8.2e-5, 1e-4, 8.2e-5] == pytest.approx([row.lr for row in rows])
    assert [3, 21] == [rows[0].step, rows[-1].step]


def test_training_lowers_the_loss_and_finds_the_classes() -> None:
    here = setting({"epochs": 12, "lr": 1e-2, "lr_start": 1e-3, "patience": None})
    rows = [row for row, _ in fit(begin(here.config), here, validate=lambda _: NOTHING)]
    assert rows[-1].loss < rows[0].loss / 2
    assert rows[-1].accuracy > 0.9


def test_driving_may_stop_by_no_longer_asking() -> None:
    here = setting({"epochs": 50, "rampup": 5})
    state = begin(here.config)
    for row, _ in fit(state, here, validate=lambda _: NOTHING):
        if row.epoch == 2:
            break
    assert (2, 6) == (state.epoch, state.step)


def test_the_same_seed_gives_the_same_bits() -> None:
    here = setting({"augment": "light", "mixup": 0.2})
    losses = [whole_epoch(begin(here.config), here).loss for _ in range(2)]
    assert losses[0] == losses[1]


def test_a_state_put_back_goes_on_to_the_same_bits() -> None:
    here = setting({"recipe": "default", "epochs": 4, "probe": False, "freeze": "none", "bn": "train"})
    whole = begin(here.config)
    list(fit(whole, here, validate=lambda _: NOTHING))
    first = begin(here.config)
    for row, _ in fit(first, here, validate=lambda _: NOTHING):
        if row.epoch == 2:
            break
    second = begin(here.config)
    second.from_tensors({name: tensor.clone() for name, tensor in first.to_tensors().items()})
    second.epoch, second.step = first.epoch, first.step
    list(fit(second, here, validate=lambda _: NOTHING))
    ours, theirs = second.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("stop", range(1, 10))
def test_a_state_kept_between_two_updates_goes_on_to_the_same_bits_and_rows(stop: int) -> None:
    here = setting({"recipe": "default", "epochs": 3, "probe": False, "freeze": "none", "bn": "train", "mixup": 0.3})
    whole = begin(here.config)
    rows = [row for row, _ in fit(whole, here, validate=lambda _: NOTHING)]
    first = begin(here.config)
    seen = []
    for ended in fit(first, here, validate=lambda _: NOTHING, due=lambda: first.step == stop):
        if ended is None:
            break
        seen.append(ended[0])
    assert stop == first.step
    assert stop - 3 * len(seen) == first.sums.updates
    second = begin(here.config)
    second.from_tensors({name: tensor.clone() for name, tensor in first.to_tensors().items()})
    facts = json.loads(json.dumps(asdict(first.sums)))
    second.epoch, second.step, second.sums = first.epoch, first.step, Sums(**facts)
    seen += [row for row, _ in fit(second, here, validate=lambda _: NOTHING)]
    assert rows == seen
    ours, theirs = second.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_pause_is_no_training_time(monkeypatch: pytest.MonkeyPatch) -> None:
    here = setting({"epochs": 7})
    now = [0.0]
    monkeypatch.setattr(loop.time, "perf_counter", lambda: now[0])
    state = begin(here.config)

    def tick(*_: int) -> None:
        now[0] += 2

    for ended in fit(state, here, validate=lambda _: NOTHING, progress=tick, due=lambda: True):
        now[0] += 0 if ended else 100
        if ended:
            break
    assert ended is not None
    assert 6 == ended[1].seconds
    assert Sums() == state.sums


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_updates() -> None:
    here = setting({"lr": 1e-3})
    state = begin(here.config)
    whole_epoch(state, here)
    with torch.no_grad():
        state.model.head.weight.fill_(float("inf"))  # type: ignore[operator]
    message = r"not finite between updates 3 and 4 of phase finetune \(rate .*\): try --lr 0.0001"
    with pytest.raises(DivergenceError, match=message):
        whole_epoch(state, here)


def explode(state: State) -> None:
    with torch.no_grad():
        state.model.head.bias.fill_(100.0)  # type: ignore[operator]


EXPLODED = r"the loss is \d\d(.\d)?, and guessing has 0.69, between updates {} of phase finetune .*: try --lr 0.0001"


def test_a_stretch_of_updates_far_above_guessing_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "STRETCH", 2)
    here = setting({"lr": 1e-3})
    state = begin(here.config)
    explode(state)
    with pytest.raises(DivergenceError, match=EXPLODED.format("0 and 2")):
        whole_epoch(state, here)


def test_a_late_explosion_is_not_hidden_by_a_good_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "STRETCH", 2)
    here = setting({"lr": 1e-3}, images=24)
    state = begin(here.config)
    epoch = train_epoch(state, here, due=lambda: state.step == 2)
    next(epoch)  # a pause, over which the stretch is kept
    assert (state.sums.images, state.sums.loss) == (state.sums.judged_images, state.sums.judged_loss)
    state.sums = replace(state.sums, loss=0.0, judged_loss=0.0)
    explode(state)
    with pytest.raises(DivergenceError, match=EXPLODED.format("2 and 4")):
        next(train_epoch(state, here))


def test_an_explosion_after_the_last_stretch_is_in_the_epochs_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "STRETCH", 2)
    here = setting({"lr": 1e-3})
    state = begin(here.config)
    epoch = train_epoch(state, here, due=lambda: state.step == 2)
    next(epoch)
    with torch.no_grad():
        state.model.head.bias.fill_(1000.0)  # type: ignore[operator]
    with pytest.raises(DivergenceError, match=r"the loss is .* between updates 0 and 3 of phase finetune"):
        next(epoch)


def test_an_epoch_shorter_than_a_stretch_is_judged_once_as_many_updates_were_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "STRETCH", 4)
    here = setting({"lr": 1e-3})
    state = begin(here.config)
    explode(state)
    whole_epoch(state, here)  # three updates
    explode(state)
    with pytest.raises(DivergenceError, match=EXPLODED.format("3 and 6")):
        whole_epoch(state, here)


def test_a_validation_loss_beyond_all_measure_is_no_finished_epoch() -> None:
    here = setting({"epochs": 2, "rampup": 1})
    with pytest.raises(DivergenceError, match=r"the loss is 1e\+04 on validation images between updates 0 and 3 "):
        list(fit(begin(here.config), here, validate=lambda _: Scores(1e4, 0.5, 0.5)))
    assert 2 == len(list(fit(begin(here.config), here, validate=lambda _: Scores(50.0, 0.5, 0.5))))


def test_progress_is_told_batch_by_batch() -> None:
    here = setting()
    told: list[tuple[int, int]] = []
    whole_epoch(begin(here.config), here, lambda done, total: told.append((done, total)))
    assert [(1, 3), (2, 3), (3, 3)] == told


def test_the_optimizer_is_the_one_that_was_named() -> None:
    assert isinstance(begin(setting().config).optimizer, torch.optim.Adam)
    adamw = setting({"recipe": "default", "probe": False}).config
    assert isinstance(begin(adamw).optimizer, torch.optim.AdamW)
    assert 1e-7 == begin(setting().config).optimizer.param_groups[0]["eps"]


def test_class_weights_change_the_training_loss() -> None:
    here = setting()
    weighted = replace(here, loss=Loss(NETWORK.task, weights=torch.tensor([0.1, 1.9])))
    assert whole_epoch(begin(here.config), here).loss != whole_epoch(begin(here.config), weighted).loss


def test_a_validation_loss_that_is_not_finite_is_no_finished_epoch() -> None:
    here = setting()
    state = begin(here.config)
    with pytest.raises(DivergenceError, match="not finite on validation images between updates 0 and 3"):
        next(fit(state, here, validate=lambda _: Scores(float("nan"), 0.5, 0.5)))


def test_moments_put_back_have_the_memory_layout_of_their_weights() -> None:
    here = setting()
    first, second = begin(here.config), begin(here.config)
    whole_epoch(first, here)
    saved = {key: value.contiguous() for key, value in optim.state_tensors(first.optimizer, first.names).items()}
    optim.load_state_tensors(second.optimizer, second.names, saved)
    for parameter, state in second.optimizer.state.items():
        assert parameter.stride() == state["exp_avg"].stride()


def test_with_batchnorm_inside_the_convolutions_the_losses_are_the_same_but_for_rounding() -> None:
    losses = {}
    for fold in (True, False):
        here = setting({"recipe": "default", "probe": False, "epochs": 3, "lr": 1e-2})
        state = begin(here.config, machine=replace(here.machine, fold_bn=fold))
        losses[fold] = [row.loss for row, _ in fit(state, here, validate=lambda _: NOTHING)]
    assert losses[True] != losses[False]
    assert losses[True] == pytest.approx(losses[False], rel=1e-4)
    assert losses[True][-1] < losses[True][0]


def test_a_batch_in_parts_has_the_loss_and_gradients_of_the_whole() -> None:
    here = setting({"recipe": "default", "probe": False, "freeze": "none", "bn": "frozen"})
    batch, found = next(here.batches.epoch(0)), []
    for changes in ((), (MicroBatch(0, 3, ""),)):  # four images: three and one
        state = begin(here.config)
        set_training_mode(state.model, frozen=frozenset(), bn="frozen")
        loss, right = loop.train_step(state, batch, replace(here, changes=changes))
        found.append((loss, right, [parameter.grad.clone() for parameter in state.model.parameters()]))
    (whole, right, gradients), (parts, rights, theirs) = found
    assert right == rights
    torch.testing.assert_close(whole, parts, rtol=1e-5, atol=0)
    for one, other in zip(gradients, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_accepted_optimizer_resumes_to_the_same_bits(name: str) -> None:
    here = setting(
        {"recipe": "default", "probe": False, "epochs": 2, "freeze": "none", "bn": "train", "optimizer": name},
        images=16,
    )
    batches = list(here.batches.epoch(0))

    def train(state: State, some: list[Batch]) -> State:
        set_training_mode(state.model.body, frozen=here.frozen, bn="train")
        for batch in some:
            loss, _ = loop.train_step(state, batch, here)
            assert torch.isfinite(loss)
        return state

    whole, first, second = begin(here.config), begin(here.config), begin(here.config)
    at_first = {key: tensor.clone() for key, tensor in first.to_tensors().items()}
    train(whole, batches)
    train(first, batches[:2])
    second.from_tensors({key: tensor.clone() for key, tensor in first.to_tensors().items()})
    second.step = first.step
    train(second, batches[2:])
    expected, found = whole.to_tensors(), second.to_tensors()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert not all(torch.equal(expected[key], at_first[key]) for key in at_first if key.endswith("weight"))


@pytest.mark.parametrize(("name", "entry"), [("adamw", "betas"), ("lion", "betas"), ("sgd", "momentum")])
def test_the_schedules_momentum_reaches_the_optimizer(name: str, entry: str) -> None:
    optimizer = begin(resolve({"optimizer": name, "probe": False})).optimizer
    optim.set_rate(optimizer, Rate(0.5, 0.7))
    values = [group[entry][0] if entry == "betas" else group[entry] for group in optimizer.param_groups]
    assert {0.7} == set(values)
    assert 0.5 == optimizer.param_groups[0]["lr"]


def test_another_loss_is_trained_on_and_judged_by_its_own_scale() -> None:
    here = setting({"epochs": 12, "lr": 1e-2, "lr_start": 1e-3, "patience": None})
    far = replace(here, loss=CustomLoss(NETWORK.task, lambda logits, targets: 100 * squared(logits, targets)))
    rows = [row for row, _ in fit(begin(here.config), far, validate=lambda _: NOTHING)]
    assert 10 < rows[0].loss
    assert rows[-1].loss < rows[0].loss / 2


def squared(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (logits.softmax(dim=1) - targets).square().sum(dim=1)


def test_every_option_of_the_optimizer_reaches_it() -> None:
    config = resolve({"recipe": "classic", "weight_decay": 0.3, "layer_decay": 0.5, "beta2": 0.7, "momentum": 0.6})
    groups = begin(config).optimizer.param_groups
    assert {(0.6, 0.7)} == {group["betas"] for group in groups}
    assert {0.0, 0.3} == {group["weight_decay"] for group in groups}
    assert min(group["scale"] for group in groups) < 0.5


# ---------------------------------------------------------------- clipping, the moving average

AVERAGED = {"recipe": "default", "epochs": 3, "freeze": "none", "bn": "train"}


def test_an_update_moves_by_clipped_gradients_of_the_whole_batch() -> None:
    plain, clipped = (
        setting(
            {"epochs": 5, "optimizer": "momentum", "bn": "frozen", "schedule": "constant", "lr": 1.0, "clip_grad": most}
        )
        for most in (0.0, 1e-3)
    )
    halves = replace(clipped, changes=(MicroBatch(0, 2, "memory"),))
    moved = []
    for here in (plain, clipped, halves):
        state = begin(here.config)
        before = {name: tensor.detach().clone() for name, tensor in state.model.named_parameters()}
        loop.train_step(state, next(iter(here.batches.epoch(0, 0))), here)
        after = {name: tensor.detach() for name, tensor in state.model.named_parameters()}
        moved.append(sum(float((after[name] - before[name]).square().sum()) for name in before) ** 0.5)
    assert moved[0] > 0.01
    assert [1e-3, 1e-3] == pytest.approx(moved[1:], rel=1e-3)


def test_the_average_follows_the_weights_and_the_first_of_them_fast() -> None:
    here = setting({**AVERAGED, "ema_decay": 0.15})
    state = begin(here.config)
    name = "fc.weight" if "fc.weight" in state.average else next(iter(state.average))
    expected = state.average[name].clone()
    for number, batch in enumerate(here.batches.epoch(0, 0)):
        loop.train_step(state, batch, here)
        decay = min(0.15, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * state.model.state_dict()[name]
        torch.testing.assert_close(state.average[name], expected)


@pytest.mark.parametrize(("bn", "statistics"), [("train", True), ("frozen", False)])
def test_the_average_is_of_what_is_trained(bn: str, statistics: bool) -> None:
    config = setting({**AVERAGED, "bn": bn}).config
    model = create(NETWORK, seed=1)
    optim.freeze_parameters(model.body, ["conv1.0.weight"])
    state = start(model, config)
    trained = {name for name, parameter in model.body.named_parameters() if parameter.requires_grad}
    assert trained == {name for name in state.average if "running" not in name}
    assert "conv1.0.weight" not in trained
    assert statistics == any("running" in name for name in state.average)
    assert all(tensor.is_floating_point() for tensor in state.average.values())


@pytest.mark.parametrize("options", [{"ema_decay": 0.0}, {"probe": False}, {"probe": False, "ema_decay": 0.9}])
def test_without_a_decay_or_a_probe_there_is_no_average(options: dict[str, Any]) -> None:
    state = begin(setting({**AVERAGED, **options}).config)
    assert {} == state.average
    assert not [name for name in state.to_tensors() if name.startswith("ema|")]


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_state_with_an_average_goes_on_to_the_same_bits(stop: int) -> None:
    here = setting(AVERAGED)
    whole = begin(here.config)
    list(fit(whole, here, validate=lambda _: NOTHING))
    first = begin(here.config)
    for _ in fit(first, here, validate=lambda _: NOTHING, due=lambda: first.step == stop):
        if first.step == stop:
            break
    second = begin(here.config)
    second.from_tensors({name: tensor.clone() for name, tensor in first.to_tensors().items()})
    second.epoch, second.step, second.sums = first.epoch, first.step, first.sums
    list(fit(second, here, validate=lambda _: NOTHING))
    ours, theirs = second.to_tensors(), whole.to_tensors()
    assert ours.keys() == theirs.keys()
    assert any(name.startswith("ema|") for name in theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
