import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from upcycle.data.augment import Augmentation, center_crop, normalize
from upcycle.data.dataset import Batches, eval_batches
from upcycle.data.decode import load_image
from upcycle.data.preprocessing import Preprocessing
from upcycle.errors import ConfigError, DecodeError
from upcycle.task import Task
from upcycle.world import Place, World

SMALL = Preprocessing(size=8, crop_pct=1.0)
LIGHT = Augmentation.of("light", mixup=0.3)


def frames(count, side=8, seed=0):
    numbers = np.random.default_rng(seed)
    made = [numbers.integers(0, 256, (side, side + i % 5, 3), dtype=np.uint8) for i in range(count)]
    for pixels in made:
        pixels.flags.writeable = False
    return made


def batches(count, *, classes=3, **settings):
    defaults = {"preprocessing": SMALL, "batch_size": 4, "augmentation": LIGHT, "seed": 7}
    labels = np.arange(count, dtype=np.int32) % classes
    return Batches(frames(count), labels, np.arange(count), task=Task.of("abcdefgh"[:classes]), **(defaults | settings))


def tensors(batch):
    return (batch.images, batch.targets, batch.labels, batch.positions)


def same(first, second):
    pairs = list(zip(first, second, strict=True))
    return all(torch.equal(a, b) for x, y in pairs for a, b in zip(tensors(x), tensors(y), strict=True))


@given(count=st.integers(1, 40), batch_size=st.integers(1, 12), epoch=st.integers(0, 5))
def test_an_epoch_has_every_position_once_and_no_batch_of_one(count, batch_size, epoch):
    made = batches(count, batch_size=batch_size, augmentation=Augmentation())
    sizes = [len(batch.positions) for batch in made.epoch(epoch)]
    positions = torch.cat([batch.positions for batch in made.epoch(epoch)])
    assert list(range(count)) == sorted(positions.tolist())
    assert len(made) == len(sizes)
    assert batch_size == 1 or count == 1 or min(sizes) > 1


@pytest.mark.parametrize("kind", ["none", "light", "square", "mixup", "custom"])
@pytest.mark.parametrize(("size", "shards"), [(2, 0), (3, 0), (2, 2), (4, 4), (2, 8)])
def test_the_parts_of_several_processes_are_the_batch_of_one(kind, size, shards):
    custom = (
        (lambda images, generator: images * torch.rand(len(images), 1, 1, 1, generator=generator))
        if kind == "custom"
        else None
    )
    augmentation = Augmentation.of("light" if kind in ("mixup", "custom") else kind, mixup=0.3 * (kind == "mixup"))
    made = batches(21, batch_size=8, augmentation=augmentation, augment=custom, shards=shards)
    worlds = [World(Place(rank, size, 0, 1)) for rank in range(size)]
    parts = [list(replace(made, world=world).epoch(1)) for world in worlds]
    for at, whole in enumerate(made.epoch(1)):
        joined = [torch.cat(columns) for columns in zip(*(tensors(part[at]) for part in parts), strict=True)]
        assert all(torch.equal(one, other) for one, other in zip(tensors(whole), joined, strict=True))
        assert {whole.whole} == {part[at].whole for part in parts}


@pytest.mark.parametrize(
    ("count", "expected"), [(8, [4, 4]), (9, [4, 5]), (10, [4, 4, 2]), (3, [3]), (1, [1]), (0, [])]
)
def test_a_remainder_of_one_joins_the_batch_before(count, expected):
    assert expected == [len(batch.images) for batch in batches(count).epoch(0)]


def test_a_batch_holds_normalized_channels_last_images_and_soft_targets():
    batch = next(batches(12).epoch(0))
    assert ((4, 3, 8, 8), torch.float32) == (tuple(batch.images.shape), batch.images.dtype)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert ((4, 3), torch.float32) == (tuple(batch.targets.shape), batch.targets.dtype)
    assert (torch.int64, torch.int64) == (batch.labels.dtype, batch.positions.dtype)


def test_two_classes_give_one_target_an_image():
    batch = next(batches(8, classes=2, augmentation=Augmentation(), shuffle=False).epoch(0))
    assert batch.targets.tolist() == [0.0, 1.0, 0.0, 1.0]


def test_more_classes_give_one_target_a_class():
    batch = next(batches(8, augmentation=Augmentation(), shuffle=False, batch_size=2).epoch(0))
    assert batch.targets.tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


def test_labels_are_those_of_the_positions_used():
    made = Batches(
        frames(6),
        np.array([0, 1, 2, 0, 1, 2]),
        np.array([5, 1]),
        preprocessing=SMALL,
        batch_size=2,
        augmentation=Augmentation(),
        seed=0,
        task=Task.of("abc"),
        shuffle=False,
    )
    batch = next(made.epoch(0))
    assert (batch.positions.tolist(), batch.labels.tolist()) == ([5, 1], [2, 1])
    assert torch.equal(normalize(center_crop(frames(6)[5:], 8), SMALL)[0], batch.images[0])


