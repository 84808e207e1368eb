"""Weights as they are read from a file or folder: tensors, and what stands beside them of their input.

Files are safetensors, or torch files read with `weights_only=True`: nothing is ever unpickled.
"""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from upcycle.errors import ConfigError, WeightsError
from upcycle.model import folders, pickled

CHECKSUM = "upcycle-sha256"
"""The entry of a file's metadata that holds its checksum."""
_MAX_BYTES = 20 * 2**30
_MAX_SIDECAR = 2**20


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
        found = _in(path)
        weights = read(found.file, source=f"{found.kind} {path}")
        told = input_values(found.description)
        return replace(weights, input=told or weights.input, arch=found.arch or weights.arch)
    if not path.is_file():
        raise WeightsError(f"weights {path} do not exist: give a file, auto or none")
    if path.stat().st_size > _MAX_BYTES:
        raise WeightsError(f"weights {path} are larger than {_MAX_BYTES // 2**30} GiB")
    try:
        what = pickled.refusal(path)
        if what:
            raise WeightsError(f"weights {path} cannot be used: the file {what}")
        tensors, header = _read_safetensors(path) if _is_safetensors(path) else (pickled.read_tensors(path), {})
    except WeightsError:
        raise
    except SafetensorError as error:
        again = "copy or download it again"
        raise WeightsError(f"weights {path} cannot be read: {_first_line(error)}; {again}") from None
    except (OSError, RuntimeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise WeightsError(f"weights {path} cannot be read: {_first_line(error)}") from None
    except Exception as error:  # torch's restricted unpickler raises pickle.UnpicklingError and others
        raise WeightsError(f"weights {path} are refused: {type(error).__name__}, not a plain file of tensors") from None
    sidecar = _sidecar(path)
    plain = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    values = sidecar or input_values(header)
    return Weights(plain, source or f"file {path}", sha256(path), values, _arch_of(header))


def _in(folder: Path) -> folders.FolderWeights:
    try:
        return folders.find(folder)
    except OSError as error:
        raise WeightsError(f"weights {folder} cannot be read: {error.strerror or error}") from None


def _arch_of(header: Mapping[str, str]) -> str:
    """The architecture that a run of ours wrote into its weights, or ""."""
    ours = _plain(header.get("upcycle"))
    return str(ours.get("arch", "")) if isinstance(ours, dict) else ""


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:9] == b"{"


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata; ValueError where they are not those of the checksum, if the file has one."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = dict(file.metadata() or {})
    expected = metadata.pop(CHECKSUM, None)
    if expected is not None and expected != checksum(tensors, metadata):
        raise ValueError("it is damaged: its content does not have the checksum it was written with; copy it again")
    return tensors, metadata


def _sidecar(path: Path) -> dict[str, object]:
    """What a JSON file beside the weights says of their input; nothing when it speaks of other things.

    ConfigError for one that is no JSON.
    """
    for candidate in (path.with_suffix(".json"), path.with_name(path.name + ".json")):
        if candidate.is_file() and candidate.stat().st_size < _MAX_SIDECAR:
            values = _read_values(candidate)
            if values:
                return values
    return {}


def read_input(path: Path) -> dict[str, object]:
    """Input statistics from a JSON file; ConfigError when it has none."""
    values = _read_values(path)
    if not values:
        raise ConfigError(f"input description {path} names none of input_size, interpolation, crop_pct, mean and std")
    return values


def _read_values(path: Path) -> dict[str, object]:
    """What a JSON file says of the input, perhaps nothing; ConfigError where it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        return input_values(content) if isinstance(content, dict) else {}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"input description {path} cannot be read: {error}") from None


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
