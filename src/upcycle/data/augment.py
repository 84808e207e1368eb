"""Crops, flips, color and mixup: parameters drawn as whole-batch tensors from one generator.

Pixels stay uint8 until they are on the device; from there on everything is whole-batch code.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from upcycle.data.preprocessing import Preprocessing
from upcycle.errors import ConfigError

_Frame = npt.NDArray[np.uint8]
Augment = Callable[[Tensor, torch.Generator], Tensor]
"""A custom augmentation: float32 images [B, 3, S, S] in 0..1 and a generator on the CPU, to such images."""
_ATTEMPTS = 10
_LUMA = (0.299, 0.587, 0.114)  # luma weights of ITU-R BT.601


class Frames(Protocol):
    """Decoded images by position: uint8 [H, W, 3], short side `Preprocessing.resize_to`."""

    def __getitem__(self, position: int, /) -> _Frame: ...


@dataclass(frozen=True)
class Augmentation:
    """How training images vary; the defaults change nothing and give evaluation's center crop.

    `crop_scale`: the smallest part of the frame's area that a random resized crop (Szegedy et al.,
    2015, arXiv:1409.4842) keeps, in (0, 1], 1 for off; `crop_ratio`: smallest and largest width to
    height of that crop, and where they are equal `crop_scale` is a part of the largest such crop;
    `flip`: mirror half of the images; `turn`: turn each by none to three quarters;
    `color`: brightness and contrast vary by a factor of 1 - color to 1 + color, in [0, 1); `mixup`: alpha
    of the Beta distribution of mixup (Zhang et al., 2018, arXiv:1710.09412), 0 for off.
    """

    crop_scale: float = 1.0
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = False
    turn: bool = False
    color: float = 0.0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.crop_scale <= 1:
            raise ConfigError(f"crop_scale {self.crop_scale} is out of range: use more than 0, at most 1")
        low, high = self.crop_ratio
        if not 0 < low <= high < math.inf:
            raise ConfigError(f"crop_ratio {self.crop_ratio} is out of range: use 0 < low <= high")
        if not 0 <= self.color < 1:
            raise ConfigError(f"color {self.color} is out of range: use 0 or more, less than 1")
        if not 0 <= self.mixup < math.inf:
            raise ConfigError(f"mixup {self.mixup} is out of range: use 0 or more")

    @classmethod
    def of(cls, kind: str, *, mixup: float = 0.0) -> "Augmentation":
        """The settings that `kind` names; ConfigError for another name.

        "none" and "custom": none built in; "light", which "auto" is until an orientation is known to mean nothing;
        "square": all eight views of the square, and crops that keep the shape of what they show.
        """
        if kind in ("none", "custom"):
            return cls(mixup=mixup)
        if kind in ("auto", "light"):
            return cls(crop_scale=0.5, flip=True, color=0.1, mixup=mixup)
        if kind == "square":
            return cls(crop_scale=0.5, crop_ratio=(1.0, 1.0), flip=True, turn=True, color=0.1, mixup=mixup)
        raise ConfigError(f"unknown augmentation {kind!r}: use auto, light, square or none")


def center_boxes(shapes: Tensor, size: int) -> Tensor:
    """Evaluation's crop of frames with `shapes` (int64 [B, 2] of height, width): int64 [B, 4].

    A box is top, left, height, width. Frames smaller than `size` are a ValueError.
    """
    if int(shapes.min()) < size:
        raise ValueError(f"a frame of {int(shapes.min())} pixels is smaller than the crop of {size}")
    corners = torch.round((shapes - size) / 2).long()
    return torch.cat([corners, torch.full_like(shapes, size)], dim=1)


def random_boxes(shapes: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Random resized crops of frames with `shapes` (int64 [B, 2] of height, width): int64 [B, 4].

    A box is top, left, height, width, within the frame. Area and the logarithm of the ratio are
    uniform; the first of ten draws that fits is taken, else the largest center box of a ratio allowed.
    With a single ratio the area is a part of the largest box of that ratio, so that every draw fits.
    """
    low, high = (math.log(ratio) for ratio in augmentation.crop_ratio)
    largest = _largest(shapes, augmentation.crop_ratio)
    whole = largest if low == high else shapes  # in a long frame no square of half its area fits
    draws = torch.rand(2, len(shapes), _ATTEMPTS, generator=generator, dtype=torch.float64)
    places = torch.rand(len(shapes), 2, generator=generator, dtype=torch.float64)
    area = (augmentation.crop_scale + (1 - augmentation.crop_scale) * draws[0]) * whole.prod(1, keepdim=True)
    ratio = torch.exp(low + (high - low) * draws[1])
    tried = torch.stack([(area / ratio).sqrt(), (area * ratio).sqrt()], dim=2).round().long().clamp(min=1)
    fits = (tried <= shapes[:, None]).all(2)
    first = fits.long().argmax(1)  # the first of equal values
    sizes = tried[torch.arange(len(shapes)), first]
    fits_any = fits.any(1, keepdim=True)
    sizes = torch.where(fits_any, sizes, largest)
    places = torch.where(fits_any, places, 0.5)
    corners = (places * (shapes - sizes + 1)).floor().long()
    return torch.cat([corners, sizes], dim=1)


