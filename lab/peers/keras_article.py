"""The article's script in Keras: ResNet-50, all layers, one-cycle by epoch, early stopping with patience 5; fp32.

Keras's own ResNet50 strides in the first convolution of a block (v1), so the network is keras-hub's, which strides as
torchvision's does; it takes the same weights by way of keras-hub's converter of timm's names. DATA has train, val and
test folders; --epochs is the most that are trained.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import common
import keras
import keras_hub
import numpy as np
import tensorflow as tf
from safetensors.numpy import load_file, save_file
from sklearn.metrics import f1_score


def backbone(weights: Path) -> keras.Model:
    """keras-hub's ResNet-50 with weights under torchvision's names."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tensors = {name: value.astype(np.float32) for name, value in load_file(weights).items()}
        save_file(tensors, folder / "model.safetensors")
        config = {"architecture": "resnet50", "num_classes": 1000, "pretrained_cfg": {}}
        (folder / "config.json").write_text(json.dumps(config))
        return keras_hub.models.ResNetBackbone.from_preset(str(folder))


def network(weights: Path, size: int) -> keras.Model:
    """Pixels 0 to 255 [n, size, size, 3] -> a probability [n, 1]."""
    inputs = keras.Input((size, size, 3))
    mean, deviation = np.array([0.485, 0.456, 0.406]) * 255, np.array([0.229, 0.224, 0.225]) * 255
    x = keras.layers.Normalization(mean=mean, variance=deviation**2)(inputs)
    x = keras.layers.GlobalAveragePooling2D()(backbone(weights)(x))
    return keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x))


class Told(keras.callbacks.Callback):
    """A line a finished epoch on stderr, kept in `history`: seconds since the script began, and Keras's own numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.history: list[dict[str, float]] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        numbers = {name: float(value) for name, value in logs.items()}
        self.history.append({"epoch": epoch + 1, "seconds": time.perf_counter() - common.BEGAN, **numbers})
        print(json.dumps(self.history[-1]), file=sys.stderr, flush=True)


def main() -> None:
    asked, clock = common.arguments(), common.Clock()
    keras.utils.set_random_seed(asked.seed)
    tf.config.threading.set_intra_op_parallelism_threads(asked.threads)
    sets = {
        split: keras.utils.image_dataset_from_directory(
            asked.data / split,
            label_mode="binary",
            image_size=(asked.size, asked.size),
            batch_size=asked.batch,
            shuffle=split == "train",
            seed=asked.seed,
            verbose=False,
        )
        for split in ("train", "val", "test")
    }
    model = network(asked.weights, asked.size)
    model.compile(keras.optimizers.Adam(common.article_rate(0)), "binary_crossentropy", metrics=["accuracy"])
    told = Told()
    clock.begin()
    fitted = model.fit(
        sets["train"],
        validation_data=sets["val"],
        epochs=asked.epochs,
        verbose=0,
        callbacks=[
            keras.callbacks.LearningRateScheduler(lambda epoch, _: common.article_rate(epoch)),
            keras.callbacks.EarlyStopping("val_loss", patience=5, restore_best_weights=True),
            told,
        ],
    )
    clock.end()
    trained = time.perf_counter()
    scores = {}
    for split in ("val", "test"):
        positive = sets[split].class_names[1]
        labels = np.array([Path(file).parent.name == positive for file in sets[split].file_paths])
        predicted = model.predict(sets[split], verbose=0).ravel() > 0.5
        scores[split] = float(f1_score(labels, predicted, average="macro"))
    common.scored(
        "Keras",
        scores,
        ("keras", "keras-hub", "tensorflow"),
        epochs=len(fitted.epoch),
        history=told.history,
        start_seconds=clock.start,
        fit_seconds=clock.epochs[0],
        test_seconds=time.perf_counter() - trained,
    )


if __name__ == "__main__":
    main()
