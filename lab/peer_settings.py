"""Which setting of each peer is its quickest: what `best` in the other benchmarks stands on.

    python lab/peer_settings.py FOLDER --data DATA --weights FILE --torch-python PYTHON --keras-python PYTHON
        [--images 256] [--epochs 2] [--rounds 1] [--tools "fastai;Keras"]

Every variant is a new process that trains all layers of ResNet-50 (channels_last and mixed precision, Keras in both
precisions), round by round, as in throughput.py. `kept memory` are glibc's variables of throughput.KEPT_MEMORY.
FOLDER/peer_settings.json holds every reading, FOLDER/peer_settings.md the table.
"""

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import throughput

from upcycle import device


@dataclass(frozen=True)
class Variant:
    """A tool with more words for its script; `kept` is whether the allocator keeps freed memory."""

    tool: str
    words: tuple[str, ...] = ()
    kept: bool = False
    precision: str = "bf16"
    bn: str = "batch"


VARIANTS = [
    *(Variant(tool, ("--workers", "1")) for tool in throughput.SCRIPTS if tool != "Keras"),
    *(Variant(tool, ("--workers", "1"), True) for tool in throughput.SCRIPTS if tool != "Keras"),
    *(Variant(tool, ("--workers", "0"), True) for tool in throughput.SCRIPTS if tool != "Keras"),
    *(Variant(tool, ("--workers", "1", "--fused"), True) for tool in ("timm", "fastai")),
    *(Variant("Keras", (), kept, precision, "fixed") for precision in ("bf16", "fp32") for kept in (False, True)),
    *(Variant("Keras", ("--jit", "off"), True, precision, "fixed") for precision in ("bf16", "fp32")),
]


def table(readings: dict[Variant, list[dict[str, Any]]]) -> str:
    """Markdown: a row a variant, the quickest of a tool and precision first."""
    lines = [
        "| tool | precision | setting | n | first epoch, images/s | later epochs, images/s |",
        "|---|---|---|---|---|---|",
    ]
    rows = []
    for variant, some in readings.items():
        rates = [[one["images"] / seconds for seconds in one["epoch_seconds"]] for one in some]
        first = [epochs[0] for epochs in rates]
        later = [statistics.median(epochs[1:]) for epochs in rates]
        setting = ", ".join(
            [" ".join(variant.words).replace("--", "") or "as it comes"] + ["kept memory"] * variant.kept
        )
        cells = [
            f"{statistics.median(some):.2f}" + (f" ({min(some):.2f} to {max(some):.2f})" if len(some) > 1 else "")
            for some in (first, later)
        ]
        row = f"| {variant.tool} | {variant.precision} | {setting} | {len(some)} | {' | '.join(cells)} |"
        rows.append(((variant.tool, variant.precision, -statistics.median(later)), row))
    return "\n".join([*lines, *(row for _, row in sorted(rows))]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--keras-python", default=sys.executable)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--tools", default=";".join(throughput.SCRIPTS))
    asked = parser.parse_args()
    machine = device.detect(threads=asked.threads, device="cpu")
    asked.threads, asked.device = machine.threads, machine.device
    todo = [variant for variant in VARIANTS if variant.tool in asked.tools.split(";")]
    readings: dict[Variant, list[dict[str, Any]]] = {}
    asked.folder.mkdir(parents=True, exist_ok=True)
    facts = {"command": sys.argv, "processor": machine.processor, "flags": machine.flags, "threads": machine.threads}
    with tempfile.TemporaryDirectory() as temporary:
        throughput.lay_out(asked.data, Path(temporary), asked.images)
        for _ in range(asked.rounds):
            for variant in todo:
                cell = throughput.Cell(variant.tool, "best", variant.precision, variant.bn)
                one = throughput.peer(cell, Path(temporary), asked, *variant.words, kept=variant.kept)
                readings.setdefault(variant, []).append(one)
                print(variant, [round(one["images"] / taken, 2) for taken in one["epoch_seconds"]], flush=True)
                kept = [{**vars(variant), "readings": some} for variant, some in readings.items()]
                text = json.dumps({**facts, "variants": kept}, indent=1)
                (asked.folder / "peer_settings.json").write_text(text + "\n")
                (asked.folder / "peer_settings.md").write_text(table(readings))
    print(table(readings))


if __name__ == "__main__":
    main()
