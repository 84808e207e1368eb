"""The nearest without upcycle: Keras's cosine decay with a linear warm-up."""

import keras
import numpy as np

inputs, labels = np.random.randn(320, 8), np.random.randint(2, size=320)
model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
rate = keras.optimizers.schedules.CosineDecay(0.004, 15, alpha=1e-4, warmup_target=0.1, warmup_steps=5)
optimizer = keras.optimizers.SGD(rate, momentum=0.9)
model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit(inputs, labels, batch_size=32, epochs=2)
print(f"{float(optimizer.learning_rate):.3e}")