def _largest(shapes: Tensor, crop_ratio: tuple[float, float]) -> Tensor:
    """The largest height and width in each frame whose ratio is allowed."""
    height, width = shapes.double().unbind(1)
    low, high = crop_ratio
    sizes = torch.stack([torch.minimum(height, width / low), torch.minimum(width, height * high)], dim=1)
    return sizes.round().long().clamp(min=1)


def crop(frames: list[_Frame], boxes: Tensor, size: int) -> Tensor:
    """Cut `boxes` out of `frames` and resize them: uint8 [B, 3, size, size], channels_last.

    Bilinear and antialiased; a box that has the size already is copied, its pixels unchanged.
    """
    out = np.empty((len(frames), size, size, 3), np.uint8)
    for row, frame, (top, left, height, width) in zip(out, frames, boxes.tolist(), strict=True):
        cut = frame[top : top + height, left : left + width]
        row[:] = cut if height == width == size else _resized(cut, size)
    return torch.from_numpy(out).permute(0, 3, 1, 2)


def _resized(cut: _Frame, size: int) -> _Frame:
    # a copy: frames are read-only, which torch does not know, and its fast path wants whole rows
    pixels = torch.from_numpy(np.array(cut)).permute(2, 0, 1)[None]
    resized = interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)
    array: _Frame = resized[0].permute(1, 2, 0).numpy()
    return array


def center_crop(frames: list[_Frame], size: int) -> Tensor:
    """Evaluation's pixels: uint8 [B, 3, size, size], channels_last, never resized."""
    shapes = torch.tensor([frame.shape[:2] for frame in frames])
    return crop(frames, center_boxes(shapes, size), size)


def random_crop(
    frames: list[_Frame],
    size: int,
    *,
    augmentation: Augmentation,
    generator: torch.Generator,
    shapes: Tensor | None = None,
    rows: slice = slice(None),
) -> Tensor:
    """Training's pixels before color: uint8 [B, 3, size, size], channels_last, cropped, mirrored and turned.

    Where `frames` are some `rows` of a batch alone, `shapes` are those of all of it: each gets what it would get there.
    """
    if shapes is None:
        shapes = torch.tensor([frame.shape[:2] for frame in frames])
    fixed = augmentation.crop_scale == 1
    boxes = center_boxes(shapes, size) if fixed else random_boxes(shapes, augmentation, generator)
    images = crop(frames, boxes[rows], size)
    if augmentation.flip:
        chosen = torch.rand(len(shapes), generator=generator)[rows] < 0.5
        for row in chosen.nonzero()[:, 0].tolist():  # 15 times as fast as a mask on the whole batch
            images[row] = images[row].flip(2)
    if augmentation.turn:
        quarters = torch.randint(4, (len(shapes),), generator=generator)[rows]
        for row, quarter in enumerate(quarters.tolist()):
            images[row] = images[row].rot90(quarter, (1, 2))
    return images


