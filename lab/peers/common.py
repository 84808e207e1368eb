"""What the peers' scripts share: their arguments, the clock of each epoch, and the line they end with."""

import argparse
import json
import math
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path

BEGAN = time.perf_counter()


def arguments() -> argparse.Namespace:
    """`data` is a folder CLASS/*; `guide` is the setting of the tool's own guide, `best` the fastest one found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--setting", choices=("guide", "best"), default="guide")
    parser.add_argument("--bf16", action="store_true", help="mixed precision; slow where the processor has no bf16")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--bn", choices=("batch", "fixed"), default="batch", help="BatchNorm's statistics")
    parser.add_argument("--workers", type=int, help="loader workers, unless those of the setting")
    parser.add_argument("--fused", action="store_true", help="torch's fused optimizer")
    parser.add_argument("--jit", choices=("auto", "off"), default="auto", help="Keras: XLA where auto finds it fit")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "0")) or os.cpu_count())
    return parser.parse_args()


def workers(asked: argparse.Namespace, guide: int) -> int:
    """Loader workers: those asked for, `guide` with that setting; best: none on a processor, for a GPU one a core.

    On two cores a worker takes more from the network than it brings, whether it stays or not (peer_settings.py).
    """
    if asked.workers is not None:
        return int(asked.workers)
    if asked.setting == "guide":
        return guide
    return 0 if asked.device == "cpu" else len(os.sched_getaffinity(0))


def article_rate(epoch: int) -> float:
    """The article's schedule, epochs counted from 0: up to 1e-4 in five epochs, then down to 1e-5 by a fifth each."""
    start, top, least, rampup, decay = 1e-5, 1e-4, 1e-5, 5, 0.8
    if epoch < rampup:
        return start + (top - start) / rampup * epoch
    return least + (top - least) * decay ** (epoch - rampup)


class Clock:
    """Seconds of each epoch; `start` is from the script's first line to the first epoch's first moment."""

    def __init__(self) -> None:
        self.start = 0.0
        self.epochs: list[float] = []
        self._began = 0.0

    def begin(self) -> None:
        self._began = time.perf_counter()
        self.start = self.start or self._began - BEGAN

    def end(self) -> None:
        _settle()
        self.epochs.append(time.perf_counter() - self._began)


def _settle() -> None:
    """Wait for what a GPU has queued; scripts that do not use one have nothing queued."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def report(tool: str, clock: Clock, images: int, packages: tuple[str, ...], **facts: object) -> None:
    """The line of JSON that the driver reads; SystemExit where the loss, if it is given, is not finite."""
    if not math.isfinite(float(str(facts.get("loss", 0.0)))):
        raise SystemExit(f"the loss of {tool} is {facts['loss']}: it did not train")
    versions = {name: version(name) for name in packages}
    print(
        json.dumps(
            {
                "tool": tool,
                "images": images,
                "start_seconds": clock.start,
                "epoch_seconds": clock.epochs,
                "versions": versions,
                **facts,
            }
        )
    )


def scored(tool: str, scores: dict[str, float], packages: tuple[str, ...], **facts: object) -> None:
    """The line of JSON of a script that trains to the end: macro F1 of `val` and `test`, seconds since it began."""
    seconds = time.perf_counter() - BEGAN
    versions = {name: version(name) for name in packages}
    print(json.dumps({"tool": tool, "f1": scores, "seconds": seconds, "versions": versions, **facts}))


def load_backbone(model: object, weights: Path | None) -> None:
    """ImageNet weights of torchvision's names into `model`, the classifier left out."""
    if weights is None:
        return
    from safetensors.torch import load_file

    tensors = {name: value.float() for name, value in load_file(weights).items() if not name.startswith("fc.")}
    missing, unexpected = model.load_state_dict(tensors, strict=False)  # type: ignore[attr-defined]
    if unexpected or any(not name.startswith("fc.") for name in missing):
        raise SystemExit(f"these weights do not fit: {missing[:3]} {unexpected[:3]}")
