"""Keras: the schedule as plain values, the callback's rate per epoch; the rates per update are in the contract."""

import json

import numpy as np
import pytest

from tests.adapters.loops import mean_of_outputs
from upcycle.errors import ConfigError
from upcycle.schedules import Constant, CustomSchedule, OneCycle, RampSustainDecay, Rate

keras = pytest.importorskip("keras")
pytestmark = pytest.mark.filterwarnings("default")  # Keras with jax warns of its own old calls

ARTICLE = [1e-5, 2.8e-5, 4.6e-5, 6.4e-5, 8.2e-5, 1e-4, 8.2e-5]


def test_a_schedule_is_plain_values_and_comes_back_from_them() -> None:
    from upcycle.adapters.keras import LearningRate

    plain = json.loads(json.dumps(LearningRate(OneCycle(0.1, 8), gradient_accumulation_steps=2).get_config()))
    again = LearningRate.from_config(plain)
    assert OneCycle(0.1, 8) == again.schedule
    assert 0.1 == pytest.approx(float(again(2)))
    optimizer = keras.optimizers.deserialize(keras.optimizers.serialize(keras.optimizers.Adam(again)))
    assert OneCycle(0.1, 8) == optimizer._learning_rate.schedule


def test_a_custom_schedule_cannot_come_back() -> None:
    from upcycle.adapters.keras import LearningRate

    def flat(step: int) -> Rate:
        return Rate(0.1, 0.9)

    with pytest.raises(ConfigError, match="unknown schedule 'custom'"):
        LearningRate.from_config(LearningRate(CustomSchedule(flat), 3).get_config())


def test_no_micro_batches_are_refused() -> None:
    from upcycle.adapters.keras import LearningRate

    with pytest.raises(ConfigError, match="^gradient_accumulation_steps = 0 is out of range: use 1 or more$"):
        LearningRate(Constant(0.1), 3, gradient_accumulation_steps=0)


@pytest.mark.parametrize("schedule", [RampSustainDecay(), RampSustainDecay(steps_per_epoch=63)])
def test_the_callback_sets_the_articles_rate_of_each_epoch_also_resumed(schedule: RampSustainDecay) -> None:
    from upcycle.adapters.keras import LearningRateByEpoch

    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    model = keras.Sequential([keras.Input((2,)), layer])
    model.compile(keras.optimizers.SGD(), loss=mean_of_outputs)
    seen: list[float] = []
    row = np.array([[1.0, 0.0]])
    for epoch in range(len(ARTICLE)):  # one call each, as a run does that is resumed
        callbacks = [LearningRateByEpoch(schedule)]
        model.fit(row, np.zeros(1), initial_epoch=epoch, epochs=epoch + 1, verbose=0, callbacks=callbacks)
        seen.append(-float(model.get_weights()[0][0, 0]))
        model.set_weights([np.zeros((2, 1))])
    assert ARTICLE == pytest.approx(seen)
