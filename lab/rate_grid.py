"""How good one-cycle runs of equal budget are by their peak rate: what a learning-rate finder is judged by.

    python lab/rate_grid.py FOLDER --weights FILE --sets NAME=DATA[:PHOTOS[:SIZE]] ... [--seeds 2] [--epochs 3]

For each set, with the upper half of the network trained and with all layers, one run per peak rate of a grid, three
rates per decade, each from the probe's head as `upcycle train` starts. With :PHOTOS a set is a stratified sample.
FOLDER/grid.jsonl has of each run the validation loss and accuracy of its last epoch, and F1 on the test images of the
fine-tuned weights, whatever the run chose. A run that diverged has none.
"""

import argparse
import time
from pathlib import Path

from choose_regret import sampled

import upcycle
from upcycle.errors import DivergenceError
from upcycle.rundir import append_line, read_lines

RATES = tuple(round(10 ** (power / 3), 10) for power in range(-13, -4))
"""4.6e-5, 1e-4, ... 2.2e-2."""


def trained(data: Path, rate: float, freeze: str, seed: int, asked: argparse.Namespace, size: int, out: Path) -> dict:
    """The scores of one run."""
    options = {"lr": rate, "freeze": freeze, "seed": seed, "epochs": asked.epochs, "image_size": size}
    began = time.perf_counter()
    try:
        run = upcycle.train(
            data,
            out=out,
            weights=str(asked.weights),
            threads=asked.threads,
            cache=str(asked.folder / "cache"),
            views="none",
            refit=False,
            ema_decay=0,
            checkpoint_every=0,
            **options,
        )
    except DivergenceError as error:
        return {"diverged": str(error)}
    last = run.history.rows[-1]
    tuned = run.evaluation.named.get("finetune_test") or run.evaluation.test
    return {
        "val_loss": last.val_loss,
        "val_accuracy": last.val_accuracy,
        "val_f1_macro": last.val_f1_macro,
        "test_f1": tuned.f1_macro.value,
        "seconds": round(time.perf_counter() - began, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", required=True)
    parser.add_argument("--half", default="layer2", help="the last layer of the lower half")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    kept = asked.folder / "grid.jsonl"
    done = {(row["set"], row["freeze"], row["seed"], row["lr"]) for row in read_lines(kept)}
    for seed in range(asked.seeds):
        for one in asked.sets:
            name, _, where = one.partition("=")
            place, photos, size = (*where.split(":"), "", "")[:3]
            data = sampled(Path(place), int(photos), asked.folder) if photos else Path(place)
            for freeze in (asked.half, "none"):
                for rate in RATES:
                    if (name, freeze, seed, rate) in done:
                        continue
                    out = asked.folder / "runs" / f"{name}-{freeze}-{seed}-{rate:.2g}"
                    found = trained(data, rate, freeze, seed, asked, int(size or 224), out)
                    append_line(kept, {"set": name, "freeze": freeze, "seed": seed, "lr": rate, **found})


if __name__ == "__main__":
    main()
