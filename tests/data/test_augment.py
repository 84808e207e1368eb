import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import functional as vision

from upcycle.data.augment import (
    Augmentation,
    center_boxes,
    center_crop,
    color,
    crop,
    mixup,
    normalize,
    on_device,
    random_boxes,
    random_crop,
)
from upcycle.data.preprocessing import Preprocessing
from upcycle.errors import ConfigError


def frame(height, width, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels.flags.writeable = False  # as the cache gives them
    return pixels


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_what_is_there_already_is_not_copied():
    images = torch.zeros(2, 3, 4, 4)
    assert on_device(images, "cpu") is images


def test_a_copy_to_a_gpu_leaves_from_locked_memory_and_is_not_waited_for(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: asked.append("locked") or self)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device, **how: asked.append((str(device), how)) or self)
    on_device(torch.zeros(1), torch.device("cuda", 0))
    assert ["locked", ("cuda:0", {"non_blocking": True})] == asked


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
def test_on_a_gpu_color_is_nearly_what_it_is_on_the_processor():
    images = torch.stack([torch.from_numpy(frame(16, 16, seed).copy()).permute(2, 0, 1) for seed in range(4)])
    images = images.float().contiguous(memory_format=torch.channels_last)
    there = on_device(images, "cuda")
    assert there.is_contiguous(memory_format=torch.channels_last)
    varied = [color(some.clone(), strength=0.3, generator=generator()) for some in (images, there)]
    assert torch.allclose(varied[0], varied[1].cpu(), atol=1e-3)


def test_light_augmentation_crops_mirrors_and_varies_color():
    assert Augmentation(crop_scale=0.5, crop_ratio=(3 / 4, 4 / 3), flip=True, color=0.1, mixup=0.2) == Augmentation.of(
        "light", mixup=0.2
    )


def test_no_augmentation_is_the_default():
    assert Augmentation() == Augmentation.of("none")


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"crop_scale": 0.0}, "crop_scale 0.0 is out of range: use more than 0, at most 1"),
        ({"crop_scale": math.nan}, "crop_scale nan is out of range"),
        ({"crop_ratio": (2.0, 1.0)}, r"crop_ratio \(2.0, 1.0\) is out of range"),
        ({"color": 1.0}, "color 1.0 is out of range: use 0 or more, less than 1"),
        ({"mixup": -0.1}, "mixup -0.1 is out of range: use 0 or more"),
        ({"mixup": math.nan}, "mixup nan is out of range"),
    ],
)
def test_settings_out_of_range_are_refused(setting, says):
    with pytest.raises(ConfigError, match=says):
        Augmentation(**setting)


def test_an_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="unknown augmentation 'heavy': use auto, light, square or none"):
        Augmentation.of("heavy")


def test_the_center_box_rounds_halves_to_even_as_torchvision_does():
    boxes = center_boxes(torch.tensor([[8, 11], [9, 13], [8, 8]]), 8)
    assert boxes.tolist() == [[0, 2, 8, 8], [0, 2, 8, 8], [0, 0, 8, 8]]


def test_a_frame_smaller_than_the_crop_is_an_error():
    with pytest.raises(ValueError, match="a frame of 7 pixels is smaller than the crop of 8"):
        center_boxes(torch.tensor([[7, 9]]), 8)


@given(
    shapes=st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400)), min_size=1, max_size=8),
    scale=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**63 - 1),
)
@settings(deadline=None, max_examples=200)
def test_random_boxes_lie_within_their_frames(shapes, scale, seed):
    shapes = torch.tensor(shapes)
    top, left, height, width = random_boxes(shapes, Augmentation(crop_scale=scale), generator(seed)).unbind(1)
    assert bool((top >= 0).all() and (left >= 0).all() and (height >= 1).all() and (width >= 1).all())
    assert bool((top + height <= shapes[:, 0]).all() and (left + width <= shapes[:, 1]).all())


