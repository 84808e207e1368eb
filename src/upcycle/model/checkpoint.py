"""Weights and resumable state on disk: safetensors for tensors, JSON for the rest, nothing pickled.

A file holds the checksum of its own tensors: damage that leaves it readable is found as well.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from upcycle.device import Hardware
from upcycle.errors import RunError, WeightsError
from upcycle.model.names import Shapes, misfit
from upcycle.model.network import ModelSpec, Network, create, shapes
from upcycle.model.weights import CHECKSUM, checksum, read_safetensors
from upcycle.rundir import replacing, storage_errors

STATES = ("state-0.safetensors", "state-1.safetensors")
"""Two files that take turns, so that one is whole at every moment."""


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors atomically as safetensors, with a checksum of tensors and metadata in the header."""
    plain: dict[str, Tensor] = {}
    held: set[int] = set()
    for name, tensor in tensors.items():
        one = tensor.detach().cpu().contiguous()
        # layers that share their weights are stored as often as they are named: the format knows no sharing
        plain[name] = one.clone() if one.untyped_storage().data_ptr() in held else one
        held.add(one.untyped_storage().data_ptr())
    metadata = {**(metadata or {}), CHECKSUM: checksum(plain, metadata or {})}
    with replacing(path) as temporary, storage_errors(path):
        try:
            save_file(plain, temporary, metadata)
            _sort_metadata(temporary)
        except SafetensorError as error:  # how the library reports a full disk
            number = re.search(r"os error (\d+)", str(error))
            raise (OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))) from error


def _sort_metadata(path: Path) -> None:
    """Order the metadata in a file's header by name, in place: the library orders it at random."""
    with path.open("rb+") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        file.seek(8)
        file.write(json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(size))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; RunError when it is missing, cut short or damaged, by its own checksum if it has one."""
    with _readable(path):
        return read_safetensors(path)[0]


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what reading a safetensors file raises into one line."""
    try:
        yield
    except FileNotFoundError:
        raise RunError(f"{path} is missing: this run has not saved a model yet") from None
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} is damaged: {error}") from None


def save_model(path: Path, model: nn.Module, spec: ModelSpec) -> None:
    """Write the weights under timm's own names, with the network's spec in the header."""
    save_tensors(path, dict(model.state_dict()), {"format": "pt", "upcycle": json.dumps(spec.to_dict())})


def load_model(path: Path, spec: ModelSpec, machine: Hardware | None = None) -> Network:
    """The network with the saved weights, in evaluation mode; WeightsError when they do not fit it.

    That is told from the file's header, before memory is taken for a network that a stranger names.
    """
    expected = shapes(spec)
    wrong = misfit(expected, _shapes(path)) if expected is not None else ""
    if wrong:
        raise WeightsError(f"{path} does not fit {spec.arch}: {wrong}")
    model = create(spec, machine)
    try:
        model.load_state_dict(load_tensors(path), strict=True)
    except RuntimeError as error:
        raise WeightsError(f"{path} does not fit {spec.arch}: {str(error).splitlines()[-1].strip()[:200]}") from None
    return model.eval()


def _shapes(path: Path) -> Shapes:
    """The shape of every tensor of a file, by its header."""
    with _readable(path), safe_open(path, framework="pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


@dataclass(frozen=True)
class CheckpointFacts:
    """Where a run stood at a checkpoint, and what its epochs had brought until then.

    `retries`, `step` and `updates` say which of two is newer; `updates` counts those since the last whole epoch.
    """

    epoch: int
    step: int
    updates: int
    retries: int
    sums: Mapping[str, float]
    rows: list[dict[str, object]]

    @property
    def place(self) -> tuple[int, int, int]:
        """What grows from one checkpoint to the next."""
        return self.retries, self.step, self.updates

    @classmethod
    def from_json(cls, text: str) -> "CheckpointFacts":
        """The inverse of JSON of the fields; ValueError for anything else."""
        values = json.loads(text)
        try:
            counts = {name: int(values[name]) for name in ("epoch", "step", "updates", "retries")}
            return cls(**counts, sums=dict(values["sums"]), rows=list(values["rows"]))
        except (ArithmeticError, LookupError, TypeError) as error:
            raise ValueError(f"no facts of a checkpoint: {error}") from None


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """All tensors of a training state by name, and where it stood."""

    tensors: dict[str, Tensor]
    facts: CheckpointFacts


def save_state(folder: Path, tensors: Mapping[str, Tensor], facts: CheckpointFacts) -> None:
    """Write everything that resuming needs over one of the two states kept.

    The newest state between epochs is not written over, or without one the newest.
    """
    states = _states(folder)
    kept = next((path for path, known in states if not known.updates), states[0][0] if states else None)
    path = next(folder / name for name in STATES if folder / name != kept)
    save_tensors(path, dict(tensors), {"facts": json.dumps(asdict(facts))})


def load_state(
    folder: Path, *, usable: Callable[[CheckpointFacts], bool] = lambda _: True
) -> tuple[Checkpoint | None, list[str]]:
    """The newest usable state that is whole, and what is wrong with others.

    None where no state was kept, or none is whole.
    """
    newest_first = [path for path, facts in _states(folder) if usable(facts)]
    unreadable = [folder / name for name in STATES if folder / name not in [path for path, _ in _states(folder)]]
    damaged = []
    for path in [*unreadable, *newest_first]:
        try:
            with _readable(path):
                tensors, metadata = read_safetensors(path)
            facts = CheckpointFacts.from_json(metadata["facts"])
        except (RunError, KeyError, ValueError) as error:
            said = str(error) if isinstance(error, RunError) else f"{path} holds no state that this version can read"
            damaged += [said] if path.exists() else []
            continue
        return Checkpoint(tensors, facts), damaged
    return None, damaged


def _states(folder: Path) -> list[tuple[Path, CheckpointFacts]]:
    """The states whose header can be read with their facts, the newest first."""
    found = []
    for path in (folder / name for name in STATES):
        try:
            with safe_open(path, framework="pt") as file:
                found.append((path, CheckpointFacts.from_json((file.metadata() or {})["facts"])))
        except (OSError, SafetensorError, KeyError, ValueError):
            continue
    return sorted(found, key=lambda state: state[1].place, reverse=True)


def clone_weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights, to come back to."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def load_clone(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put a copy made by `clone_weights` back."""
    with torch.no_grad():
        model.load_state_dict(weights, strict=True)
    forget_made(model)


def forget_made(model: nn.Module) -> None:
    """Have a network make again what it makes of its weights, which have changed."""
    modes = {module: module.training for module in model.modules()}
    model.train()  # some networks of timm keep what they have made of their weights until then
    for module, training in modes.items():
        module.training = training