def on_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """`tensor` on `device`. To a CUDA GPU it goes from page-locked memory, so that nobody waits for what is queued."""
    if torch.device(device).type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def color(
    images: Tensor, *, strength: float, generator: torch.Generator, whole: int = 0, rows: slice = slice(None)
) -> Tensor:
    """Vary brightness, then contrast about each image's gray mean, in place.

    `images`: float32 [B, 3, H, W] of whole numbers 0..255, or the `rows` of a batch of `whole`; the result is clamped
    to 0..255.
    """
    factors = torch.empty(2, whole or len(images), dtype=torch.float64)
    brightness, contrast = factors.uniform_(1 - strength, 1 + strength, generator=generator)[:, rows]
    means = _gray_means(images)
    scale, flat = (on_device(one, means.device) for one in (brightness * contrast, (1 - contrast) * brightness))
    for factor, change in ((scale, images.mul_), (flat * means, images.add_)):
        change(factor.float().view(-1, 1, 1, 1).to(images.device))
    return images.clamp_(0, 255)


def _gray_means(images: Tensor) -> Tensor:
    """Float64 [B], on the images' device unless that has no such numbers."""
    # sums of whole numbers below 2**24: exact, so the same on every device and number of threads;
    # down the columns first, which reads channels_last memory in order
    columns = images.sum(2)
    sums = (columns.cpu() if columns.device.type == "mps" else columns).double().sum(2)
    weights = on_device(torch.tensor(_LUMA, dtype=torch.float64), sums.device)
    return (sums * weights).sum(1) / (images.shape[2] * images.shape[3])


def normalize(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Scale 0..255 to 0..1 and normalize by the channels' mean and std: float32, the layout kept.

    The order of operations is torchvision's (to 0..1, minus mean, divided by std), to the bit.
    Takes uint8, or float32 which it overwrites.
    """
    mean, std = _mean_and_std(preprocessing, images.device)
    return images.float().div_(255).sub_(mean).div_(std)


def augmented(images: Tensor, augment: Augment, generator: torch.Generator, preprocessing: Preprocessing) -> Tensor:
    """Images, uint8, by a custom augmentation and then normalized; ConfigError where it gives none like them."""
    plain = images.float().div_(255)
    shape = plain.shape
    made = augment(plain, generator)
    if not isinstance(made, Tensor):
        raise ConfigError(f"the augmentation returned a {type(made).__name__}: return the images, a tensor")
    if made.shape != shape or not made.is_floating_point() or made.device != images.device:
        found, wanted = (f"{tuple(size)}" for size in (made.shape, shape))
        raise ConfigError(
            f"the augmentation returned {made.dtype} {found} on {made.device}: return floating point numbers in 0..1, "
            f"{wanted}, on {images.device}"
        )
    mean, std = _mean_and_std(preprocessing, images.device)
    # a copy: the function may keep what it returned
    return made.detach().float().sub(mean).div_(std).contiguous(memory_format=torch.channels_last)


def _mean_and_std(preprocessing: Preprocessing, device: torch.device) -> Tensor:
    return on_device(torch.tensor([preprocessing.mean, preprocessing.std]), device).view(2, 1, 3, 1, 1)


def mixup(images: Tensor, targets: Tensor, *, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Blend each image and target with another's of the batch, by its own Beta(alpha, alpha) weight.

    The weight is folded to 0.5..1, so an image's own label stays the largest part of its target.
    Zhang et al., 2018, arXiv:1710.09412.
    """
    from scipy.special import betaincinv

    uniform = torch.rand(len(images), generator=generator, dtype=torch.float64)
    partner = on_device(torch.randperm(len(images), generator=generator), images.device)
    weight = torch.from_numpy(np.asarray(betaincinv(alpha, alpha, uniform.numpy())))
    weight = on_device(torch.maximum(weight, 1 - weight).float(), images.device)
    return _blend(images, partner, weight), _blend(targets, partner, weight)


def _blend(values: Tensor, partner: Tensor, weight: Tensor) -> Tensor:
    return torch.lerp(values[partner], values, weight.view(-1, *[1] * (values.dim() - 1)))
