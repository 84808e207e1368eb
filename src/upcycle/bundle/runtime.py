"""onnxruntime, and what a model gives there for one decoded photo. Needs no torch."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from upcycle.errors import ExportError

EXTRA = 'pip install "upcycle[export]"'


def open_session(model: bytes | Path, threads: int, *, shared: bool = False) -> Any:
    """A session on the CPU with so many threads; ExportError without onnxruntime, or for a file it cannot read.

    With `shared`, threads that wait leave the cores to others, as where torch computes in turn; it costs a quarter.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ExportError(f"onnxruntime cannot be imported ({error}): {EXTRA}") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0" if shared else "1")
    source = model if isinstance(model, bytes) else os.fspath(model)
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has an exception for each of its codes
        name = "the exported graph" if isinstance(model, bytes) else str(model)
        raise ExportError(f"onnxruntime cannot load {name}: {str(error).splitlines()[0][:200]}") from None


def probabilities(session: Any, photo: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """The probability of each class [K] of an upright RGB photo [H, W, 3]."""
    (row,) = session.run(["probabilities"], {"image": np.ascontiguousarray(photo)})
    return _to_one(row[0])


def probabilities_and_features(
    session: Any, photo: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """The same, and what the head reads of the photo, [D]."""
    row, features = session.run(["probabilities", "features"], {"image": np.ascontiguousarray(photo)})
    return _to_one(row[0]), features[0]


def _to_one(row: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Probabilities that add up to 1: near 1 fp32 has no digits left, and the others keep theirs."""
    wide = row.astype(np.float64)
    highest = int(wide.argmax())
    wide[highest] += 1 - wide.sum()
    return wide
