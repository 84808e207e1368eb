"""The ONNX graph of a trained network: one decoded photo in, probabilities out.

Resize, crop and normalization are nodes of the graph, written here: torch's own exporter gives a resize with other
attributes. On bytes, onnxruntime's antialiased resize is Pillow's to one or two gray levels.
"""

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, compose, helper, numpy_helper
from torch import Tensor, nn

from upcycle.data.decode import MAX_ASPECT
from upcycle.data.preprocessing import Preprocessing
from upcycle.errors import ExportError
from upcycle.model import pooling
from upcycle.model.network import VIEWS, Network
from upcycle.task import Binary, Task

OPSET = 18
"""The first with an antialiased resize."""
OUTPUTS = ("probabilities", "features", "feature_map")
RESIZES: Mapping[str, Mapping[str, Any]] = {
    "bilinear": {"mode": "linear", "antialias": 1, "exclude_outside": 1},
    "bicubic": {"mode": "cubic", "antialias": 1, "exclude_outside": 1, "cubic_coeff_a": -0.5},
}
"""Attributes of the resize node by interpolation, as Pillow computes it."""
_INSTEAD = "export with --format timm, or train another --arch"


class Answering(nn.Module):
    """A network as it is exported: probabilities [N, K], the features [N, D] that its head reads, the last map.

    Features and map are those of the image itself, the probabilities those of all the network's views. A network
    without a linear head gives its probabilities alone.
    """

    def __init__(self, network: Network, task: Task) -> None:
        super().__init__()
        self.network = network
        self.binary = isinstance(task, Binary)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Of normalized images [N, 3, S, S], float."""
        network = self.network
        if not network.has_linear_head:
            return (self._probabilities(network(images)),)
        views = list(VIEWS[network.views](images))
        # one pass for all views: the graph holds the network once
        features, last = pooling.pooled_with_map(network.body, torch.cat(views), network.stages)
        logits = network.head(features.float()).unflatten(0, (len(views), -1)).mean(dim=0)
        count = images.shape[0]
        return self._probabilities(logits / network.temperature), features[:count], last[:count]

    def _probabilities(self, logits: Tensor) -> Tensor:
        if self.binary:
            return torch.cat([torch.sigmoid(-logits), torch.sigmoid(logits)], dim=1)
        return logits.softmax(dim=1)


def network_graph(network: Network, task: Task, size: int, *, batch: bool) -> onnx.ModelProto:
    """`images` float [N, 3, S, S], normalized, to `OUTPUTS`; N is 1 unless `batch`. ExportError with the operator."""
    model = Answering(network, task).eval()
    images = torch.zeros(2 if batch else 1, 3, size, size)
    with torch.no_grad():
        count = len(model(images))
    dynamic = {"images": {0: torch.export.Dim("N")}} if batch else None
    with _quiet():
        try:
            program = torch.onnx.export(
                model,
                (images,),
                input_names=["images"],
                output_names=list(OUTPUTS[:count]),
                opset_version=OPSET,
                dynamo=True,
                dynamic_shapes=dynamic,
                external_data=False,
            )
        except Exception as error:  # the exporter raises what its many passes do
            raise ExportError(_reason(error)) from error
    assert program is not None
    proto: onnx.ModelProto = program.model_proto
    return proto


def photo_graph(network: onnx.ModelProto, preprocessing: Preprocessing) -> onnx.ModelProto:
    """The same behind its preprocessing: `image` uint8 [H, W, 3], upright RGB of any size.

    ExportError for an interpolation that ONNX does not have.
    """
    before = _preprocessing_graph(preprocessing, network.ir_version)
    merged = compose.merge_models(
        compose.add_prefix(before, "photo/", rename_inputs=False, rename_outputs=False),
        network,
        io_map=[("images", "images")],
    )
    onnx.checker.check_model(merged)
    return merged


def described(model: onnx.ModelProto, facts: Mapping[str, str]) -> onnx.ModelProto:
    """The same with `facts` as its only metadata, and no names of files and folders in it."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.producer_name, made.producer_version, made.doc_string = "upcycle", "", ""
    del made.metadata_props[:]
    helper.set_model_props(made, dict(facts))
    for value in (*made.graph.node, *made.graph.value_info, *made.graph.input, *made.graph.output):
        del value.metadata_props[:]
        value.doc_string = ""
    for tensor in made.graph.initializer:
        del tensor.metadata_props[:]
    del made.graph.metadata_props[:]
    return made


