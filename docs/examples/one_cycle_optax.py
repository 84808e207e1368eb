"""One-cycle in optax: the rate and the momentum of every update, compiled."""

import jax
import optax

from upcycle import OneCycle
from upcycle.adapters.optax import learning_rate, momentum

inputs, weights = jax.random.normal(jax.random.key(0), (32, 8)), jax.numpy.ones(8)
schedule = OneCycle(0.1, total_steps=20)
optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate(schedule), momentum=momentum(schedule))
state, gradient = optimizer.init(weights), jax.jit(jax.grad(lambda weights: ((inputs @ weights) ** 2).mean()))
for _ in range(20):
    updates, state = optimizer.update(gradient(weights), state)
    weights = optax.apply_updates(weights, updates)
    print(f"{state.hyperparams['learning_rate']:.3e}")
