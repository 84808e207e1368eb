"""How well distances in feature space tell images of other kinds, at the stated rate of false alarms.

    python lab/novelty.py changed FOLDER NAME=DATA:SIZE [...] --weights FILE
    python lab/novelty.py distances|table FOLDER NAME:SPLITS [...]

The last two read the features that `lab/stages.py FOLDER` keeps (NAME.npz: ResNet-50's stages 2 to 4 of images of no
test side), and those of `changed` (NAME.changed.npz): at the size of NAME, of 200 images each of the other sets, and of
200 of its own (a quarter, if that is fewer) as they are, blurred, negative, and noisy. Those own images are left out of
every split; each split draws 100, 400 or 1,500 of the others to fit on and 200 (40 for a set of under 500) to calibrate
on, images of one group together; the rest, at most 1,500, are the false alarms. distances: every candidate. table: the
one in `upcycle.evaluation.novelty`, with its own p-values. Power is the part of unknown or changed images with a
p-value of at most 1 or 5 %.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from probe import learnable

from upcycle.evaluation.novelty import MOST_FITTED, Novelty

Reals = npt.NDArray[np.float64]
Positions = npt.NDArray[np.int64]
Distance = Callable[[Reals], Reals]
CHANGED = 200
MOST_TESTED = 1_500
TRAIN = (100, 400, 1_500)
LEVELS = (0.01, 0.05)


def apart(groups: npt.NDArray[np.int32]) -> tuple[Positions, Positions]:
    """The images that are changed, and the others."""
    draw = np.random.default_rng(1000).permutation(groups.max() + 1)[groups]
    order = np.argsort(draw, kind="stable").astype(np.int64)
    some = min(CHANGED, len(groups) // 4)
    return order[:some], order[some:]


# ---------------------------------------------------------------- with the network


def blurred(images: torch.Tensor) -> torch.Tensor:
    """By a Gaussian of 3 % of the side."""
    side = images.shape[-1]
    deviation = 0.03 * side
    reach = int(3 * deviation)
    weights = torch.exp(-((torch.arange(-reach, reach + 1) / deviation) ** 2) / 2)
    weights = (weights / weights.sum()).view(1, 1, -1)
    rows = torch.nn.functional.pad(images, (reach,) * 4, mode="reflect").flatten(0, 1)[:, None]
    rows = torch.nn.functional.conv2d(rows, weights[:, :, None])
    return torch.nn.functional.conv2d(rows, weights[:, :, :, None])[:, 0].view(images.shape)


def noisy(images: torch.Tensor) -> torch.Tensor:
    """With noise of a deviation of 20 % of white."""
    return images + 0.2 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))


CHANGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "unchanged": lambda images: images,
    "blur": blurred,
    "negative": lambda images: 1 - images,
    "noise": noisy,
}


def changed(folder: Path, sets: dict[str, tuple[Path, int]], weights: Path) -> None:
    from upcycle.evaluation.forward import predict_logits

    for name, (own, size) in sets.items():
        found: dict[str, npt.NDArray[np.float32]] = {}
        for other, (data, _) in sets.items():
            with learnable(data, size, weights, 1) as (_, frames, network, model, machine):
                model.read(3)
                seen = network.preprocessing
                mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in (seen.mean, seen.std))
                options = {"preprocessing": seen, "machine": machine, "workers": 0}
                groups = np.load(folder / f"{other}.npz")["groups"]
                at, _ = apart(groups)
                for kind, change in CHANGES.items() if data == own else [(other, CHANGES["unchanged"])]:

                    def output(images: torch.Tensor, change: Callable[..., torch.Tensor] = change) -> torch.Tensor:
                        pixels = change(images * std + mean).clamp(0, 1)  # noqa: B023
                        plain = ((pixels - mean) / std).to(memory_format=torch.channels_last)  # noqa: B023
                        return model.features(plain)  # type: ignore[no-any-return]

                    found[kind] = predict_logits(model, frames, at, output=output, **options)
        np.savez(folder / f"{name}.changed.npz", **found)
        print(name, {kind: rows.shape for kind, rows in found.items()}, flush=True)


# ---------------------------------------------------------------- distances


def halves(train: Reals, centers: Reals) -> tuple[Reals, Reals]:
    """Variances and directions [r, D] of what is left of the rows once their own centers [n, D] are taken off."""
    rest = train - centers
    values, vectors = np.linalg.eigh(rest @ rest.T)
    kept = values > values[-1] * 1e-10
    values, vectors = values[kept][::-1], vectors[:, kept][:, ::-1]
    return values / len(train), (vectors.T @ rest) / np.sqrt(values)[:, None]


def shrinkage(train: Reals, centers: Reals) -> float:
    """Ledoit and Wolf's (2004) part of the multiple of the identity."""
    rest = train - centers
    n, width = rest.shape
    gram = rest @ rest.T
    trace, squares = np.trace(gram) / n, (gram**2).sum() / n**2
    spread = squares - trace**2 / width
    error = ((np.diag(gram) ** 2).sum() / n - squares) / n
    return float(min(1.0, error / spread)) if spread > 0 else 1.0


