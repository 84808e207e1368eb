"""The nearest without upcycle: optax's own one-cycle peaks an update later, and leaves the momentum."""

import jax
import optax

inputs, weights = jax.random.normal(jax.random.key(0), (32, 8)), jax.numpy.ones(8)
schedule = optax.cosine_onecycle_schedule(20, 0.1, pct_start=0.25, div_factor=25, final_div_factor=400)
optimizer = optax.inject_hyperparams(optax.sgd)(schedule, momentum=0.9)
state, gradient = optimizer.init(weights), jax.jit(jax.grad(lambda weights: ((inputs @ weights) ** 2).mean()))
for _ in range(20):
    updates, state = optimizer.update(gradient(weights), state)
    weights = optax.apply_updates(weights, updates)
    print(f"{state.hyperparams['learning_rate']:.3e}")
