"""How many labels made wrong `upcycle scan --label-errors` finds: photographs of two classes, some moved to the other.

    python lab/label_errors.py DATA --weights FILE [--share 0.05] [--seeds 0,1,2] [--image-size 128]

DATA is laid out as CLASS/* or SPLIT/CLASS/*. For each seed a folder of links is made in which a share of the images
stands under another class; prints a line of JSON a seed: images, wrong, suspected, precision, recall.
"""

import argparse
import json
import random
import tempfile
from pathlib import Path

import upcycle
from upcycle.data.index import index_images
from upcycle.reporting.progress import Silent


def lay_out(data: Path, folder: Path, share: float, seed: int) -> set[str]:
    """DATA as folder/CLASS/NUMBER.ENDING, a share of the images under another class; their paths."""
    chance, index, wrong = random.Random(seed), index_images(data), set()
    for at in range(len(index)):
        label, file = index.label(at), index.file(at)
        path = f"{label}/{at:06d}{file.suffix}"
        if chance.random() < share:
            path = f"{chance.choice([name for name in index.classes if name != label])}/{at:06d}{file.suffix}"
            wrong.add(path)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).symlink_to(file)
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--image-size", type=int, default=128)
    asked = parser.parse_args()
    for seed in map(int, asked.seeds.split(",")):
        with tempfile.TemporaryDirectory() as temporary:
            wrong = lay_out(asked.data, Path(temporary) / "data", asked.share, seed)
            audit = upcycle.scan(
                Path(temporary) / "data",
                out=Path(temporary) / "scan",
                label_errors=True,
                weights=asked.weights,
                image_size=asked.image_size,
                show=Silent(),
            ).audit
        findings = [finding for finding in audit.findings if finding.kind == "label-errors"]
        named = {group[0].path for finding in findings for group in finding.groups}
        facts = {"seed": seed, "images": audit.images, "wrong": len(wrong), "suspected": len(named)}
        hits = len(named & wrong)
        print(
            json.dumps({**facts, "precision": hits / max(1, len(named)), "recall": hits / max(1, len(wrong))}),
            flush=True,
        )


if __name__ == "__main__":
    main()