def gaussian(train: Reals, labels: Positions | None, most: int, *, part: float | None = None) -> Distance:
    """Mahalanobis, the covariance shrunk, by `most` directions and one variance for all others."""
    own = np.zeros(len(train), np.int64) if labels is None else labels
    means = np.array([train[own == one].mean(axis=0) for one in np.unique(own)])
    centers = means[np.searchsorted(np.unique(own), own)]
    values, directions = halves(train, centers)
    part = shrinkage(train, centers) if part is None else part
    width, total = train.shape[1], values.sum()
    kept = min(most, len(values))
    tail = values[kept:].sum() / (width - kept)
    shrunk = (1 - part) * values[:kept] + part * total / width
    rest_variance = (1 - part) * tail + part * total / width

    def distance(rows: Reals) -> Reals:
        found = []
        for mean in means:
            away = rows - mean
            along = away @ directions[:kept].T
            beyond = (away**2).sum(axis=1) - (along**2).sum(axis=1)
            found.append((along**2 / shrunk).sum(axis=1) + beyond / rest_variance)
        return np.min(found, axis=0)

    return distance


def relative(train: Reals, labels: Positions, most: int) -> Distance:
    """Ren et al. 2021, arXiv 2106.09022."""
    near, far = gaussian(train, labels, most), gaussian(train, None, most)
    return lambda rows: near(rows) - far(rows)


