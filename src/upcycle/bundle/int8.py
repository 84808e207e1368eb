"""A network's graph in 8-bit whole numbers: static, per channel, calibrated on training photos (Jacob et al. 2018)."""

import contextlib
import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from upcycle.bundle.runtime import EXTRA
from upcycle.errors import ExportError

CALIBRATION = 128
"""Training photos whose activations give the ranges."""


def quantized(network: onnx.ModelProto, images: Iterable[npt.NDArray[np.float32]]) -> onnx.ModelProto:
    """The graph of `network_graph` with weights and activations in int8, by `images` [1, 3, S, S], normalized.

    Preprocessing is no part of it: that goes before it afterwards, as before the network in fp32. The head stays in
    fp32: its last sum decides between classes.
    """
    try:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise ExportError(f"onnxruntime cannot be imported ({error}): {EXTRA}") from None

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._rest = iter(images)

        def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
            image = next(self._rest, None)
            return None if image is None else {"images": image}

    with tempfile.TemporaryDirectory() as folder, _quiet():
        plain, ready, made = (Path(folder, f"{name}.onnx") for name in ("plain", "ready", "made"))
        onnx.save(network, plain)
        quant_pre_process(plain, ready, skip_symbolic_shape=True)
        last = [node.name for node in onnx.load(ready, load_external_data=False).graph.node if node.op_type == "Gemm"]
        quantize_static(
            ready,
            made,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=last[-1:],
        )
        return onnx.load(made)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantizer's advice, which it gives to the root logger."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
