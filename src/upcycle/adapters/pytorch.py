"""upcycle's schedules as a torch `LRScheduler`, which Lightning and transformers' `Trainer` take as it is.

Call `step()` once after each update of the optimizer, not after each micro-batch of an accumulated one. In Lightning
that is `"interval": "step"`; transformers does it by itself.
"""

import json
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from upcycle.changed_schedules import to_dict
from upcycle.errors import ConfigError
from upcycle.schedules import Schedule


class Scheduler(LRScheduler):
    """Sets the learning rate and, unless `momentum` is False, the momentum (Adam's beta1) of every parameter group.

    The group with the highest initial `lr` gets the schedule's rate, and the others keep their ratio to it; a group
    with a `scale` of its own gets the rate times that. Initial rates have no other effect. All groups have one
    momentum. Past the schedule's end the last rate stays.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, schedule: Schedule, last_epoch: int = -1, *, momentum: bool = True
    ) -> None:
        self.schedule, self.momentum = schedule, momentum
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | torch.Tensor]:
        """The rate of each group at the next update."""
        rate = self.schedule(self.last_epoch).lr
        highest = max(float(lr) for lr in self.base_lrs)
        ratios = [float(lr) / highest if highest else 1.0 for lr in self.base_lrs]
        groups = zip(self.optimizer.param_groups, ratios, strict=True)
        return [rate * group.get("scale", ratio) for group, ratio in groups]

    def step(self, epoch: int | None = None) -> None:
        """Use the rates of the next update."""
        super().step(epoch)
        if self.momentum:
            self._set_momentum()

    def _set_momentum(self) -> None:
        momentum = self.schedule(self.last_epoch).momentum
        for group in self.optimizer.param_groups:
            if "betas" in group:
                group["betas"] = (momentum, *group["betas"][1:])
            elif "momentum" in group:
                group["momentum"] = momentum

    def state_dict(self) -> dict[str, Any]:
        """Plain values: the number of updates made, and the schedule as `to_dict` writes it."""
        return {"last_epoch": self.last_epoch, "schedule": self._described()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume after the updates that `state_dict` counts; ConfigError if they were made by another schedule."""
        if state_dict.get("schedule") != self._described():
            before = json.dumps(state_dict.get("schedule"))
            raise ConfigError(
                f"the checkpoint was saved with the schedule {before}, not {json.dumps(self._described())}: resume "
                "with the same schedule, or start without the scheduler's state"
            )
        self.last_epoch = state_dict["last_epoch"]
        self._last_lr = self.get_lr()
        for group, lr in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
        if self.momentum:
            self._set_momentum()

    def _described(self) -> dict[str, Any]:
        """Lists for tuples, as any format of checkpoints leaves them."""
        plain: dict[str, Any] = json.loads(json.dumps(to_dict(self.schedule)))
        return plain
