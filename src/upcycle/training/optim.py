"""The optimizer: one of timm's over parameter groups, its rate set before each update."""

from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_info  # type: ignore[attr-defined]
from torch import Tensor

from upcycle.config import Config
from upcycle.schedules import Rate


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
        lr=config.lr,
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
