"""Folders that are given as weights: a run of upcycle, or what timm and Hugging Face keep of one model."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from upcycle import manifest
from upcycle.errors import ConfigError, WeightsError
from upcycle.model.foreign import folder_refusal
from upcycle.rundir import RunDir

MAX_JSON = 2**20
_FILES = ("model.safetensors", "pytorch_model.bin")
_INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, as Hugging Face's descriptions have them."""


@dataclass(frozen=True)
class Found:
    """A file of weights in a folder, and what the folder says of it in timm's words."""

    file: Path
    kind: str
    description: dict[str, Any] = field(default_factory=dict)
    arch: str = ""


def find(folder: Path) -> Found:
    """The weights in a folder; WeightsError, or RunError for a damaged run, says what it is and what to give."""
    run = RunDir(folder)
    if run.is_run():
        return _of_run(run)
    file = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    if file is not None and (folder / "config.json").is_file():
        return _of_model(folder, file)
    runs = sorted(path for path in folder.iterdir() if RunDir(path).is_run())
    if runs:
        raise WeightsError(f"weights {folder} cannot be used: it is a folder of runs; give one, such as {runs[0]}")
    raise WeightsError(f"weights {folder} cannot be used: it {folder_refusal(folder)}")


def _of_run(run: RunDir) -> Found:
    """The best weights of a finished run that is as it was written."""
    manifest.check(run)
    folds = sorted(run.root.glob("fold-*"))
    if folds:
        raise WeightsError(
            f"weights {run.root} cannot be used: the run is a cross-validation; give one fold, such as {folds[0]}"
        )
    if run.status()["state"] != "finished" or not run.best.is_file():
        finish = shlex.join(["upcycle", "train", "--out", str(run.root), "--resume"])
        raise WeightsError(f"weights {run.root} cannot be used: the run is not finished; finish it first: {finish}")
    return Found(run.best, "run")


def _of_model(folder: Path, file: Path) -> Found:
    """What Hugging Face's hub has of one model: `config.json` of timm or transformers, and the weights."""
    config = _read(folder / "config.json")
    if "pretrained_cfg" in config or "architecture" in config:
        return Found(file, "folder", config, str(config.get("architecture", "")))
    if config.get("downsample_in_bottleneck") is True:
        raise WeightsError(
            f"weights {folder} cannot be used: its config.json has downsample_in_bottleneck, so their network takes "
            "its strides in other layers than timm's; give timm's weights of it"
        )
    described = folder / "preprocessor_config.json"
    return Found(file, "folder", _in_timms_words(_read(described)) if described.is_file() else {})


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_JSON:
            raise ValueError("it is larger than such a file is")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"input description {path} cannot be read: {error}") from None
    return content if isinstance(content, dict) else {}


def _in_timms_words(processor: Mapping[str, Any]) -> dict[str, Any]:
    """What transformers' image processor does, in timm's words; it may squash where a crop is not named."""
    told: dict[str, Any] = {}
    crop, size = processor.get("crop_size"), processor.get("size")
    side, resized = _side(crop), _side(size)
    if processor.get("do_center_crop") and side and resized:
        told |= {"input_size": [3, *side], "crop_pct": min(1.0, side[0] / min(resized))}
    elif resized:
        told |= {"input_size": [3, *resized]}
        if isinstance(processor.get("crop_pct"), int | float):
            told["crop_pct"] = processor["crop_pct"]
    for ours, theirs in (("mean", "image_mean"), ("std", "image_std")):
        if isinstance(processor.get(theirs), list):
            told[ours] = processor[theirs]
    if processor.get("resample") in _INTERPOLATIONS:
        told["interpolation"] = _INTERPOLATIONS[processor["resample"]]
    return told


def _side(size: Any) -> tuple[int, int] | None:
    """Height and width out of 224, {"shortest_edge": 224} or {"height": 224, "width": 224}."""
    if isinstance(size, Mapping):
        edge = size.get("shortest_edge")
        height, width = (edge, edge) if edge else (size.get("height"), size.get("width"))
    else:
        height = width = size
    if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
        return height, width
    return None
