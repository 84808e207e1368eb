"""Weights as they are read from a file or folder: tensors, and what stands beside them of their input.

Files are safetensors, or torch files read with `weights_only=True`: nothing is ever unpickled. Folders are runs of
upcycle, or what timm and Hugging Face keep of one model.
"""

import hashlib
import json
import shlex
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from upcycle import manifest
from upcycle.errors import ConfigError, WeightsError
from upcycle.model.pickled import SAVE, SEVERAL, TENSORFLOW, WEIGHTS_NAME, read_tensors, refusal
from upcycle.rundir import RunDir

CHECKSUM = "upcycle-sha256"
"""The entry of a file's metadata that holds its checksum."""
FILES = ("model.safetensors", "pytorch_model.bin")
"""Weights in a folder of timm or Hugging Face."""
_MAX_BYTES = 20 * 2**30
_MAX_JSON = 2**20
_INTERPOLATIONS = {"2": "bilinear", "3": "bicubic"}
"""Pillow's numbers, as Hugging Face's descriptions have them."""


@dataclass(frozen=True, eq=False)
class Weights:
    """Tensors under the architecture's own names, where they came from, and what they say of their input."""

    tensors: dict[str, Tensor]
    source: str
    sha256: str
    input: Mapping[str, object] = field(default_factory=dict)
    arch: str = ""
    """The architecture they say they are of; "" where they say nothing."""


def sha256(path: Path) -> str:
    """The hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(path: Path, *, source: str | None = None) -> Weights:
    """Weights from a safetensors or torch file, or a folder of them, with the input statistics of header or sidecar.

    A sidecar is a JSON file of the same name with `.json` in place of, or after, the ending. Half
    precision becomes fp32. WeightsError when the file is missing or holds anything but tensors, and says what it is.
    """
    if path.is_dir():
        try:
            return _read_folder(path)
        except OSError as error:
            raise WeightsError(f"weights {path} cannot be read: {error.strerror or error}") from None
    if not path.is_file():
        raise WeightsError(f"weights {path} do not exist: give a file, auto or none")
    if path.stat().st_size > _MAX_BYTES:
        raise WeightsError(f"weights {path} are larger than {_MAX_BYTES // 2**30} GiB")
    try:
        what = refusal(path)
        if what:
            raise WeightsError(f"weights {path} cannot be used: the file {what}")
        tensors, header = read_safetensors(path) if _is_safetensors(path) else (read_tensors(path), {})
    except WeightsError:
        raise
    except (OSError, RuntimeError, ValueError, EOFError, zipfile.BadZipFile, SafetensorError) as error:
        again = "; copy or download it again" if isinstance(error, SafetensorError) else ""
        what = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"weights {path} cannot be read: {what}{again}") from None
    except Exception as error:  # torch's restricted unpickler raises pickle.UnpicklingError and others
        raise WeightsError(f"weights {path} are refused: {type(error).__name__}, not a plain file of tensors") from None
    sidecar = _sidecar(path)
    plain = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    ours = _plain(header.get("upcycle"))  # what a run wrote into its weights
    arch = str(ours.get("arch", "")) if isinstance(ours, dict) else ""
    return Weights(plain, source or f"file {path}", sha256(path), sidecar or input_values(header), arch)


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:9] == b"{"


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors, and the metadata but for the checksum; SafetensorError where the file has one that is another's."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = dict(file.metadata() or {})
    expected = metadata.pop(CHECKSUM, None)
    if expected is not None and expected != checksum(tensors, metadata):
        raise SafetensorError("its content does not have the checksum it was written with")
    return tensors, metadata


def _sidecar(path: Path) -> dict[str, object]:
    """What a JSON file beside the weights says of their input; nothing when it speaks of other things.

    ConfigError for one that is no JSON.
    """
    for candidate in (path.with_suffix(".json"), path.with_name(path.name + ".json")):
        if candidate.is_file() and candidate.stat().st_size < _MAX_JSON:
            values = input_values(_read_json(candidate))
            if values:
                return values
    return {}


def read_input(path: Path) -> dict[str, object]:
    """Input statistics from a JSON file; ConfigError when it has none."""
    values = input_values(_read_json(path))
    if not values:
        raise ConfigError(f"input description {path} names none of input_size, interpolation, crop_pct, mean and std")
    return values


def _read_json(path: Path) -> dict[str, Any]:
    """The entries of a JSON file, perhaps none; ConfigError where it is no JSON, or larger than a description is."""
    try:
        if path.stat().st_size > _MAX_JSON:
            raise ValueError("it is larger than such a file is")
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"input description {path} cannot be read: {error}") from None
    return content if isinstance(content, dict) else {}


def input_values(content: Mapping[str, object]) -> dict[str, object]:
    """Preprocessing fields out of timm's words: input_size, interpolation, crop_pct, mean, std.

    Values may be JSON in strings, as a safetensors header has them; a `pretrained_cfg` may hold them, and in the
    weights of a run of ours the description of its network. ConfigError for an input that is not square.
    """
    nested, ours = _plain(content.get("pretrained_cfg")), _plain(content.get("upcycle"))
    ours = ours.get("preprocessing") if isinstance(ours, dict) else None
    content = {**(ours if isinstance(ours, dict) else {}), **(nested if isinstance(nested, dict) else {}), **content}
    values: dict[str, object] = {}
    for name in ("input_size", "image_size", "size"):
        if name in content:
            size = _plain(content[name])
            sides = size[-2:] if isinstance(size, list | tuple) and size else [size]
            if name == "input_size" and sides[0] != sides[-1]:
                raise ConfigError(f"an input of {sides[0]} x {sides[-1]} pixels is not square, and others are not read")
            values["size"] = sides[-1]
            break
    for name in ("interpolation", "crop_pct", "mean", "std"):
        if name in content:
            value = _plain(content[name])
            values[name] = tuple(value) if isinstance(value, list | tuple) else value
    return values


def _plain(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """The sha256 of names, kinds, shapes and bytes of tensors on the CPU, and of the other metadata."""
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


# ---------------------------------------------------------------- folders


def _read_folder(folder: Path) -> Weights:
    """The weights in a folder; WeightsError, or RunError for a damaged run, says what it is and what to give."""
    run = RunDir(folder)
    if run.is_run():
        return read(_best_of(run), source=f"run {folder}")
    file = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if file is not None and (folder / "config.json").is_file():
        description = _description(folder)
        weights = read(file, source=f"folder {folder}")
        arch = str(description.get("architecture", "")) or weights.arch
        return replace(weights, input=input_values(description) or weights.input, arch=arch)
    runs = sorted(path for path in folder.iterdir() if RunDir(path).is_run())
    if runs:
        raise WeightsError(f"weights {folder} cannot be used: it is a folder of runs; give one, such as {runs[0]}")
    raise WeightsError(f"weights {folder} cannot be used: it is {_refused_as(folder)}")


def _best_of(run: RunDir) -> Path:
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
    return run.best


def _description(folder: Path) -> dict[str, Any]:
    """What `config.json` of timm or the image processor of transformers say of a model, in timm's words."""
    config = _read_json(folder / "config.json")
    if "pretrained_cfg" in config or "architecture" in config:
        return config
    if config.get("downsample_in_bottleneck") is True:
        raise WeightsError(
            f"weights {folder} cannot be used: its config.json has downsample_in_bottleneck, so their network takes "
            "its strides in other layers than timm's; give timm's weights of it"
        )
    file = folder / "preprocessor_config.json"
    processor = _read_json(file) if file.is_file() else {}
    crop, size = _sides(processor.get("crop_size")), _sides(processor.get("size"))
    told = {ours: processor.get(theirs) for ours, theirs in (("mean", "image_mean"), ("std", "image_std"))}
    told["interpolation"] = _INTERPOLATIONS.get(str(processor.get("resample")))
    if processor.get("do_center_crop") and crop and size:
        told |= {"input_size": [3, *crop], "crop_pct": min(1.0, crop[0] / min(size))}
    elif size:  # where no crop is named it may squash
        told |= {"input_size": [3, *size], "crop_pct": processor.get("crop_pct")}
    return {name: value for name, value in told.items() if value is not None}


