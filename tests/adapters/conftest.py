"""Keras needs to know its backend before it is imported."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")
