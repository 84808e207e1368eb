"""The backbones of a race: those named, or those of the catalog whose weights are at hand."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from upcycle.config import HUB, absolute
from upcycle.errors import ConfigError, WeightsError, shown
from upcycle.model.catalog import BACKBONES, Backbone
from upcycle.model.sources import get_weights, installed_weights, resolve_arch, weights_at_hand
from upcycle.model.weights import Weights
from upcycle.reporting.progress import Display

_UNKNOWN = "unknown"


@dataclass(frozen=True, eq=False)
class Entrant:
    """A backbone with its weights: `name` as given, `arch` with its tag, `given` as `train --weights` takes it.

    `megabytes`: the size of the weights in 10**6 bytes; `local`: they needed no download.
    """

    name: str
    arch: str
    given: str
    license: str
    weights: Weights
    megabytes: float
    local: bool = True


def parse_candidates(words: Sequence[str]) -> list[tuple[str, str]]:
    """Architecture and weights of each word, ARCH or ARCH=FILE; ConfigError for no word, an empty or a repeated one."""
    found = []
    for word in words:
        arch, equals, file = (part.strip() for part in word.partition("="))
        if not arch or (equals and not file):
            raise ConfigError(f"candidates: {word!r} is neither ARCH nor ARCH=FILE")
        if file == "none":
            raise ConfigError(f"candidates: {word!r}: random weights tell nothing of a backbone, give a file")
        found.append((arch, str(absolute({"weights": file or "auto"})["weights"])))
    if not found:
        raise ConfigError("candidates names no architecture: give ARCH or ARCH=FILE, with commas between")
    twice = next((one for one in found if found.count(one) > 1), None)
    if twice:
        raise ConfigError(f"candidates names {twice[0]} twice")
    return found


def named(words: Sequence[str], show: Display) -> tuple[list[Entrant], list[str]]:
    """The named entrants, downloaded where needed, and a line for each that cannot take part.

    ConfigError if none can.
    """
    pairs = parse_candidates(words)
    found, lost = [], []
    for name, (arch, given) in zip(_names(pairs), pairs, strict=True):
        try:
            full = resolve_arch(arch)
            own = weights_at_hand(full) if given == "auto" else None
            with show.progress(f"weights of {name}"):
                weights = own or get_weights(full, given)
        except WeightsError as error:
            lost.append(f"{shown(name)} is left out: {error}")
            continue
        assert weights is not None  # none is refused
        local = own is not None or not (given == "auto" or given.startswith(HUB))
        license = _license(full, weights) if given == "auto" else _UNKNOWN
        found.append(Entrant(name, full, given, license, weights, _megabytes(weights), local))
    if not found:
        raise ConfigError(f"no candidate is left: {'; '.join(lost)}")
    return found, lost


def _names(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """A name for each: its architecture; where that is not unique, with its file's name or path."""
    forms = [(arch, f"{arch}={Path(given).name}", f"{arch}={given}") for arch, given in pairs]
    same = [[form[length] for form in forms] for length in range(2)]
    return [
        next((form[length] for length in range(2) if same[length].count(form[length]) == 1), form[2]) for form in forms
    ]


def at_hand() -> tuple[list[Entrant], list[str]]:
    """The entrants of the catalog whose weights are at hand, and a line for each whose weights cannot be read.

    One with the weights of another is left out, as a package offers them for any tag. ConfigError if there are none.
    """
    found: list[Entrant] = []
    lost = []
    for backbone in BACKBONES:
        arch = resolve_arch(backbone.name)
        try:
            weights = weights_at_hand(arch)
        except WeightsError as error:
            lost.append(f"{backbone.name} is left out: {error}")
            continue
        if weights is None or any(weights.sha256 == other.weights.sha256 for other in found):
            continue
        found.append(Entrant(backbone.name, arch, "auto", _license(arch, weights), weights, _megabytes(weights)))
    if not found:
        raise ConfigError(
            f"no weights of the {len(BACKBONES)} backbones of the catalog are at hand: name some with --candidates to "
            "download them, such as resnet50,convnext_nano.in12k_ft_in1k"
        )
    return found, lost


def absent(entrants: Sequence[Entrant]) -> tuple[Backbone, ...]:
    """The backbones of the catalog that are not among the entrants."""
    names = {one.arch for one in entrants}
    return tuple(one for one in BACKBONES if resolve_arch(one.name) not in names)


def _license(arch: str, weights: Weights) -> str:
    """The license of weights that "auto" finds: the catalog's, or that of the package they are from."""
    base = arch.partition(".")[0]
    packaged = installed_weights().get(base)
    if packaged is not None and weights.source.startswith(f"package {packaged.package}"):
        return packaged.licence
    return next((one.license for one in BACKBONES if resolve_arch(one.name) == arch), _UNKNOWN)


def _megabytes(weights: Weights) -> float:
    """Taken while the tensors are there: a race lets go of them."""
    return sum(tensor.nbytes for tensor in weights.tensors.values()) / 1e6


def without_tensors(entrant: Entrant) -> Entrant:
    """The same without tensors, once its model has them: many backbones are many gigabytes."""
    return replace(entrant, weights=replace(entrant.weights, tensors={}))
