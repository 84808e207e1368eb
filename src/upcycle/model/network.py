"""The network: a body from timm and a head for the task, as one module whose `forward` gives logits.

A `ModelSpec` is what is needed to build it again, all but its weights.
"""

import contextlib
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import timm
import torch
from torch import Tensor, nn

from upcycle.data.preprocessing import Preprocessing
from upcycle.device import Hardware, autocast
from upcycle.errors import WeightsError
from upcycle.model import pooling
from upcycle.model.folding import fold
from upcycle.model.names import Shapes, fit_names, is_optional, misfit, whose
from upcycle.model.sources import SIMPLE_CNN, has_fixed_size, resolve_arch
from upcycle.model.weights import Weights
from upcycle.task import WIDEST, Task

RESERVED = ("thresholds",)
"""Entries of model.json for what changes logits or classes, of which this version knows no value but null."""
VIEWS: dict[str, Callable[[Tensor], Iterator[Tensor]]] = {
    "none": lambda images: iter((images,)),
    "flip": lambda images: iter((images, images.flip(3))),
    "square": lambda images: (turned for quarter in range(4) for turned in _mirrored(images.rot90(quarter, (2, 3)))),
}
"""The views of an image whose logits are averaged: the image, its mirror image too, or all eight of the square."""
_LIKELY = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *(f"vit_{size}_patch16_224" for size in ("tiny", "small", "base", "large")),
)
"""Networks that weights are tried with, to say whose they are where they do not fit the one that was named."""
_LINEAR = ("fc", "classifier", "head", "head.fc")
"""Classifiers that timm applies to the features themselves; others are tried."""


