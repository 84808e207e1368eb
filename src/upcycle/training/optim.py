"""The optimizer: Adam or AdamW over parameter groups, its rate set before each update."""

from typing import Any

import torch
from torch import Tensor

from upcycle.config import Config
from upcycle.schedules import Rate


def make_optimizer(config: Config, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Adam (L2 decay as the paper has it) or AdamW (decoupled), fused where torch can.

    Adam: Kingma and Ba, arXiv 1412.6980; AdamW: Loshchilov and Hutter, arXiv 1711.05101.
    """
    kind: type[torch.optim.Adam] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    device = groups[0]["params"][0].device.type
    return kind(
        [{key: value for key, value in group.items() if key != "names"} for group in groups],
        lr=config.lr,
        betas=(config.momentum, config.beta2),
        eps=config.eps,
        fused=device in ("cpu", "cuda"),
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: Rate) -> None:
    """Use `rate` for the next update, each group by its own scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate.lr * group["scale"]
        group["betas"] = (rate.momentum, group["betas"][1])


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
