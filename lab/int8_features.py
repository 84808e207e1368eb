"""Features of a frozen network in int8 by onnxruntime beside torch: images/s in turn, and what making the graph takes.

    python lab/int8_features.py DATA --weights FILE [--size 224] [--rounds 5]

ResNet-50, its last three stages, one thread, batches of 32 images of DATA/*/* or DATA/*/*/*; torch in this machine's
precision. The graph is calibrated on 128 of the images. Prints JSON.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from upcycle import device
from upcycle.bundle.graph import network_graph
from upcycle.bundle.int8 import quantized
from upcycle.bundle.runtime import open_session
from upcycle.data import decode
from upcycle.data.augment import center_crop, normalize
from upcycle.data.preprocessing import Preprocessing
from upcycle.evaluation.forward import forward
from upcycle.model.network import create, load_body, spec_of
from upcycle.model.weights import read

BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    machine = device.detect(threads=1, device="cpu")
    device.apply(machine)
    weights = read(asked.weights)
    spec = spec_of("resnet50", ("a", "b"), Preprocessing(size=asked.size), weights)
    files = sorted(path for path in asked.data.rglob("*") if path.is_file())
    chosen = [files[at] for at in np.linspace(0, len(files) - 1, 160).astype(int)]
    images = [
        normalize(center_crop([decode.load_image(path, spec.preprocessing.decoding)], asked.size), spec.preprocessing)
        for path in chosen
    ]
    network, plain = create(spec, machine), create(spec)
    for one in (network, plain):
        load_body(one, weights, spec.arch)
        one.read(3)
        one.eval()
    began = time.perf_counter()
    graph = network_graph(plain, spec.task, asked.size, batch=True)
    exported = time.perf_counter()
    small = quantized(graph, (image.contiguous().numpy() for image in images[:128]))
    made = time.perf_counter()
    session, full = (open_session(proto.SerializeToString(), 1) for proto in (small, graph))
    batch = torch.cat(images[:BATCH])
    numbers = batch.contiguous().numpy()
    found: dict[str, list[float]] = {}

    def timed(name: str, run: Callable[[], object]) -> None:
        run_began = time.perf_counter()
        run()
        found.setdefault(name, []).append(BATCH / (time.perf_counter() - run_began))

    for _ in range(asked.rounds + 1):
        timed("torch", lambda: forward(network, [(batch, BATCH)], output=network.features))
        timed("int8", lambda: session.run(["features"], {"images": numbers}))
        timed("fp32", lambda: full.run(["features"], {"images": numbers}))
    speeds = {name: some[1:] for name, some in found.items()}
    ratios = [one / other for one, other in zip(speeds["int8"], speeds["torch"], strict=True)]
    print(
        json.dumps(
            {
                "machine": [*machine.flags, machine.precision],
                "images_per_second": {name: round(statistics.median(some), 1) for name, some in speeds.items()},
                "int8_over_torch": [round(value, 2) for value in (min(ratios), statistics.median(ratios), max(ratios))],
                "seconds_to_export": round(exported - began, 1),
                "seconds_to_quantize": round(made - exported, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