@dataclass(frozen=True)
class ModelSpec:
    """A network without its weights: what model.json and the header of its weights hold."""

    arch: str
    task: Task
    preprocessing: Preprocessing
    weights_source: str
    weights_sha256: str
    stages: int = 1
    """How many of the last stages the head reads; with 1 timm's own head."""
    views: str = "none"
    """Of `VIEWS`, those whose logits are averaged."""
    temperature: float = 1.0
    """What these logits are divided by: `upcycle.evaluation.calibration` fits it."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.task.classes

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {
            "arch": self.arch,
            **self.task.to_dict(),
            "preprocessing": self.preprocessing.to_dict(),
            "weights": {"source": self.weights_source, "sha256": self.weights_sha256},
            "stages": self.stages if self.stages > 1 else None,
            "views": self.views if self.views != "none" else None,
            "temperature": self.temperature if self.temperature != 1 else None,
            **dict.fromkeys(RESERVED),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ModelSpec":
        """The inverse of `to_dict`; ValueError for a model that this version would compute otherwise."""
        later = next((name for name in RESERVED if values.get(name) is not None), None)
        if later is not None:
            raise ValueError(f"{later} = {values[later]!r} needs a later version of upcycle")
        stages, views = values.get("stages") or 1, values.get("views") or "none"
        for name, value, known in (("stages", stages, range(1, pooling.MOST + 1)), ("views", views, tuple(VIEWS))):
            if value not in known:
                raise ValueError(f"{name} = {value!r} needs a later version of upcycle")
        temperature = float(values.get("temperature") or 1)
        if not 1 / WIDEST <= temperature <= WIDEST:
            raise ValueError(f"temperature = {temperature!r} is not between {1 / WIDEST} and {WIDEST}")
        return cls(
            arch=resolve_arch(str(values["arch"])),
            task=Task.from_dict(values),
            preprocessing=Preprocessing.from_dict(values["preprocessing"]),
            weights_source=str(values["weights"]["source"]),
            weights_sha256=str(values["weights"]["sha256"]),
            stages=int(stages),
            views=str(views),
            temperature=temperature,
        )


def spec_of(arch: str, classes: tuple[str, ...], preprocessing: Preprocessing, weights: Weights | None) -> ModelSpec:
    """The spec of a network to train on these classes; `weights` None for random ones."""
    source, digest = (weights.source, weights.sha256) if weights is not None else ("none: random", "")
    return ModelSpec(arch, Task.of(classes), preprocessing, source, digest)


class Network(nn.Module):
    """A classifier: `network(images)` gives logits [B, outputs] in fp32 for images [B, 3, S, S].

    The body is computed in the machine's precision, a linear head always in fp32: bf16 keeps 8 bits of a number, enough
    inside the network, too coarse for the last sum over features, which decides between classes. `state_dict` has
    timm's own names; `body` is timm's module, whose classifier is wider where it reads several `stages`. In evaluation
    mode the logits of all `views` are averaged and divided by `temperature`.
    """

    stages = 1
    views = "none"
    temperature = 1.0
    _widths: tuple[int, ...] = ()

    def __init__(self, body: nn.Module, machine: Hardware | None = None) -> None:
        super().__init__()
        self.body = body
        self.machine = machine
        self.has_linear_head = _ends_linear(body) and _reads_features(body)
        """Whether the head is one linear layer over one feature vector per image, as nearly all are."""
        self.register_state_dict_post_hook(_without_prefix)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_with_prefix)  # type: ignore[no-untyped-call]

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, outputs], fp32."""
        if self.body.training:
            return self._logits(images)
        if self.views == "none":
            logits = self._logits(images)
        else:
            logits = torch.stack([self._logits(view) for view in VIEWS[self.views](images)]).mean(dim=0)
        # times the inverse: CUDA divides so, and numpy's product of fp32 numbers has the same bits
        return logits if self.temperature == 1 else logits * (1 / self.temperature)

    def _logits(self, images: Tensor) -> Tensor:
        if not self.has_linear_head:
            with self._autocast():
                return self.body(images).float()  # type: ignore[no-any-return]
        return self.head(self.features(images).float())  # type: ignore[no-any-return]

    def features(self, images: Tensor) -> Tensor:
        """What a linear head reads of the last `stages`, the last one first, [B, D]."""
        with self._autocast():
            return pooling.pooled(self.body, images, self.stages)

    def widths(self, size: int) -> tuple[int, ...]:
        """How many numbers a head may read of each stage, the last one first, of images of `size` pixels."""
        if not self.has_linear_head or self.stages > 1:
            return self._widths
        like: Tensor = next(self.body.parameters())
        blank = torch.zeros(1, 3, size, size, device=like.device).to(memory_format=torch.channels_last)
        modes = {module: module.training for module in self.body.modules()}
        self.body.eval()
        with torch.inference_mode(), self._autocast():
            known = pooling.computes(self.body, blank)
        for module, training in modes.items():
            module.training = training
        return pooling.widths(self.body)[: None if known else 1]

    def read(self, stages: int) -> None:
        """Take a new linear head that reads so many of the last stages; WeightsError where they cannot be told."""
        if stages == self.stages:
            return
        head = self.head
        widths = self._widths or (pooling.widths(self.body) if self.has_linear_head else ())
        if len(widths) < stages:
            raise WeightsError(f"{type(self.body).__name__} has no {stages} stages that a head can read")
        name = next(name for name, module in self.body.named_modules() if module is head)
        wide = nn.Linear(sum(widths[:stages]), head.out_features, device=head.weight.device)  # type: ignore[arg-type]
        self.body.set_submodule(name, wide)
        self.stages, self._widths = stages, widths

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        return autocast(self.machine) if self.machine is not None else contextlib.nullcontext()

    @property
    def head(self) -> nn.Module:
        """The classifier."""
        return self.body.get_classifier()  # type: ignore[operator,no-any-return]

    @property
    def linear_in_name_alone(self) -> bool:
        """Whether the classifier is a linear layer and not all there is between features and logits."""
        return _ends_linear(self.body) and not self.has_linear_head

    def set_head(self, weight: Tensor, bias: Tensor) -> None:
        """Copy a trained linear head, `weight` [outputs, D] and `bias` [outputs], into the classifier."""
        with torch.no_grad():
            self.head.weight.copy_(weight)  # type: ignore[operator]
            self.head.bias.copy_(bias)  # type: ignore[operator]


def _mirrored(images: Tensor) -> tuple[Tensor, Tensor]:
    return images, images.flip(3)


