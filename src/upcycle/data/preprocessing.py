"""The one preprocessing that training, evaluation, prediction and export share."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from upcycle.errors import ConfigError

Interpolation = Literal["bilinear", "bicubic", "nearest", "lanczos"]
LEAST_CROP = 0.1
"""The smallest part of the short side that is cropped: what is decoded around it takes memory."""
INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "lanczos")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


class Decoding(NamedTuple):
    """How images are decoded: pixels of the short side, resampling, white of more than 8 bits (None: the file's)."""

    side: int
    interpolation: Interpolation
    scale: float | None = None


@dataclass(frozen=True)
class Preprocessing:
    """Resize the short side to `resize_to`, crop the middle `size` x `size`, scale to 0..1, normalize.

    `size`: pixels of the square input; `crop_pct`: the fraction of the short side that the crop
    keeps, in 0.1..1; `mean`, `std`: for each of the three channels, on the 0..1 scale.
    `scale`: white in images of more than 8 bits, None for what their files say; `source`: where the numbers were read.
    """

    size: int = 224
    crop_pct: float = 0.875
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    source: str = "ImageNet's usual numbers"
    scale: float | None = None

    def __post_init__(self) -> None:
        if type(self.size) is not int:
            raise ConfigError(f"image size {self.size!r} is no whole number of pixels")
        if not _is_number(self.crop_pct):
            raise ConfigError(f"crop_pct {self.crop_pct!r} is not a number")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if not isinstance(values, tuple) or len(values) != 3 or not all(map(_is_number, values)):
                raise ConfigError(f"{name} {values!r} must be three numbers, one a channel")
        if not 8 <= self.size <= 2048:
            raise ConfigError(f"image size {self.size} is out of range: use 8 to 2048 pixels")
        if not LEAST_CROP <= self.crop_pct <= 1:
            raise ConfigError(f"crop_pct {self.crop_pct} is out of range: use {LEAST_CROP} to 1")
        if self.scale is not None and not (_is_number(self.scale) and self.scale > 0):
            raise ConfigError(f"scale {self.scale!r} must be a positive number: the value that is white")
        if self.interpolation not in INTERPOLATIONS:
            raise ConfigError(f"interpolation {self.interpolation!r} is none of {', '.join(INTERPOLATIONS)}")
        if min(self.std) <= 0:
            raise ConfigError(f"std {self.std} must be positive")

    @property
    def resize_to(self) -> int:
        """Short side in pixels after resizing, before the crop (torchvision's rule, rounded)."""
        return max(self.size, round(self.size / self.crop_pct))

    @property
    def decoding(self) -> Decoding:
        """How frames are decoded before the crop."""
        return Decoding(self.resize_to, self.interpolation, self.scale)

    def describe(self) -> str:
        """The numbers in one line."""
        mean = " ".join(f"{value:.3f}" for value in self.mean)
        std = " ".join(f"{value:.3f}" for value in self.std)
        crop = f"short side {self.resize_to} px, {self.interpolation}, middle {self.size} px"
        crop += f", white {self.scale:g}" if self.scale is not None else ""
        return f"input: {crop}, mean {mean}, std {std} (from {self.source})"

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """The inverse of `to_dict`; ConfigError for unknown keys or values out of range."""
        unknown = set(values) - set(cls.__dataclass_fields__)
        if unknown:
            raise ConfigError(f"unknown preprocessing key {sorted(unknown)[0]!r}")
        plain: Any = {key: tuple(item) if isinstance(item, list) else item for key, item in values.items()}
        return cls(**plain)
