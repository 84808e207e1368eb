"""The optimizer: which parameters it trains, how fast and with what decay, its rate, and its state as tensors.

Parameters are in order of depth; some are frozen, some learn more slowly, some do not decay.
"""

import difflib
from collections.abc import Iterable
from fnmatch import fnmatch
from typing import Any

import torch
from timm.models import group_parameters
from timm.optim import create_optimizer_v2, get_optimizer_info  # type: ignore[attr-defined]
from torch import Tensor, nn

from upcycle.config import Config
from upcycle.errors import ConfigError
from upcycle.recipes import peak_rate
from upcycle.schedules import Rate

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


def depth_groups(model: nn.Module) -> list[list[str]]:
    """Parameter names from the stem to the head, one list a stage; together they are all parameters, once."""
    groups = [group for group in _matched(model) or _by_children(model) if group]
    listed = [name for group in groups for name in group]
    assert sorted(listed) == sorted(name for name, _ in model.named_parameters()), (
        "groups must partition the parameters"
    )
    return groups


def _matched(model: nn.Module) -> list[list[str]]:
    """Groups as timm's network tells them itself; none where it does not."""
    if not hasattr(model, "group_matcher"):
        return []
    try:
        matcher = model.group_matcher(coarse=True)  # type: ignore[operator]
    except AssertionError:  # some know but one way
        matcher = model.group_matcher(coarse=False)  # type: ignore[operator]
    named: dict[Any, list[str]] = group_parameters(model, matcher)
    return [named[key] for key in sorted(named)]