def _without_prefix(_: nn.Module, state: dict[str, Tensor], prefix: str, __: object) -> None:
    """Give the tensors of a network's state the names that its body has for them."""
    start = f"{prefix}body."
    own = {name: state.pop(name) for name in list(state) if name.startswith(start)}
    state.update({prefix + name.removeprefix(start): tensor for name, tensor in own.items()})


def _with_prefix(_: nn.Module, state: dict[str, Tensor], prefix: str, *__: object) -> None:
    """The inverse of `_without_prefix`, before a state is loaded."""
    own = {name: state.pop(name) for name in list(state) if name.startswith(prefix)}
    state.update({f"{prefix}body.{name.removeprefix(prefix)}": tensor for name, tensor in own.items()})


def _ends_linear(body: nn.Module) -> bool:
    return hasattr(body, "forward_head") and isinstance(body.get_classifier(), nn.Linear)  # type: ignore[operator]


def _reads_features(body: nn.Module) -> bool:
    """Whether the classifier makes the logits of the features: some networks have a norm or a second head between."""
    cfg: Mapping[str, Any] = getattr(body, "pretrained_cfg", None) or {}
    if cfg.get("classifier") in _LINEAR:
        return True
    like: Tensor = next(body.parameters())
    shape = tuple(cfg.get("input_size") or (3, 224, 224))
    images = torch.linspace(-2, 2, math.prod(shape)).sin().view(1, *shape).to(like)
    modes = {module: module.training for module in body.modules()}
    body.eval()
    try:
        with torch.inference_mode():
            whole: Tensor = body(images)
            features = body.forward_head(body.forward_features(images), pre_logits=True)  # type: ignore[operator]
            apart: Tensor = body.get_classifier()(features)  # type: ignore[operator]
    except Exception:  # made for another size: then the network is taken as a whole, which is always right
        return False
    finally:
        for module, training in modes.items():
            module.training = training
    return torch.equal(whole, apart)  # a new BatchNorm between them changes the last bits alone


