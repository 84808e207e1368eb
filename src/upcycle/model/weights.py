"""Pretrained weights: where they come from, how they are read, whether they fit.

Files are safetensors, or torch files read with `weights_only=True`: nothing is ever unpickled.
"""

import hashlib
import json
import socket
import time
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from timm.models import PretrainedCfg
from torch import Tensor

from upcycle.errors import ConfigError, WeightsError
from upcycle.model import folders, foreign, packaged, pickled
from upcycle.model.checksum import CHECKSUM, checksum

DOWNLOAD_SECONDS = 10
"""How long a server may take to answer before it counts as out of reach."""
MAX_BYTES = 20 * 2**30
MAX_SIDECAR = 2**20


@dataclass(frozen=True, eq=False)
class Weights:
    """Tensors under the architecture's own names, where they came from, and what they say of their input."""

    tensors: dict[str, Tensor]
    source: str
    sha256: str
    input: dict[str, Any] = field(default_factory=dict)
    arch: str = ""
    """The architecture they say they are of; "" where they say nothing."""


def obtain(arch: str, spec: str, cfg: PretrainedCfg) -> Weights | None:
    """The weights that `spec` asks for: "auto", "none" (returns None) or a file.

    "auto" tries timm's local cache, then installed packages, then a download. WeightsError says what
    was tried and what is at hand; random weights are never put in their place.
    """
    if spec == "none":
        return None
    if spec != "auto":
        return read(Path(spec))
    tried: list[str] = []
    for attempt in (_from_cache, _from_package, _from_download):
        found = attempt(arch, cfg, tried)
        if found is not None:
            return found
    at_hand = ", ".join(name for name in packaged.PACKAGED if packaged.find(name)) or "none"
    raise WeightsError(
        f"no weights for {arch}: {'; '.join(tried)}. Architectures with weights at hand: {at_hand}. "
        "Give --weights FILE, or ask for random ones with --weights none"
    )


def _from_cache(_arch: str, cfg: PretrainedCfg, tried: list[str]) -> Weights | None:
    from huggingface_hub import constants, try_to_load_from_cache

    if cfg.hf_hub_id:
        for name in ("model.safetensors", "pytorch_model.bin"):
            path = try_to_load_from_cache(cfg.hf_hub_id, name)
            if isinstance(path, str):
                return read(Path(path), source=f"timm's cache, {cfg.hf_hub_id}")
    if cfg.url:
        address = cfg.url if isinstance(cfg.url, str) else cfg.url[0]
        path_in_hub = Path(torch.hub.get_dir()) / "checkpoints" / Path(address).name
        if path_in_hub.suffix in (".pth", ".pt", ".bin", ".safetensors") and path_in_hub.exists():
            return read(path_in_hub, source=f"torch's cache, {path_in_hub.name}")
    tried.append(f"not in timm's cache ({constants.HF_HUB_CACHE})")
    return None


def _from_package(arch: str, _cfg: PretrainedCfg, tried: list[str]) -> Weights | None:
    name = arch.split(".")[0]
    path = packaged.find(name)
    if path is None:
        tried.append("no installed package carries them")
        return None
    known = packaged.PACKAGED[name]
    values = known.preprocessing.to_dict()
    return Weights(packaged.load(name), f"package {known.package} {known.version}", sha256(path), values)


def _from_download(_arch: str, cfg: PretrainedCfg, tried: list[str]) -> Weights | None:
    import huggingface_hub
    from huggingface_hub import constants

    if not cfg.hf_hub_id:
        tried.append("timm names no place to download them from")
        return None
    if constants.HF_HUB_OFFLINE:
        tried.append("not downloaded, since HF_HUB_OFFLINE is set")
        return None
    began = time.monotonic()
    reason = _out_of_reach(constants.ENDPOINT)
    if reason:
        tried.append(f"download of {cfg.hf_hub_id} from {constants.ENDPOINT} failed ({reason})")
        return None
    try:
        path = huggingface_hub.hf_hub_download(cfg.hf_hub_id, "model.safetensors", etag_timeout=DOWNLOAD_SECONDS)
    except Exception as error:  # the hub's client raises many unrelated kinds for "could not be had"
        reason = f"{type(error).__name__} after {time.monotonic() - began:.0f} s"
        tried.append(f"download of {cfg.hf_hub_id} from {constants.ENDPOINT} failed ({reason})")
        return None
    return read(Path(path), source=f"downloaded from {cfg.hf_hub_id}")


def _out_of_reach(endpoint: str) -> str:
    """Why no connection to the hub can be made, or "" when one can; its own client tries for half a minute.

    Behind a proxy only the client knows the way, so nothing is tried here.
    """
    address = urllib.parse.urlsplit(endpoint)
    if urllib.request.getproxies().get(address.scheme):
        return ""
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), timeout=DOWNLOAD_SECONDS).close()
    except OSError as error:
        return f"no connection: {error.strerror or error}"
    return ""


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
    if path.stat().st_size > MAX_BYTES:
        raise WeightsError(f"weights {path} are larger than {MAX_BYTES // 2**30} GiB")
    try:
        what = foreign.refusal(path)
        if what:
            raise WeightsError(f"weights {path} cannot be used: the file {what}")
        tensors, header = _read_safetensors(path) if _is_safetensors(path) else (pickled.read(path), {})
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


def _in(folder: Path) -> folders.Found:
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


def _sidecar(path: Path) -> dict[str, Any]:
    """What a JSON file beside the weights says of their input; nothing when it speaks of other things.

    ConfigError for one that is no JSON.
    """
    for candidate in (path.with_suffix(".json"), path.with_name(path.name + ".json")):
        if candidate.is_file() and candidate.stat().st_size < MAX_SIDECAR:
            values = _read_values(candidate)
            if values:
                return values
    return {}


def read_input(path: Path) -> dict[str, Any]:
    """Input statistics from a JSON file; ConfigError when it has none."""
    values = _read_values(path)
    if not values:
        raise ConfigError(f"input description {path} names none of input_size, interpolation, crop_pct, mean and std")
    return values


def _read_values(path: Path) -> dict[str, Any]:
    """What a JSON file says of the input, perhaps nothing; ConfigError where it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        return input_values(content) if isinstance(content, dict) else {}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"input description {path} cannot be read: {error}") from None


def input_values(content: Mapping[str, Any]) -> dict[str, Any]:
    """Preprocessing fields out of timm's words: input_size, interpolation, crop_pct, mean, std.

    Values may be JSON in strings, as a safetensors header has them; a `pretrained_cfg` may hold them, and in the
    weights of a run of ours the description of its network. ConfigError for an input that is not square.
    """
    nested, ours = _plain(content.get("pretrained_cfg")), _plain(content.get("upcycle"))
    ours = ours.get("preprocessing") if isinstance(ours, dict) else None
    content = {**(ours if isinstance(ours, dict) else {}), **(nested if isinstance(nested, dict) else {}), **content}
    values: dict[str, Any] = {}
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