def test_random_boxes_have_the_areas_and_ratios_asked_for_and_reach_every_border():
    shapes = torch.tensor([[256, 340]]).expand(4000, 2)
    top, left, height, width = random_boxes(shapes, Augmentation(crop_scale=0.3), generator()).unbind(1)
    area, ratio = height * width / (256 * 340), width / height
    assert 0.295 < area.min() < 0.31
    assert 0.95 < area.max() <= 1
    assert 0.74 < ratio.min() < 0.77
    assert 1.30 < ratio.max() < 1.35
    assert (int(top.min()), int(left.min())) == (0, 0)
    lower, right = (top + height)[height < 256], (left + width)[width < 340]
    assert (int(lower.max()), int(right.max())) == (256, 340)


def test_the_area_and_the_ratio_of_a_random_box_are_independent():
    shapes = torch.tensor([[1000, 1000]]).expand(4000, 2)
    _, _, height, width = random_boxes(shapes, Augmentation(crop_scale=0.1), generator()).unbind(1)
    sure_to_fit = height * width < 500_000
    pairs = torch.stack([height * width, width / height])[:, sure_to_fit]
    assert abs(float(torch.corrcoef(pairs)[0, 1])) < 0.1


def test_a_frame_too_long_for_any_draw_gets_the_largest_center_box_allowed():
    boxes = random_boxes(torch.tensor([[300, 1200], [1200, 300]]), Augmentation(crop_scale=0.99), generator())
    assert boxes.tolist() == [[0, 400, 300, 400], [400, 0, 400, 300]]


@pytest.mark.parametrize("shape", [(300, 300), (300, 600), (1200, 300)])
def test_squares_vary_in_size_and_place_in_a_frame_of_any_length(shape):
    boxes = random_boxes(torch.tensor([shape]).expand(2000, 2), Augmentation.of("square"), generator())
    top, left, height, width = boxes.unbind(1)
    area = height * width / 300**2
    assert torch.equal(height, width)
    assert 0.495 < area.min() < 0.51
    assert 0.99 < area.max() <= 1
    assert abs(float(area.mean()) - 0.75) < 0.02
    assert (0, 0) == (int(top.min()), int(left.min()))
    assert shape == (int((top + height).max()), int((left + width).max()))


def test_boxes_of_several_ratios_are_those_of_earlier_versions():
    boxes = random_boxes(torch.tensor([[300, 600], [400, 300]]), Augmentation.of("light"), generator())
    assert [[0, 100, 300, 400], [108, 8, 256, 276]] == boxes.tolist()


def test_a_box_of_the_right_size_keeps_its_pixels():
    source = frame(40, 50)
    images = crop([source], torch.tensor([[3, 5, 32, 32]]), 32)
    assert np.array_equal(source[3:35, 5:37], images[0].permute(1, 2, 0).numpy())


def test_other_boxes_are_resized_as_torchvision_does_antialiased():
    source = frame(256, 300)
    images = crop([source], torch.tensor([[10, 20, 200, 150]]), 64)
    pixels = torch.from_numpy(source.copy()).permute(2, 0, 1)
    expected = vision.resized_crop(pixels, 10, 20, 200, 150, [64, 64], antialias=True)
    # two roundings to whole numbers, of columns and of rows, may each differ by one
    assert int((expected.int() - images[0].int()).abs().max()) <= 1


def test_crops_are_bytes_in_channels_last_memory():
    images = center_crop([frame(40, 50), frame(60, 40)], 32)
    assert (torch.uint8, (2, 3, 32, 32)) == (images.dtype, tuple(images.shape))
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_the_center_crop_normalized_equals_torchvisions_to_the_bit():
    preprocessing = Preprocessing(size=32)
    source = frame(37, 54)
    images = normalize(center_crop([source], 32), preprocessing)
    expected = vision.to_tensor(vision.center_crop(Image.fromarray(source), [32, 32]))
    expected = vision.normalize(expected, preprocessing.mean, preprocessing.std)
    assert torch.equal(expected, images[0])


def test_normalizing_keeps_channels_last_memory():
    images = normalize(center_crop([frame(40, 50)] * 2, 32), Preprocessing(size=32))
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_without_a_random_crop_a_mirrored_image_is_the_center_crop_reversed():
    source = frame(32, 40)
    plain = center_crop([source], 32)[0]
    images = random_crop([source] * 64, 32, augmentation=Augmentation(flip=True), generator=generator())
    mirrored = [torch.equal(image, plain.flip(2)) for image in images]
    kept = [torch.equal(image, plain) for image in images]
    assert [not flag for flag in mirrored] == kept
    assert 20 <= sum(mirrored) <= 44