class SimpleCnn(nn.Module):
    """The network that pretrained ones are compared with: three blocks of 3x3 convolution, trained from scratch.

    Each has ReLU and 2x2 max pooling (32, 64, 128 channels). The maps are averaged to 4 x 4, so that any input from 32
    pixels on fits; the head is 128 units with ReLU and one linear layer to `outputs`. 355,649 parameters with one
    output.
    """

    def __init__(self, outputs: int) -> None:
        super().__init__()
        widths = (3, 32, 64, 128)
        blocks: list[nn.Module] = []
        for narrow, wide in pairwise(widths):
            blocks += [nn.Conv2d(narrow, wide, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.dense = nn.Linear(128 * 16, 128)
        self.head = nn.Linear(128, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, outputs] of images [B, 3, H, W]."""
        maps = self.pool(self.blocks(images)).flatten(1)
        return self.head(torch.relu(self.dense(maps)))  # type: ignore[no-any-return]

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.head


def create(spec: ModelSpec, machine: Hardware | None = None, *, seed: int = 0) -> Network:
    """The untrained network with its new head, its random weights drawn from `seed`, on the CPU.

    It computes in the precision of `machine`, and folds BatchNorm where that says so; without one in fp32, unfolded.
    """
    torch.manual_seed(seed)
    body = _body(spec.arch, spec.task.outputs, spec.preprocessing.size)
    network = Network(body.to(memory_format=torch.channels_last), machine)
    if machine is not None and machine.fold_bn:
        fold(body)
    network.read(spec.stages)
    network.views, network.temperature = spec.views, spec.temperature
    return network


def _body(arch: str, outputs: int, size: int | None) -> nn.Module:
    if arch == SIMPLE_CNN:
        return SimpleCnn(outputs)
    fixed = size if has_fixed_size(arch) else None  # None is left out by timm
    body: nn.Module = timm.create_model(arch, pretrained=False, num_classes=outputs, img_size=fixed)
    if not hasattr(body, "get_classifier"):
        raise WeightsError(f"{arch} has no classifier to train: give another --arch")
    return body


def without_weights(arch: str) -> nn.Module:
    """The body of an architecture with one output: its parameters have names and shapes, and no numbers to rely on."""
    try:
        with torch.device("meta"):
            return _body(arch, 1, None)
    except (RuntimeError, NotImplementedError):  # a network that looks at its own numbers cannot be made without them
        return _body(arch, 1, None)


def load_body(network: Network, weights: Weights, arch: str) -> tuple[str, ...]:
    """Copy pretrained weights into everything but the head; what was left out of them is returned, in lines to tell.

    The file may hold an ImageNet head, any other head, or none. WeightsError when the rest does not
    fit name by name and shape by shape, or holds a number that is not finite. Names of wrappers and of some other
    tools are translated, as `upcycle.model.names.fit_names` has it, and those of a network's authors by timm.
    """
    body = network.body
    own = _shapes(body.state_dict(), without=head_names(body))
    fitted, notes = fit_names(weights.tensors, own, classifiers(body), weights.source)
    if any(name not in fitted and not is_optional(name) for name in own):
        translated, told = fit_names(_by_timm(weights.tensors, body), own, classifiers(body), weights.source)
        if not misfit(own, _shapes(translated)):
            fitted, notes = translated, told
    given = _shapes(fitted)
    wrong = misfit(own, given)
    if wrong:
        of_size = has_fixed_size(arch) and own.keys() == given.keys()
        advice = "leave --image-size out, as it takes one size" if of_size else _advice(weights, arch)
        raise WeightsError(f"weights from {weights.source} do not fit {arch}: {wrong}; {advice}")
    broken = next((name for name, tensor in fitted.items() if not torch.isfinite(tensor).all()), None)
    if broken is not None:
        raise WeightsError(f"weights from {weights.source} hold numbers that are not finite, in {broken}: give others")
    body.load_state_dict(fitted, strict=False)
    return notes


def _shapes(tensors: Mapping[str, Tensor], *, without: frozenset[str] = frozenset()) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items() if name not in without}


def _advice(weights: Weights, arch: str) -> str:
    """What to do with weights that do not fit `arch`, with the network that they do fit where it is a common one."""
    tool = whose(weights.tensors)
    if tool:
        return f"their names are those of {tool}, which are not translated: give timm's weights of that network"
    for likely in (one for one in _LIKELY if not arch.startswith(one)):
        with torch.device("meta"):
            body = timm.create_model(likely)
        own = _shapes(body.state_dict(), without=head_names(body))
        fitted, _ = fit_names(weights.tensors, own, classifiers(body), weights.source)
        if not misfit(own, _shapes(fitted)):
            return f"they look like those of {likely}: name their architecture with --arch"
    return "name their architecture with --arch"


def _by_timm(tensors: dict[str, Tensor], body: nn.Module) -> dict[str, Tensor]:
    """The tensors under the names that timm itself gives those of the network's first authors, where it knows them."""
    translate = getattr(sys.modules[type(body).__module__], "checkpoint_filter_fn", None)
    try:
        return dict(translate(dict(tensors), body)) if translate is not None else tensors
    except Exception:  # made for its authors' files alone, it raises anything for others
        return tensors


def cannot_compute(spec: ModelSpec, *, images: int, training: bool) -> str:
    """Why the network cannot compute so many blank images of its input size, in one line; "" where it can."""
    try:
        with torch.inference_mode():
            create(spec).train(training)(torch.zeros(images, 3, spec.preprocessing.size, spec.preprocessing.size))
    except (RuntimeError, ValueError, AssertionError) as error:
        return (str(error).splitlines() or [type(error).__name__])[0]
    return ""


def shapes(spec: ModelSpec) -> Shapes | None:
    """The shape of every tensor of the network, made without taking memory for any; None where that is not known."""
    try:
        with torch.device("meta"):
            return _shapes(create(spec).state_dict())
    except Exception:  # a network that looks at its own numbers cannot be made without them
        return None


def head_names(body: nn.Module) -> frozenset[str]:
    """Names of the classifier's parameters, pretrained or new."""
    return frozenset(f"{prefix}.{leaf}" for prefix in classifiers(body) for leaf in ("weight", "bias"))


def classifiers(body: nn.Module) -> tuple[str, ...]:
    """Names of the modules that timm calls the network's classifiers."""
    cfg: Mapping[str, Any] = getattr(body, "pretrained_cfg", None) or {}
    names = cfg.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)