def test_epochs_shuffle_differently_and_repeat_with_the_seed():
    orders = [
        torch.cat([batch.positions for batch in batches(40, seed=seed).epoch(epoch)]).tolist()
        for seed, epoch in ((7, 0), (7, 0), (7, 1), (8, 0))
    ]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0] != orders[3]


def test_an_image_is_augmented_anew_each_epoch():
    made = batches(2, augmentation=Augmentation.of("light"), shuffle=False)
    first, second = (next(made.epoch(epoch)).images for epoch in (0, 1))
    assert not torch.equal(first, second)


def test_an_image_is_augmented_anew_each_batch():
    made = Batches(
        frames(1) * 4,
        np.zeros(4),
        np.arange(4),
        preprocessing=SMALL,
        batch_size=2,
        augmentation=Augmentation.of("light"),
        seed=0,
        task=Task.of("ab"),
    )
    first, second = made.epoch(0)
    assert not torch.equal(first.images, second.images)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_batches_made_ahead_equal_those_made_on_demand_to_the_bit(workers):
    assert same(batches(30).epoch(3), batches(30, workers=workers).epoch(3))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_changes_no_bit(threads):
    made = Batches(
        frames(4, side=128),  # large enough for torch to share the work out
        np.arange(4),
        np.arange(4),
        preprocessing=Preprocessing(size=120),
        batch_size=4,
        augmentation=LIGHT,
        seed=0,
        task=Task.of("abcd"),
    )
    before = torch.get_num_threads()
    expected = list(made.epoch(0))
    torch.set_num_threads(threads)
    try:
        assert same(expected, made.epoch(0))
    finally:
        torch.set_num_threads(before)


def test_an_epoch_taken_up_in_the_middle_gives_the_same_rest():
    made = batches(30)
    assert same(list(made.epoch(2))[4:], made.epoch(2, start=4))


def background():
    return [thread for thread in threading.enumerate() if thread.name.startswith("images")]


def test_closing_an_epoch_early_ends_its_thread():
    epoch = batches(40, workers=1).epoch(0)
    next(epoch)
    before = len(background())
    epoch.close()
    assert (before, len(background())) == (1, 0)


def test_leaving_a_loop_early_ends_the_thread():
    for _ in batches(40, workers=1).epoch(0):
        break
    assert len(background()) == 0


def test_an_error_in_the_background_reaches_the_loop_and_ends_the_thread():
    class Broken:
        def __getitem__(self, position):
            raise DecodeError(f"position {position} cannot be read")

    made = Batches(
        Broken(),
        np.zeros(9),
        np.arange(9),
        preprocessing=SMALL,
        batch_size=4,
        augmentation=LIGHT,
        seed=0,
        task=Task.of("ab"),
        workers=1,
    )
    with pytest.raises(DecodeError, match=r"position \d cannot be read"):
        list(made.epoch(0))
    assert len(background()) == 0


def test_mixup_blends_images_and_targets_alike():
    black, white = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)
    made = Batches(
        [black, white] * 16,
        np.array([0, 1] * 16),
        np.arange(32),
        preprocessing=Preprocessing(size=8, crop_pct=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
        batch_size=32,
        augmentation=Augmentation(mixup=1.0),
        seed=0,
        task=Task.of("ab"),
    )
    batch = next(made.epoch(0))
    assert torch.equal(batch.targets, batch.images[:, 0, 3, 3])
    assert torch.equal(batch.labels, batch.targets.round().long())
    assert bool(((batch.targets > 0) & (batch.targets < 1)).any())


def test_images_come_in_the_type_asked_for():
    batch = next(batches(4, dtype=torch.bfloat16).epoch(0))
    assert (torch.bfloat16, torch.float32) == (batch.images.dtype, batch.targets.dtype)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"batch_size": 0}, "batch size 0 is out of range: use 1 or more"),
        ({"workers": -1}, "workers -1 is out of range: use 0 or more"),
    ],
)
def test_settings_out_of_range_are_refused(setting, says):
    with pytest.raises(ConfigError, match=says):
        batches(4, **setting)


def evaluated(positions, *, batch_size=4, workers=0):
    return list(
        eval_batches(
            frames(9),
            np.array(positions, np.int64),
            preprocessing=SMALL,
            batch_size=batch_size,
            workers=workers,
        )
    )


def test_evaluation_pads_its_last_batch_with_the_last_image():
    made = evaluated([0, 1, 2, 3, 4, 8])
    assert [count for _, count in made] == [4, 2]
    images = made[1][0]
    assert tuple(images.shape) == (4, 3, 8, 8)
    assert torch.equal(images[1:2].expand(3, -1, -1, -1), images[1:])


def test_evaluation_of_fewer_images_than_a_batch_keeps_the_shape():
    images, count = evaluated([5])[0]
    assert (tuple(images.shape), count) == ((4, 3, 8, 8), 1)


