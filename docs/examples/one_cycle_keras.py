"""One-cycle in Keras 3, any backend: a rate per update, inside the compiled training step."""

import keras
import numpy as np

from upcycle import OneCycle
from upcycle.adapters.keras import LearningRate

inputs, labels = np.random.randn(320, 8), np.random.randint(2, size=320)
model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
optimizer = keras.optimizers.SGD(LearningRate(OneCycle(0.1, total_steps=20)), momentum=0.9)
model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit(inputs, labels, batch_size=32, epochs=2)
print(f"{float(optimizer.learning_rate):.3e}")
