"""Folders that are given as weights: a run of upcycle, or what timm and Hugging Face keep of one model."""

import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from upcycle import manifest
from upcycle.errors import ConfigError, WeightsError
from upcycle.model.pickled import SAVE, TENSORFLOW, WEIGHTS_NAME
from upcycle.rundir import RunDir

_MAX_JSON = 2**20
FILES = ("model.safetensors", "pytorch_model.bin")
_INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, as Hugging Face's descriptions have them."""


@dataclass(frozen=True)
class FolderWeights:
    """A file of weights in a folder, and what the folder says of it in timm's words."""

    file: Path
    kind: str
    description: Mapping[str, object] = field(default_factory=dict)
    arch: str = ""


def find(folder: Path) -> FolderWeights:
    """The weights in a folder; WeightsError, or RunError for a damaged run, says what it is and what to give."""
    run = RunDir(folder)
    if run.is_run():
        return _of_run(run)
    file = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if file is not None and (folder / "config.json").is_file():
        return _of_model(folder, file)
    runs = sorted(path for path in folder.iterdir() if RunDir(path).is_run())
    if runs:
        raise WeightsError(f"weights {folder} cannot be used: it is a folder of runs; give one, such as {runs[0]}")
    raise WeightsError(f"weights {folder} cannot be used: it {_refusal(folder)}")


def _of_run(run: RunDir) -> FolderWeights:
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
    return FolderWeights(run.best, "run")


def _of_model(folder: Path, file: Path) -> FolderWeights:
    """What Hugging Face's hub has of one model: `config.json` of timm or transformers, and the weights."""
    config = _read(folder / "config.json")
    if "pretrained_cfg" in config or "architecture" in config:
        return FolderWeights(file, "folder", config, str(config.get("architecture", "")))
    if config.get("downsample_in_bottleneck") is True:
        raise WeightsError(
            f"weights {folder} cannot be used: its config.json has downsample_in_bottleneck, so their network takes "
            "its strides in other layers than timm's; give timm's weights of it"
        )
    described = folder / "preprocessor_config.json"
    return FolderWeights(file, "folder", _in_timms_words(_read(described)) if described.is_file() else {})


def _read(path: Path) -> dict[str, object]:
    try:
        if path.stat().st_size > _MAX_JSON:
            raise ValueError("it is larger than such a file is")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"input description {path} cannot be read: {error}") from None
    return content if isinstance(content, dict) else {}


def _in_timms_words(processor: Mapping[str, Any]) -> dict[str, object]:
    """What transformers' image processor does, in timm's words; it may squash where a crop is not named."""
    told: dict[str, object] = {}
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


def _refusal(folder: Path) -> str:
    """What a folder is that holds no weights under a name that is known, and what to give; never ""."""
    names = sorted(path.name for path in folder.iterdir())
    for told, belongs in _FOLDERS:
        if any(belongs(name) for name in names):
            return told
    held = [name for name in names if WEIGHTS_NAME.fullmatch(name.lower())]
    if held:
        more = f" and {len(held) - 1} more" if len(held) > 1 else ""
        return f"is a folder with {held[0]}{more}; give the file of weights itself"
    return "is a folder without weights; give a file, a run of upcycle, or a folder with model.safetensors"


_FOLDERS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    (
        "is a model in several files, with an index; join them where they were made: save_pretrained with "
        'max_shard_size="100GB" writes one',
        lambda name: name.endswith((".safetensors.index.json", ".bin.index.json")),
    ),
    (f"is a TensorFlow SavedModel, {TENSORFLOW}", lambda name: name in ("saved_model.pb", "keras_metadata.pb")),
    (
        f"is a folder of TensorFlow checkpoints, {TENSORFLOW}",
        lambda name: bool(re.fullmatch(r".+\.data-\d{5}-of-\d{5}", name)),
    ),
    (
        f"is a TensorFlow or JAX model of Hugging Face transformers, {TENSORFLOW}",
        lambda name: name in ("tf_model.h5", "flax_model.msgpack"),
    ),
    (
        "is a distributed checkpoint in several files; join them where it was made: python -m "
        "torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER weights.pth",
        lambda name: name.endswith(".distcp"),
    ),
    (
        "is an adapter of PEFT, not a whole network; where it was made, take model.merge_and_unload() as model, and "
        f"save {SAVE}",
        lambda name: name == "adapter_config.json",
    ),
    (
        "is a folder of Hugging Face's cache; give the folder below its snapshots/",
        lambda name: name == "snapshots",
    ),
    (
        "is a pipeline of Hugging Face diffusers, no image classifier; give a classifier's weights",
        lambda name: name == "model_index.json",
    ),
    ("is a torch file that was unpacked; give the file as it was before", lambda name: name == "data.pkl"),
    (
        "is what a training of upcycle keeps in checkpoints/; give the run it belongs to, or its best.safetensors",
        lambda name: name == "best.safetensors",
    ),
)