def test_random_crops_repeat_with_the_generators_seed_and_differ_without():
    frames = [frame(40, 50, seed) for seed in range(4)]
    light = Augmentation.of("light")
    first, again, other = (random_crop(frames, 32, augmentation=light, generator=generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_brightness_scales_an_even_gray_image_within_its_bounds():
    images = torch.full((500, 3, 4, 4), 100.0)
    values = color(images, strength=0.2, generator=generator())[:, 0, 0, 0]
    assert 80 <= values.min() < 81
    assert 119 < values.max() <= 120


def test_contrast_spreads_an_image_about_its_gray_mean():
    images = torch.tensor([80.0, 120.0]).view(1, 1, 1, 2).repeat(500, 3, 1, 1)
    dark, light = color(images, strength=0.2, generator=generator())[:, 0, 0].unbind(1)
    contrast = (light - dark) / 40 / ((light + dark) / 200)  # less what brightness did
    assert 0.8 <= contrast.min() < 0.81
    assert 1.19 < contrast.max() <= 1.2001


def test_the_gray_mean_weighs_the_channels_by_luma():
    # pure green of 200: a gray mean of 0.587 * 200, to which contrast pulls the two empty channels
    images = torch.zeros(1, 3, 2, 2)
    images[:, 1] = 200.0
    brightness, contrast = torch.empty(2, 1, dtype=torch.float64).uniform_(0.7, 1.3, generator=generator(5))
    changed = color(images, strength=0.3, generator=generator(5))
    expected = max(0.0, float((1 - contrast) * brightness * 117.4))
    assert pytest.approx(expected, abs=1e-4) == float(changed[0, 0, 0, 0])
    assert expected > 1


def test_color_never_leaves_the_range_of_a_byte():
    images = torch.tensor([0.0, 255.0]).view(1, 1, 1, 2).repeat(100, 3, 1, 1)
    changed = color(images, strength=0.5, generator=generator())
    assert (float(changed.min()), float(changed.max())) == (0.0, 255.0)


def test_mixup_blends_targets_by_the_weights_of_the_images():
    targets = torch.arange(100).remainder(2).float()
    images = targets.view(-1, 1, 1, 1).repeat(1, 3, 2, 2)
    mixed, soft = mixup(images, targets, alpha=1.0, generator=generator())
    assert torch.equal(mixed, soft.view(-1, 1, 1, 1).expand_as(mixed))
    assert bool(((soft > 0) & (soft < 1)).any())


def test_mixup_keeps_each_images_own_label_the_largest():
    targets = torch.eye(5).repeat(40, 1)
    _, soft = mixup(torch.zeros(200, 3, 1, 1), targets, alpha=0.4, generator=generator())
    assert bool(((soft * targets).sum(1) >= 0.5).all())
    assert torch.allclose(torch.ones(200), soft.sum(1))


def test_mixup_with_alpha_one_folds_a_uniform_weight():
    targets = torch.eye(4000)
    _, soft = mixup(torch.zeros(4000, 1, 1, 1), targets, alpha=1.0, generator=generator())
    own = soft.diagonal()
    assert pytest.approx(0.75, abs=0.01) == float(own.mean())
    assert pytest.approx(0.25 / math.sqrt(3), abs=0.005) == float(own.std())


def test_square_augmentation_gives_all_eight_views_and_crops_that_keep_their_shape():
    source = frame(32, 32)
    plain = center_crop([source], 32)[0]
    images = random_crop([source] * 200, 32, augmentation=Augmentation(flip=True, turn=True), generator=generator())
    views = [view.rot90(quarter, (1, 2)) for quarter in range(4) for view in (plain, plain.flip(2))]
    seen = [next(at for at, view in enumerate(views) if torch.equal(image, view)) for image in images]
    assert set(range(8)) == set(seen)
    boxes = random_boxes(torch.tensor([[60, 60]] * 50), Augmentation.of("square"), generator())
    assert (boxes[:, 2] == boxes[:, 3]).all()
    assert not Augmentation.of("light").turn
