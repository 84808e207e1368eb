"""A range test: its updates are those of training, and it leaves no trace."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import TINY
from upcycle.data.dataset import Dataset
from upcycle.data.preprocessing import Preprocessing
from upcycle.data.splits import split_by
from upcycle.device import Hardware
from upcycle.jobs.finetune import class_loss
from upcycle.jobs.prepare import decode, read_index
from upcycle.model.network import Network, create, spec_of
from upcycle.planning import Phase, phases
from upcycle.recipes import resolve
from upcycle.reporting.progress import Silent
from upcycle.training.loop import Setting, start, train_step
from upcycle.training.optim import freeze_parameters, frozen_in, frozen_names, set_training_mode
from upcycle.training.range_test import Rising, range_test
from upcycle.training.rate_curve import Sweep

HERE = Hardware("cpu", "fp32", 1, 1, "a processor", (), None, 8.0)
SWEEP = Sweep(1e-5, 1e-2, 12, 2)


def setting_on(photos: Path, **options: Any) -> tuple[Network, Setting]:
    config = resolve({"arch": TINY, "batch_size": 8, "epochs": 3, "image_size": 32, "probe": False, **options})
    preprocessing = Preprocessing(size=32)
    data: Dataset = decode(read_index(photos, config, HERE, Silent()), preprocessing, config, HERE, Silent())
    data = replace(data, splits=split_by(config, data.index))
    model = create(spec_of(TINY, data.index.classes, preprocessing, None), HERE, seed=1)
    freeze_parameters(model.body, frozen_names(model.body, config.freeze))
    (phase,) = phases(config, len(data.splits.train))
    loss = class_loss(config, data, device="cpu")
    batches = data.batches(config, HERE)
    return model, Setting(config, phase, batches, data.task, loss, HERE, frozen_in(model.body))


def everything(model: Network) -> tuple[Any, ...]:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    kept = {name: (tensor.clone(), tensor.requires_grad, tensor.grad) for name, tensor in tensors.items()}
    return kept, [module.training for module in model.modules()], torch.get_rng_state()


@pytest.mark.parametrize("bn", ["train", "frozen"])
@pytest.mark.parametrize("freeze", ["none", "layer2"])
def test_the_model_and_the_random_numbers_are_left_as_they_were_to_the_bit(photos: Path, bn: str, freeze: str) -> None:
    model, setting = setting_on(photos, bn=bn, freeze=freeze)
    set_training_mode(model.body, frozen=setting.frozen, bn=bn)
    next(iter(model.modules())).eval()
    torch.manual_seed(5)
    before = everything(model)
    losses, _ = range_test(model, setting, SWEEP)
    after = everything(model)
    assert 2 * 12 == sum(map(len, losses))
    assert before[1] == after[1]
    assert torch.equal(before[2], after[2])
    for name, (tensor, trains, grad) in before[0].items():
        assert torch.equal(tensor, after[0][name][0]), name
        assert (trains, grad) == after[0][name][1:], name


def test_a_test_that_is_interrupted_leaves_the_model_as_well(photos: Path) -> None:
    model, setting = setting_on(photos, bn="train", freeze="none")
    before = everything(model)

    def stop(done: int, total: int) -> None:
        assert total == 24
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        range_test(model, setting, SWEEP, progress=stop)
    assert all(torch.equal(tensor, everything(model)[0][name][0]) for name, (tensor, *_) in before[0].items())


def test_its_updates_are_those_of_training(photos: Path) -> None:
    model, setting = setting_on(photos, bn="train", freeze="layer2", augment="light")
    losses, starts = range_test(model, setting, Sweep(1e-3, 1e-2, 10, 1))
    seed = next(iter(range_test_seeds(setting, 1)))
    own = replace(
        setting,
        phase=Phase(
            "range-test-0", 1, 10, Rising(Sweep(1e-3, 1e-2, 10).rates, 0.95)
        ),  # the momentum of one-cycle's start
        batches=replace(setting.batches, seed=seed),
    )
    set_training_mode(model.body, frozen=own.frozen, bn="train")
    state, expected = start(model, setting.config), []
    for epoch in range(4):  # 24 images are 3 batches: it goes on with those of the next epochs
        for batch in own.batches.epoch(epoch):
            if len(expected) < 10:
                expected.append(train_step(state, batch, own)[0].item())
    assert tuple(expected) == losses[0]
    assert starts[0][0] == losses[0][0]  # the first loss is that of the start
    assert starts[0][9] != losses[0][9]


def range_test_seeds(setting: Setting, repeats: int) -> list[int]:
    from upcycle.device import seed_for

    return [seed_for(setting.config.seed, "range test", repeat) for repeat in range(repeats)]


def test_repeats_have_batches_of_their_own_and_are_the_same_again(photos: Path) -> None:
    model, setting = setting_on(photos)
    first = range_test(model, setting, SWEEP)
    assert first == range_test(model, setting, SWEEP)
    assert first[1][0] != first[1][1]
    assert first[0][0] == range_test(model, setting, replace(SWEEP, repeats=1))[0][0]
    other = replace(setting, config=setting.config.model_copy(update={"seed": 1}))
    assert first != range_test(model, other, SWEEP)


def test_what_is_frozen_stays_and_dropout_is_the_same_for_both_losses(photos: Path) -> None:
    model, setting = setting_on(photos, freeze="none", bn="frozen")
    model.body.get_classifier().register_forward_pre_hook(  # type: ignore[operator]
        lambda _, inputs: (torch.nn.functional.dropout(inputs[0], 0.5, training=True),)
    )
    still = replace(Sweep(1e-12, 1e-11, 10, 1))
    losses, starts = range_test(model, setting, still)
    assert losses[0] == pytest.approx(starts[0], abs=1e-6)


def test_a_repeat_ends_where_the_loss_explodes_and_no_loss_is_not_finite(photos: Path) -> None:
    model, setting = setting_on(photos, freeze="none", bn="frozen", clip_grad=0.0, optimizer="sgd")
    losses, starts = range_test(model, setting, Sweep(1e-3, 100.0, 40, 2))
    assert all(len(one) < 40 for one in losses)
    assert [len(one) for one in losses] == [len(one) for one in starts]
    assert all(torch.isfinite(torch.tensor(one)).all() for one in losses)
