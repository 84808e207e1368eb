"""How often the two intervals of `upcycle compare` hold the truth, and its tests reject equal recipes: simulated.

    python lab/coverage.py --repeats 1000

Two recipes, S seeds each; a model's ability is its recipe's plus a normal seed effect, an image's hardness
is normal, an answer is right with the logistic chance of their sum. The tests in tests/comparison run the same
simulation with fewer repeats.
"""

import argparse
import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from tests.comparison.arms import answers, simulate

from upcycle.comparison.statistics import holm, sign_flip

CASES = [
    # images, seeds, gap, hardness, spread over seeds
    (150, 1, 0.4, 1.5, 0.0),
    (300, 3, 0.4, 1.5, 0.3),
    (1000, 3, 0.0, 1.5, 0.0),
    (300, 5, 0.4, 1.5, 0.0),
    (300, 5, 0.4, 1.5, 0.5),
    (300, 5, 0.4, 1.5, 1.0),
    (300, 10, 0.4, 1.5, 0.5),
    (100, 1, 0.0, 1.5, 0.0),
]


UNEQUAL = [
    # images, seeds of the one and of the other
    (40, 1, 20),
    (60, 1, 10),
    (150, 1, 3),
    (300, 1, 5),
    (1000, 1, 3),
]


def unequal(repeats: int, images: int, seeds: tuple[int, int]) -> float:
    """How often the sign-flip test finds a difference between equal recipes with other numbers of seeds."""
    random, found = np.random.default_rng(7), 0
    for _ in range(repeats):
        labels, hard = random.integers(0, 2, images), random.normal(0, 1.5, images)
        found += sign_flip(*(answers(random, np.full(count, 3.0), labels, hard) for count in seeds)) < 0.05
    return found / repeats


def any_pair(repeats: int) -> float:
    """How often any pair of six equal variants (300 images, one seed) passes Holm's correction."""
    random, found = np.random.default_rng(5), 0
    for _ in range(repeats):
        labels, hard = random.integers(0, 2, 300), random.normal(0, 1.5, 300)
        arms = [answers(random, np.full(1, 2.0), labels, hard) for _ in range(6)]
        found += min(holm([sign_flip(*pair) for pair in itertools.combinations(arms, 2)])) < 0.05
    return found / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000)
    repeats = parser.parse_args().repeats
    print(f"{repeats} repeats a row\n")
    print("| images | seeds | true gap | seed effect | (a) covers | (b) covers | (a) finds a difference |")
    print("|" + "---|" * 7)
    for images, seeds, gap, hardness, spread in CASES:
        made = simulate(repeats, images=images, seeds=seeds, gap=gap, hardness=hardness, spread=spread)
        retrained = f"{made.retrained:.3f}" if seeds >= 5 else "not answered"
        points = f"{100 * made.gap:.1f} points"
        print(
            f"| {images} | {seeds} | {points} | {100 * made.seed_deviation:.1f} points | {made.trained:.3f} "
            f"| {retrained} | {made.rejected:.3f} |",
            flush=True,
        )
    print("\n| images | seeds | equal recipes with a difference found |\n|---|---|---|")
    for images, one, other in UNEQUAL:
        print(f"| {images} | {one} and {other} | {unequal(repeats, images, (one, other)):.3f} |", flush=True)
    print(f"\nsix equal variants with any pair called significant: {any_pair(repeats):.3f}")


if __name__ == "__main__":
    main()