def _sides(size: Any) -> tuple[int, int] | None:
    """Height and width out of 224, {"shortest_edge": 224} or {"height": 224, "width": 224}."""
    if isinstance(size, Mapping):
        edge = size.get("shortest_edge")
        height, width = (edge, edge) if edge else (size.get("height"), size.get("width"))
    else:
        height = width = size
    if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
        return height, width
    return None


def _refused_as(folder: Path) -> str:
    """What a folder is that holds no weights under a name that is known, and what to give."""
    names = sorted(path.name for path in folder.iterdir())
    for patterns, told in _FOLDERS:
        if any(fnmatch(name, pattern) for pattern in patterns for name in names):
            return told
    held = [name for name in names if WEIGHTS_NAME.fullmatch(name.lower())]
    if held:
        more = f" and {len(held) - 1} more" if len(held) > 1 else ""
        return f"a folder with {held[0]}{more}; give the file of weights itself"
    return "a folder without weights; give a file, a run of upcycle, or a folder with model.safetensors"


_FOLDERS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("*.safetensors.index.json", "*.bin.index.json"), f"a model in several files, with an index; {SEVERAL}"),
    (("saved_model.pb", "keras_metadata.pb"), f"a TensorFlow SavedModel, {TENSORFLOW}"),
    (("*.data-[0-9]*-of-[0-9]*",), f"a folder of TensorFlow checkpoints, {TENSORFLOW}"),
    (
        ("tf_model.h5", "flax_model.msgpack"),
        f"a TensorFlow or JAX model of Hugging Face transformers, {TENSORFLOW}",
    ),
    (
        ("*.distcp",),
        "a distributed checkpoint in several files; join them where it was made: python -m "
        "torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER weights.pth",
    ),
    (
        ("adapter_config.json",),
        "an adapter of PEFT, not a whole network; where it was made, take model.merge_and_unload() as model, and "
        f"save {SAVE}",
    ),
    (("snapshots",), "a folder of Hugging Face's cache; give the folder below its snapshots/"),
    (("model_index.json",), "a pipeline of Hugging Face diffusers, no image classifier; give a classifier's weights"),
    (("data.pkl",), "a torch file that was unpacked; give the file as it was before"),
    (
        ("best.safetensors",),
        "what a training of upcycle keeps in checkpoints/; give the run it belongs to, or its best.safetensors",
    ),
)
"""Names that a folder of some kind holds, what it is, and what to do."""
