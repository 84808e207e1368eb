"""Weights and resumable state on disk: safetensors for tensors, JSON for the rest, nothing pickled."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from upcycle.errors import RunError, WeightsError
from upcycle.model.zoo import Network, create
from upcycle.rundir import read_json, replacing, storage_errors, write_json


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors atomically as safetensors."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary, storage_errors(path):
        try:
            save_file(plain, temporary, metadata)
        except SafetensorError as error:  # how the library reports a full disk
            raise OSError(str(error)) from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; RunError when it is missing, cut short or damaged."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise RunError(f"{path} is missing: this run has not saved a model yet") from None
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} is damaged: {error}") from None


def save_model(path: Path, model: nn.Module, network: Network) -> None:
    """Write the weights under timm's own names, with the network's description in the header."""
    save_tensors(path, dict(model.state_dict()), {"format": "pt", "upcycle": json.dumps(network.to_dict())})


def load_model(path: Path, network: Network) -> nn.Module:
    """The network with the saved weights, in evaluation mode; WeightsError when they do not fit it."""
    model = create(network)
    try:
        model.load_state_dict(load_tensors(path), strict=True)
    except RuntimeError as error:
        raise WeightsError(f"{path} does not fit {network.arch}: {str(error).splitlines()[-1].strip()}") from None
    return model.eval()


def save_state(folder: Path, *, model: nn.Module, moments: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write everything that resuming needs. The facts are written last, naming the tensors' file.

    Two tensor files take turns, so the one that the facts name is whole at every moment.
    """
    epoch = int(facts["epoch"])
    name = f"state-{epoch % 2}.safetensors"
    tensors = {f"model|{key}": value for key, value in model.state_dict().items()}
    tensors |= {f"moments|{key}": value for key, value in moments.items()}
    save_tensors(folder / name, tensors, {"epoch": str(epoch)})
    write_json(folder / "state.json", {**facts, "file": name})


def load_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """What `save_state` wrote: model tensors, moments, facts."""
    facts: dict[str, Any] = read_json(folder / "state.json")
    tensors = load_tensors(folder / Path(str(facts["file"])).name)
    model = {key.removeprefix("model|"): value for key, value in tensors.items() if key.startswith("model|")}
    moments = {key.removeprefix("moments|"): value for key, value in tensors.items() if key.startswith("moments|")}
    return model, moments, facts


def clone_weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights, to come back to."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def load_clone(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put a copy made by `clone_weights` back."""
    with torch.no_grad():
        model.load_state_dict(weights, strict=True)
