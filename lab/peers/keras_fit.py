"""Keras 3 on TensorFlow: `keras.applications.ResNet50` and `model.fit`, all layers trained.

As in its transfer learning guide the decoded images are cached, batches prefetched, and BatchNorm's statistics fixed
(`training=False`) with --bn fixed. --bf16 is mixed_bfloat16; --jit off is `compile(jit_compile=False)`, where "auto"
takes XLA.
Keras's own ResNet50 strides in the first convolution of a block (v1: 3.9 GMAC an image, not 4.1), and its weights are
random here: speed does not depend on them.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import common
import keras
import tensorflow as tf

asked, clock = common.arguments(), common.Clock()
tf.config.threading.set_intra_op_parallelism_threads(asked.threads)
tf.config.set_visible_devices([], "GPU")  # measured on processors alone
if asked.bf16:
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
images = keras.utils.image_dataset_from_directory(
    asked.data, label_mode="binary", image_size=(asked.size, asked.size), batch_size=asked.batch, verbose=False
)
count = len(images.file_paths)
images = images.cache().prefetch(tf.data.AUTOTUNE)


class EpochClock(keras.callbacks.Callback):
    """Times each epoch."""

    def on_epoch_begin(self, *_: object, **__: object) -> None:
        clock.begin()

    def on_epoch_end(self, *_: object, **__: object) -> None:
        clock.end()


inputs = keras.Input((asked.size, asked.size, 3))
x = keras.layers.RandomFlip("horizontal")(inputs)
x = keras.applications.resnet50.preprocess_input(x)
backbone = keras.applications.ResNet50(include_top=False, weights=None, pooling="avg")
outputs = keras.layers.Dense(1, activation="sigmoid", dtype="float32")(backbone(x, training=asked.bn == "batch"))
model = keras.Model(inputs, outputs)
model.compile(keras.optimizers.Adam(1e-4), "binary_crossentropy", jit_compile=False if asked.jit == "off" else "auto")
history = model.fit(images, epochs=asked.epochs, verbose=0, callbacks=[EpochClock()])
common.report("Keras", clock, count, ("keras", "tensorflow"), loss=history.history["loss"][-1])
