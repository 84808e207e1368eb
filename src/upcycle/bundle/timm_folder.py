"""A model as timm and the Hugging Face Hub write one: config.json and model.safetensors."""

import contextlib
import io
import tempfile
from pathlib import Path

import timm
import torch
from timm.models import save_for_hf
from torch import Tensor, nn

from upcycle.bundle.description import TIMM
from upcycle.errors import ExportError
from upcycle.model.network import ModelSpec, Network
from upcycle.model.sources import SIMPLE_CNN, has_fixed_size

_TOLERANCE = 1e-4
"""Of logits that two builds of one network give."""


def timm_files(network: Network, spec: ModelSpec) -> dict[str, bytes]:
    """The content of config.json and model.safetensors; ExportError for a head that timm's own network does not have.

    One logit per class: of two classes the first one's is 0. The temperature is in the head, so that a softmax gives
    the run's probabilities of one view.
    """
    if spec.arch == SIMPLE_CNN:
        raise ExportError(f"{SIMPLE_CNN} is no network of timm's: export with --format onnx")
    if spec.stages > 1:
        raise ExportError(
            f"the head reads the last {spec.stages} stages, which timm's own does not: train with --probe-layers last, "
            "or export with --format onnx"
        )
    if not network.has_linear_head:
        raise ExportError(f"{spec.arch} has no linear head: export with --format onnx")
    size = spec.preprocessing.size
    fixed = size if has_fixed_size(spec.arch) else None  # None is left out by timm
    model = timm.create_model(spec.arch, pretrained=False, num_classes=len(spec.classes), img_size=fixed)
    model.load_state_dict(_wide(network, model, spec))
    model.eval()
    given = {
        "input_size": (3, size, size),
        "interpolation": spec.preprocessing.interpolation,
        "crop_pct": spec.preprocessing.crop_pct,
        "crop_mode": "center",
        "mean": spec.preprocessing.mean,
        "std": spec.preprocessing.std,
    }
    config = {"label_names": list(spec.classes), "pretrained_cfg": given}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        save_for_hf(model, folder, model_config=config, safe_serialization=True)
        _check(network, spec, folder)
        return {name: Path(folder, name).read_bytes() for name in TIMM}


def _wide(network: Network, model: nn.Module, spec: ModelSpec) -> dict[str, Tensor]:
    """The weights with one row in the head for each class."""
    state = dict(network.state_dict())
    head = model.get_classifier()  # type: ignore[operator]
    name = next(name for name, module in model.named_modules() if module is head)
    for part in ("weight", "bias"):
        rows = state[f"{name}.{part}"] / spec.temperature
        state[f"{name}.{part}"] = torch.cat([torch.zeros_like(rows), rows]) if spec.task.outputs == 1 else rows
    return state


def _check(network: Network, spec: ModelSpec, folder: str) -> None:
    """ExportError unless timm builds the same network from the folder."""
    copy = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    size = spec.preprocessing.size
    images = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    views, network.views = network.views, "none"
    try:
        with torch.inference_mode():
            expected = torch.from_numpy(spec.task.to_columns(network(images).numpy()))
            gap = float((copy(images) - expected).abs().max() / expected.abs().max().clamp(min=1))
    finally:
        network.views = views
    if not gap <= _TOLERANCE:
        raise ExportError(f"timm's {spec.arch} gives other logits from the exported files (by {gap:.2g})")
