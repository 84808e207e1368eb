"""Whether the shape of the schedule matters: seven shapes at equal budget, each at its own best peak, compared.

    python lab/schedule_study.py FOLDER --sets NAME=DATA[:PHOTOS[:SIZE]] ... [--seeds 5] [--epochs 4]
        [--arch ARCH]

Each shape fine-tunes the upper half of the network from a new head, with everything else as the default recipe has it.
Its peak is the one of RATES with the lowest validation loss over --tuning seeds that the comparison does not use. Then
`upcycle compare` trains all shapes with --seeds seeds on one split and tests them. FOLDER/NAME/tuning.jsonl has the
search, FOLDER/NAME/comparison the comparison with its page.
"""

import argparse
import math
from pathlib import Path

from choose_regret import sampled

import upcycle
from upcycle.errors import DivergenceError
from upcycle.rundir import append_line, read_lines

RATES = (3e-4, 1e-3, 3e-3, 1e-2)
SHAPES: dict[str, dict[str, object]] = {
    "constant": {"schedule": "constant"},
    "linear-decay": {"schedule": "linear", "warmup": 0.0},
    "cosine-with-warmup": {"schedule": "cosine", "warmup": 0.1},
    "one-cycle-cosine": {"schedule": "one-cycle"},
    "one-cycle-linear": {"schedule": "one-cycle", "anneal": "linear"},
    "article": {"schedule": "ramp-sustain-decay", "rampup": 1, "decay": 0.8},
    "trapezoid": {"schedule": "warmup-stable-decay", "warmup": 0.05, "cooldown": 0.2},
}
TUNED_FROM = 100
"""The first seed of the search."""


def options_of(shape: str, rate: float) -> dict[str, object]:
    """The options of a shape at a peak; the article's starts and ends at a tenth of it, as there."""
    ends = {"lr_start": rate / 10, "lr_min": rate / 10} if shape == "article" else {}
    return {**SHAPES[shape], **ends, "lr": rate}


def tuned(data: Path, shape: str, common: dict[str, object], folder: Path, seeds: int) -> float:
    """The peak with the lowest mean validation loss."""
    kept = folder / "tuning.jsonl"
    losses: dict[float, list[float]] = {rate: [] for rate in RATES}
    for rate in RATES:
        for seed in range(TUNED_FROM, TUNED_FROM + seeds):
            known = [r for r in read_lines(kept) if (r["shape"], r["lr"], r["seed"]) == (shape, rate, seed)]
            if known:
                loss = known[0]["val_loss"]
            else:
                out = folder / "tuning" / f"{shape}-{rate:g}-{seed}"
                try:
                    run = upcycle.train(data, out=out, seed=seed, split_seed=0, **common, **options_of(shape, rate))
                    loss = min(row.val_loss for row in run.history.rows)
                except DivergenceError:
                    loss = None
                append_line(kept, {"shape": shape, "lr": rate, "seed": seed, "val_loss": loss})
            losses[rate].append(math.inf if loss is None else loss)
    return min(RATES, key=lambda rate: sum(losses[rate]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--arch", default="tf_efficientnet_lite0")
    parser.add_argument("--sets", nargs="+", required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tuning", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    for one in asked.sets:
        name, _, where = one.partition("=")
        place, photos, size = (*where.split(":"), "", "")[:3]
        folder = asked.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        data = sampled(Path(place), int(photos), folder) if photos else Path(place)
        common: dict[str, object] = {
            "arch": asked.arch,
            "probe": False,
            "views": "none",
            "epochs": asked.epochs,
            "image_size": int(size or 224),
            "threads": asked.threads,
            "cache": str(asked.folder / "cache"),
            "checkpoint_every": 0,
        }
        files = []
        for shape in SHAPES:
            options = options_of(shape, tuned(data, shape, common, folder, asked.tuning))
            file = folder / f"shape-{shape}.toml"
            file.write_text("".join(f"{key} = {value!r}\n".replace("'", '"') for key, value in options.items()))
            files.append(str(file))
        out = folder / "comparison"
        upcycle.compare(data, variants=files, seeds=asked.seeds, out=out, resume=out.exists(), **common)


if __name__ == "__main__":
    main()