def _preprocessing_graph(preprocessing: Preprocessing, ir_version: int) -> onnx.ModelProto:
    """`image` uint8 [H, W, 3] to `images` float [1, 3, S, S]; as `data.decode.load_image` and evaluation's crop do it.

    An image longer than 4 to 1 is not cut there before it is resized, as the middle is all that is used of it: only
    so far as its size has to stay bounded.
    """
    if preprocessing.interpolation not in RESIZES:
        raise ExportError(
            f"ONNX has no {preprocessing.interpolation} resize as Pillow has it: export with --batch and resize "
            "before, or train with bilinear or bicubic in --input"
        )
    make = _Nodes()
    side, size = make.whole(preprocessing.resize_to), preprocessing.size
    shape = make("Shape", "image")
    high, wide = make("Gather", shape, make.whole(0)), make("Gather", shape, make.whole(1))
    short = make("Min", high, wide)
    # so many rows or columns in all, an even number, go from both ends of what is longer than 6 to 1
    two, most = make.whole(2), make("Mul", short, make.whole(MAX_ASPECT + 2))
    zero = make.whole(0)
    cuts = [make("Max", make("Div", make("Sub", length, most), two), zero) for length in (high, wide)]
    lengths = [make("Sub", length, make("Mul", cut, two)) for length, cut in zip((high, wide), cuts, strict=True)]
    ends = [make("Add", cut, length) for cut, length in zip(cuts, lengths, strict=True)]
    starts, stops = make("Concat", *cuts, axis=0), make("Concat", *ends, axis=0)
    kept = make("Slice", "image", starts, stops, make.wholes(0, 1))
    targets = make("Concat", *(_target(make, length, short, side) for length in lengths), axis=0)
    planes = make("Unsqueeze", make("Transpose", kept, perm=[2, 0, 1]), make.wholes(0))
    sizes = make("Concat", make.wholes(1, 3), targets, axis=0)
    half = {"coordinate_transformation_mode": "half_pixel", **RESIZES[preprocessing.interpolation]}
    resized = make("Resize", planes, "", "", sizes, **half)
    spare = make("Sub", targets, make.whole(size))
    half_of_it = make("Div", spare, two)
    # half of an odd number goes to the even neighbor, as in evaluation's crop
    start = make("Add", half_of_it, make("Mul", make("Mod", spare, two), make("Mod", half_of_it, two)))
    stop = make("Add", start, make.whole(size))
    middle = make("Cast", make("Slice", resized, start, stop, make.wholes(2, 3)), to=TensorProto.FLOAT)
    scaled = make("Div", middle, make.constant(np.array(255, np.float32)))
    mean, std = (np.array(values, np.float32).reshape(1, 3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    make("Div", make("Sub", scaled, make.constant(mean)), make.constant(std), output="images")
    graph = helper.make_graph(
        make.nodes,
        "preprocessing",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["height", "width", 3])],
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, size, size])],
        make.constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=ir_version)


def _target(make: "_Nodes", length: str, short: str, side: str) -> str:
    """The length of a side after resizing, as `data.decode.target_size` has it: the ratio kept, rounded half up.

    An even number beyond 4 to 1, as there, so that the middle stays where it is.
    """
    two = make.whole(2)
    doubled = make("Mul", make("Mul", length, side), two)
    near = make("Div", make("Add", doubled, short), make("Mul", short, two))
    even = make("Mul", make("Div", near, two), two)
    return make("Where", make("Greater", near, make("Mul", side, make.whole(MAX_ASPECT))), even, near)


class _Nodes:
    """Nodes and constants of a graph, named by number as they come."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._known: dict[bytes, str] = {}

    def __call__(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """A node's one output, by its name."""
        name = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, value: np.ndarray[Any, Any]) -> str:
        """A constant, stored once however often it is asked for."""
        key = repr((value.dtype, value.shape)).encode() + value.tobytes()
        if key not in self._known:
            self._known[key] = f"constant_{len(self.constants)}"
            self.constants.append(numpy_helper.from_array(value, self._known[key]))
        return self._known[key]

    def whole(self, number: int) -> str:
        """One whole number, [1]."""
        return self.wholes(number)

    def wholes(self, *numbers: int) -> str:
        """Whole numbers, [n]."""
        return self.constant(np.array(numbers, np.int64))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter prints and warns of, which is about its own passes."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """The operator that ONNX lacks, or the first line of what the exporter says."""
    cause: BaseException | None = error
    while cause is not None:
        if found := re.search(
            r"No (?:ONNX function|decompositions?)[^'<]*['<]?(?:OpOverload\(op=)?'?([\w.:]+)", str(cause)
        ):
            return f"ONNX has no operator for {found[1]} of this network: {_INSTEAD}"
        cause = cause.__cause__ or cause.__context__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return f"this network cannot be exported to ONNX ({lines[0][:200]}): {_INSTEAD}"