def beyond(train: Reals, most: int) -> Distance:
    """The norm outside of the first directions (ViM's residual, Wang et al. 2022, arXiv 2203.10807)."""
    mean = train.mean(axis=0)
    _, directions = halves(train, np.broadcast_to(mean, train.shape))
    directions = directions[: min(most, len(directions) // 2)]

    def distance(rows: Reals) -> Reals:
        away = rows - mean
        return np.asarray((away**2).sum(axis=1) - ((away @ directions.T) ** 2).sum(axis=1))

    return distance


def unit(rows: Reals) -> Reals:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def nearest(train: Reals, k: int, *, bank: int = 400, most: int | None = None) -> Distance:
    """The distance to the k-th of at most `bank` (Sun et al. 2022, arXiv 2204.06507), by `most` directions."""
    rows = unit(train)
    mean = rows.mean(axis=0)
    turn = None if most is None else halves(rows, np.broadcast_to(mean, rows.shape))[1][:most].T
    known = rows[:bank] if turn is None else (rows[:bank] - mean) @ turn

    def distance(new: Reals) -> Reals:
        own = unit(new) if turn is None else (unit(new) - mean) @ turn
        squares = (own**2).sum(axis=1)[:, None] - 2 * own @ known.T + (known**2).sum(axis=1)
        return np.asarray(np.partition(squares, k - 1, axis=1)[:, k - 1])

    return distance


def prepared(train: Reals, fit: Callable[[Reals], Distance], *, center: bool = True, scale: bool = False) -> Distance:
    """`fit` on rows of unit length, once they are centered and each feature is divided by its deviation."""
    mean = train.mean(axis=0) if center else 0.0
    deviation = train.std(axis=0) + 1e-3 * train.std(axis=0).mean() if scale else 1.0
    found = fit(unit((train - mean) / deviation))
    return lambda rows: found(unit((rows - mean) / deviation))


CANDIDATES: dict[str, Callable[[Reals, Positions], Distance]] = {
    "nearest 1": lambda rows, _: nearest(rows, 1),
    "nearest 5": lambda rows, _: nearest(rows, 5),
    "nearest 5 of 200": lambda rows, _: nearest(rows, 5, bank=200),
    "nearest 5 of all": lambda rows, _: nearest(rows, 5, bank=10_000),
    "nearest 5, 64 directions": lambda rows, _: nearest(rows, 5, most=64),
    "nearest 5, centered": lambda rows, _: prepared(rows, lambda own: nearest(own, 5)),
    "nearest 5, standardized": lambda rows, _: prepared(rows, lambda own: nearest(own, 5), scale=True),
    "Mahalanobis": lambda rows, _: gaussian(rows, None, 64),
    "Mahalanobis, unit": lambda rows, _: prepared(rows, lambda own: gaussian(own, None, 64), center=False),
    "Mahalanobis, unit, by class": lambda rows, labels: prepared(
        rows, lambda own: gaussian(own, labels, 64), center=False
    ),
    "relative Mahalanobis": lambda rows, labels: relative(rows, labels, 64),
    "relative Mahalanobis, unit": lambda rows, labels: prepared(
        rows, lambda own: relative(own, labels, 64), center=False
    ),
    "residual": lambda rows, _: beyond(rows, 64),
    **{
        f"residual, unit{'' if most == 64 else f', {most}'}": lambda rows, _, most=most: prepared(
            rows, lambda own: beyond(own, most), center=False
        )
        for most in (16, 32, 64, 128)
    },
}


def stages_of(folder: Path, name: str) -> tuple[dict[str, npt.NDArray[np.float32]], npt.NDArray[np.int64], Positions]:
    """Features of the images ("known") and of every kind of others, the last stage first; labels and groups."""
    made = np.load(folder / f"{name}.npz")
    plain, narrow = made["plain"], made["plain"].shape[1] // 7
    known = np.hstack([plain[:, 3 * narrow :], plain[:, narrow : 3 * narrow], plain[:, :narrow]])
    return {"known": known, **np.load(folder / f"{name}.changed.npz")}, made["labels"].astype(np.int64), made["groups"]


def splits(groups: npt.NDArray[np.int32], train: int, count: int) -> Iterator[tuple[Positions, Positions, Positions]]:
    """Images to fit on, to calibrate on, and to alarm falsely."""
    _, rest = apart(groups)
    hold = 200 if len(groups) >= 500 else 40
    for seed in range(count):
        draw = np.random.default_rng(seed).permutation(groups.max() + 1)[groups[rest]]
        order = rest[np.argsort(draw, kind="stable")]
        learn, calibrate, tested = np.split(order, [train, train + hold])
        if len(tested) < 20:
            return
        yield learn, calibrate, tested[:MOST_TESTED]


def p_values(known: Reals, distances: Reals) -> Reals:
    """Of each distance, given those of the images that calibrate."""
    return np.asarray((1 + (known[None] >= distances[:, None]).sum(axis=1)) / (1 + len(known)))


def shares(values: dict[str, Reals]) -> dict[str, list[float]]:
    """By kind of images the parts with a p-value of at most each level."""
    return {kind: [float((found <= level).mean()) for level in LEVELS] for kind, found in values.items()}


def mean_of(rows: list[dict[str, list[float]]]) -> dict[str, list[float]]:
    """Mean over splits, and the deviation, of each level."""
    made = {}
    for kind in rows[0]:
        each = 100 * np.array([row[kind] for row in rows])
        made[kind] = [*each.mean(axis=0).round(1).tolist(), *each.std(axis=0).round(1).tolist()]
    return made


def distances(folder: Path, name: str, count: int) -> None:
    rows, labels, groups = stages_of(folder, name)
    widths = {"1 stage": rows["known"].shape[1] * 4 // 7, "3 stages": rows["known"].shape[1]}
    for train in TRAIN:
        for stages, width in widths.items():
            found: dict[str, list[dict[str, list[float]]]] = {}
            for learn, calibrate, tested in splits(groups, train, count):
                fitted = rows["known"][learn, :width].astype(np.float64)
                for kind, candidate in CANDIDATES.items():
                    distance = candidate(fitted, labels[learn])
                    known = distance(rows["known"][calibrate, :width].astype(np.float64))
                    others = {"false alarms": rows["known"][tested], **rows}
                    found.setdefault(kind, []).append(
                        shares(
                            {
                                other: p_values(known, distance(new[:, :width].astype(np.float64)))
                                for other, new in others.items()
                                if other != "known"
                            }
                        )
                    )
            for kind, each in found.items():
                print(
                    json.dumps({"set": name, "train": train, "stages": stages, "kind": kind, **mean_of(each)}),
                    flush=True,
                )


# ---------------------------------------------------------------- the table of a run


def table(folder: Path, name: str, count: int) -> None:
    """Lines of Markdown: false alarms with their deviation over splits, and power."""
    rows, _, groups = stages_of(folder, name)
    for width, stages in ((rows["known"].shape[1] * 4 // 7, 1), (rows["known"].shape[1], 3)):
        for train in TRAIN:
            found = []
            for learn, calibrate, tested in splits(groups, train, count):
                known = rows["known"][:, :width]
                made = Novelty.fitted(known[learn[:MOST_FITTED]], known[calibrate], units=len(calibrate))
                others = {"false alarms": known[tested], **{kind: new for kind, new in rows.items() if kind != "known"}}
                levels = (made.level, 0.05)
                values = {kind: made.p_values(np.ascontiguousarray(new[:, :width])) for kind, new in others.items()}
                found.append({kind: [float((own <= one).mean()) for one in levels] for kind, own in values.items()})
            if not found:
                continue
            each = mean_of(found)
            alarms = each.pop("false alarms")
            kinds = [kind for kind in each if kind not in CHANGES]
            cells = [name, str(train), str(stages), str(len(found)), f"{100 * levels[0]:.1f}"]
            cells += [f"{alarms[at]} ± {alarms[at + 2]}" for at in (0, 1)]
            cells += [
                f"{min(each[kind][at] for kind in kinds):.0f} to {max(each[kind][at] for kind in kinds):.0f}"
                for at in (0, 1)
            ]
            cells += [f"{each[kind][0]:.0f}, {each[kind][1]:.0f}" for kind in ("blur", "negative", "noise")]
            print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Read, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["changed", "distances", "table"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("sets", nargs="+")
    parser.add_argument("--weights", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.what == "changed":
        named = dict(words.split("=") for words in asked.sets)
        sets = {name: (Path(words.rsplit(":", 1)[0]), int(words.rsplit(":", 1)[1])) for name, words in named.items()}
        changed(asked.folder, sets, asked.weights)
        return
    for words in asked.sets:
        name, count = words.split(":")
        {"distances": distances, "table": table}[asked.what](asked.folder, name, int(count))


if __name__ == "__main__":
    main()