def test_evaluation_of_no_image_yields_nothing():
    assert evaluated([]) == []


def test_evaluation_keeps_the_order_of_the_positions():
    images, _ = evaluated([8, 2], batch_size=2)[0]
    expected = normalize(center_crop([frames(9)[8], frames(9)[2]], 8), SMALL)
    assert torch.equal(expected, images)


@pytest.mark.parametrize(("workers", "ahead"), [(1, 2), (2, 4), (8, 10)])
def test_few_batches_more_than_there_are_threads_are_held_at_once(workers, ahead):
    class Counted(list):
        def __getitem__(self, at):
            taken.append(at)
            return super().__getitem__(at)

    taken = []
    frames = Counted([np.zeros((40, 40, 3), np.uint8)] * 40)
    batches = eval_batches(frames, np.arange(40), preprocessing=Preprocessing(size=32), batch_size=1, workers=workers)
    next(batches)
    until = time.monotonic() + 10
    while len(taken) < ahead + 1 and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.1)  # in which more would come
    assert ahead + 1 == len(taken)
    batches.close()


def test_evaluation_ahead_equals_evaluation_on_demand():
    ahead, on_demand = evaluated(range(9), workers=2), evaluated(range(9))
    assert all(torch.equal(a, b) and n == m for (a, n), (b, m) in zip(ahead, on_demand, strict=True))


def test_training_without_augmentation_sees_evaluations_pixels():
    trained = next(batches(4, augmentation=Augmentation(), shuffle=False).epoch(0)).images
    evaluated_images, _ = next(eval_batches(frames(4), np.arange(4), preprocessing=SMALL, batch_size=4))
    assert torch.equal(evaluated_images, trained)


def test_a_photo_given_to_predict_has_the_pixels_that_evaluation_sees(tmp_path):
    preprocessing = Preprocessing(size=28, crop_pct=0.875)
    file = tmp_path / "photo.jpg"
    Image.fromarray(frames(1, side=90)[0]).save(file)
    cached, given = (load_image(source, preprocessing.decoding) for source in (file, file.read_bytes()))
    settings = {"preprocessing": preprocessing, "batch_size": 2}
    in_evaluation, _ = next(eval_batches([frames(1, side=40)[0], cached], np.array([0, 1]), **settings))
    in_prediction, _ = next(eval_batches([given], np.array([0]), **settings))
    assert torch.equal(in_evaluation[1], in_prediction[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_on_a_gpu_are_nearly_those_on_the_processor(workers):
    here, there = batches(21), batches(21, device="cuda", workers=workers)
    for plain, moved in zip(here.epoch(1), there.epoch(1), strict=True):
        assert moved.images.is_contiguous(memory_format=torch.channels_last)
        for one, other in zip(tensors(plain), tensors(moved), strict=True):
            assert torch.allclose(one.double(), other.cpu().double(), atol=1e-4)


def mirrored(images, generator):
    chosen = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(chosen[:, None, None, None], images.flip(-1), images)


def test_a_custom_augmentation_that_changes_nothing_gives_the_center_crops():
    plain = list(batches(9, augmentation=Augmentation()).epoch(1))
    assert same(plain, list(batches(9, augmentation=Augmentation(), augment=lambda images, _: images).epoch(1)))


def test_a_custom_augmentation_gets_pixels_from_0_to_1_before_they_are_normalized():
    seen = []

    def watched(images, generator):
        seen.append(images.clone())
        return images * 0

    batch = next(batches(4, augment=watched).epoch(0))
    assert ((4, 3, 8, 8), torch.float32) == (tuple(seen[0].shape), seen[0].dtype)
    assert 0 <= float(seen[0].min()) < 0.1
    assert 0.9 < float(seen[0].max()) <= 1
    black = torch.zeros(1, 3, 1, 1, dtype=torch.uint8)
    assert torch.equal(normalize(black, SMALL).expand_as(batch.images), batch.images)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_a_custom_augmentation_draws_by_seed_epoch_and_batch_alone():
    whole = list(batches(12, augment=mirrored).epoch(2))
    assert same(whole[1:], list(batches(12, augment=mirrored, workers=2).epoch(2, start=1)))
    assert not same(whole, list(batches(12, augment=mirrored, seed=8, shuffle=False).epoch(2)))


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (lambda images, generator: images[:, :, 1:], r"torch.float32 \(4, 3, 7, 8\) on cpu: return .* \(4, 3, 8, 8\)"),
        (lambda images, generator: (images * 255).byte(), "returned torch.uint8"),
        (lambda images, generator: images.numpy(), "returned a ndarray: return the images, a tensor"),
    ],
)
def test_a_custom_augmentation_that_gives_other_images_is_one_line(augment, message):
    with pytest.raises(ConfigError, match=message):
        next(batches(8, augment=augment).epoch(0))
