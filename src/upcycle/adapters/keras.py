"""upcycle's schedules for Keras 3, any backend: a rate per update as a `LearningRateSchedule`, or per epoch.

Keras has no schedule for the momentum: the optimizer's own stays.
"""

from dataclasses import replace
from typing import Any

import keras
from keras import ops

from upcycle.adapters.table import table
from upcycle.changed_schedules import from_dict, to_dict
from upcycle.errors import ConfigError
from upcycle.schedules import RampSustainDecay, Schedule, Step


@keras.saving.register_keras_serializable("upcycle")
class LearningRate(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]  # Keras is not installed
    """The rate of each update, gathered from a table inside the compiled training step.

    `steps` is the number of updates; it may be left out where the schedule has a `total_steps`. Past the end the last
    rate stays. Give `gradient_accumulation_steps` as the optimizer has it: Keras counts micro-batches, so that its own
    schedules run that many times too fast.
    """

    def __init__(
        self, schedule: Schedule, steps: int | None = None, *, gradient_accumulation_steps: int | None = None
    ) -> None:
        super().__init__()
        if gradient_accumulation_steps is not None and gradient_accumulation_steps < 1:
            raise ConfigError(
                f"gradient_accumulation_steps = {gradient_accumulation_steps} is out of range: use 1 or more"
            )
        self.schedule, self.steps, self.accumulation = schedule, steps, gradient_accumulation_steps
        self._rates = [rate.lr for rate in table(schedule, steps)]

    def __call__(self, step: Any) -> Any:
        """The rate at Keras's `step`, a scalar of the backend's, in Keras's float type."""
        update = ops.floor_divide(ops.cast(step, "int32"), self.accumulation or 1)
        rates = ops.convert_to_tensor(self._rates, dtype=keras.config.floatx())
        return ops.take(rates, ops.clip(update, 0, len(self._rates) - 1))

    def get_config(self) -> dict[str, Any]:
        """Plain values, from which `from_config` makes an equal schedule."""
        plain = to_dict(self.schedule)
        return {"schedule": plain, "steps": self.steps, "gradient_accumulation_steps": self.accumulation}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "LearningRate":
        """The schedule that `get_config` described; ConfigError for a custom one, of which only the name is known."""
        return cls(**{**config, "schedule": from_dict(config["schedule"])})


class LearningRateByEpoch(keras.callbacks.LearningRateScheduler):  # type: ignore[misc]  # Keras is not installed
    """A callback that sets the rate of each epoch: `schedule(epoch)`, epochs counted from 0.

    Those of `RampSustainDecay` are the rates of the article "Fine-tuning pre-trained ResNet-50 with
    one-cycle". Any other schedule is asked with epochs for steps.
    """

    def __init__(self, schedule: Schedule, verbose: int = 0) -> None:
        counted = replace(schedule, steps_per_epoch=1) if isinstance(schedule, RampSustainDecay | Step) else schedule
        super().__init__(lambda epoch, _: counted(epoch).lr, verbose)