def _by_children(model: nn.Module) -> list[list[str]]:
    """Groups by the network's parts, in order: what is its own, then each part, a list of most of it one by one."""
    half = _size(model) / 2
    groups = [[name for name, _ in model.named_parameters(recurse=False)]]
    for name, child in model.named_children():
        listed = isinstance(child, nn.Sequential | nn.ModuleList) and _size(child) > half
        parts = [(f"{name}.{part}", module) for part, module in child.named_children()] if listed else [(name, child)]
        groups += [[f"{path}.{leaf}" for leaf, _ in module.named_parameters()] for path, module in parts]
    return groups


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def frozen_names(model: nn.Module, freeze: str) -> frozenset[str]:
    """Names of the parameters that `freeze` keeps as they are.

    "none": nothing; "auto": the lower half of the stages; a module's name: everything up to and
    including that module, in the order the network defines them. The head always trains.
    ConfigError, with the nearest name, for a module the network does not have.
    """
    if freeze == "none":
        return frozenset()
    groups = depth_groups(model)
    if freeze == "auto":
        return frozenset(name for group in groups[: len(groups) // 2] for name in group)
    names = [name for name, _ in model.named_parameters()]
    inside = [at for at, name in enumerate(names) if name.startswith(freeze + ".") or name == freeze]
    if not inside:
        modules = [name for name, _ in model.named_modules() if name]
        near = difflib.get_close_matches(freeze, modules, n=3) or modules[:6]
        raise ConfigError(f"cannot freeze {freeze!r}: the network has no such layer; there are {', '.join(near)} ...")
    return frozenset(names[: max(inside) + 1]) - frozenset(groups[-1])


def freeze_parameters(model: nn.Module, names: Iterable[str]) -> None:
    """Take the named parameters out of training; the others train."""
    frozen = frozenset(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)


def frozen_in(model: nn.Module) -> frozenset[str]:
    """Names of the parameters that were taken out of training."""
    return frozenset(name for name, parameter in model.named_parameters() if not parameter.requires_grad)


def set_training_mode(model: nn.Module, *, frozen: frozenset[str], bn: str) -> None:
    """Training mode, except that frozen layers, and with `bn` "frozen" every BatchNorm, stay in evaluation mode.

    A layer in evaluation mode keeps its running statistics to the byte and drops nothing out.
    """
    model.train()
    for name, module in model.named_modules():
        own = [f"{name}.{leaf}" if name else leaf for leaf, _ in module.named_parameters()]
        whole_frozen = bool(own) and all(leaf in frozen for leaf in own)
        batchnorm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if whole_frozen or (batchnorm and bn == "frozen"):
            module.eval()


def learns_statistics(model: nn.Module, *, frozen: frozenset[str], bn: str) -> bool:
    """Whether training estimates any BatchNorm's statistics, for which a batch must stay whole."""
    set_training_mode(model, frozen=frozen, bn=bn)
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training for module in model.modules())


def scaled_groups(groups: list[list[str]], layer_decay: float) -> list[tuple[list[str], float]]:
    """The groups from the head down, each with its factor on the schedule's rate: 1, `layer_decay`, its square, ..."""
    return [(group, layer_decay**depth) for depth, group in enumerate(reversed(groups))]


def parameter_groups(model: nn.Module, *, layer_decay: float, weight_decay: float) -> list[dict[str, Any]]:
    """Optimizer groups of the trainable parameters: `params`, `names`, `scale` and `weight_decay`.

    `scale` multiplies the schedule's rate: 1 for the head, `layer_decay` for the stage below it,
    its square for the next, and so on down. Norms, biases and other vectors do not decay.
    """
    parameters = dict(model.named_parameters())
    norms = {
        f"{name}.{leaf}"
        for name, module in model.named_modules()
        if isinstance(module, _NORMS)
        for leaf, _ in module.named_parameters(recurse=False)
    }
    exempt = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()  # type: ignore[operator]  # timm's: positions, tokens, tables
    groups: list[dict[str, Any]] = []
    for stage, scale in scaled_groups(depth_groups(model), layer_decay):
        trained = [name for name in stage if parameters[name].requires_grad]
        plain = {
            name
            for name in trained
            if name in norms
            or parameters[name].ndim <= 1
            or any(name.endswith(leaf) or fnmatch(name, leaf) for leaf in exempt)
        }
        for names, decay in (([n for n in trained if n not in plain], weight_decay), (sorted(plain), 0.0)):
            if names:
                tensors = [parameters[name] for name in names]
                groups.append({"params": tensors, "names": names, "scale": scale, "weight_decay": decay})
    return groups


# ---------------------------------------------------------------- the optimizer


def make_optimizer(config: Config, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimizer that `config` names, as timm makes it; Adam and AdamW fused where torch can.

    Adam (L2 decay as the paper has it): Kingma and Ba, arXiv 1412.6980; AdamW (decoupled): Loshchilov and Hutter,
    arXiv 1711.05101. `beta2` is for optimizers with two decay rates, `eps` for those that have it.
    """
    known = get_optimizer_info(config.optimizer)
    options: dict[str, Any] = {"eps": config.eps} if known.has_eps else {}
    if known.has_betas and known.num_betas == 2:
        options["betas"] = (config.momentum, config.beta2)
    if config.optimizer in ("adam", "adamw"):
        options["fused"] = groups[0]["params"][0].device.type in ("cpu", "cuda")
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        [{key: value for key, value in group.items() if key != "names"} for group in groups],
        opt=config.optimizer,
        lr=peak_rate(config),
        momentum=config.momentum,
        **options,
    )
    return optimizer


def set_rate(optimizer: torch.optim.Optimizer, rate: Rate) -> None:
    """Use `rate` for the next update, each group by its own scale; the momentum where the optimizer has one."""
    for group in optimizer.param_groups:
        group["lr"] = rate.lr * group["scale"]
        if "betas" in group:
            group["betas"] = (rate.momentum, *group["betas"][1:])
        elif "momentum" in group:
            group["momentum"] = rate.momentum


def clip_gradients(optimizer: torch.optim.Optimizer, most: float) -> None:
    """Scale all gradients so that their common norm is at most `most`; 0 leaves them as they are."""
    if most:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, most)


def state_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    """The optimizer's moments and step counts as flat tensors, keyed `parameter|entry`.

    `names` are the parameters' names in the optimizer's order.
    """
    flat: dict[str, Tensor] = {}
    for at, entries in optimizer.state_dict()["state"].items():
        for entry, value in entries.items():
            flat[f"{names[at]}|{entry}"] = torch.as_tensor(value)
    return flat


def load_state_tensors(optimizer: torch.optim.Optimizer, names: list[str], flat: dict[str, Tensor]) -> None:
    """Put back what `state_tensors` took out, each moment in its parameter's own memory layout.

    The fused update walks memory, not indices: a contiguous moment beside a channels_last weight would be
    applied to the wrong entries.
    """
    where = {name: at for at, name in enumerate(names)}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in flat.items():
        name, entry = key.rsplit("|", 1)
        own = parameters[where[name]]
        alike = torch.empty_like(own, dtype=value.dtype).copy_(value) if value.shape == own.shape else value
        state.setdefault(where[name], {})[entry] = alike
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
