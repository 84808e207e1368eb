"""Where two rungs disagree: test images that one gets right and the other wrong, the models of its seeds averaged."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from upcycle.errors import UpcycleError
from upcycle.evaluation.predictions import Predictions, read
from upcycle.reporting.names import Cut, cut
from upcycle.rundir import RunDir

SHOWN = 8
"""Images a side of a step."""

Reals = NDArray[np.float64]


@dataclass(frozen=True)
class Disagreement:
    """An image that one rung gets right and another wrong: what the wrong one said, and how sure both were.

    `wrong` and `right` are probabilities, means over seeds: of the class wrongly said, and of the true
    class by the rung that is right.
    """

    path: str
    sha256: str
    label: str
    said: str
    wrong: float
    right: float


@dataclass(frozen=True, eq=False)
class Opinion:
    """The probabilities of every class by the models of one rung, [S, n, K], on images known by content and class."""

    made: Predictions
    probabilities: Reals
    folders: tuple[Path, ...]


@dataclass(frozen=True)
class Sides:
    """Images that only the first rung gets right, and those that only the second does."""

    only_first: Cut[Any]
    only_second: Cut[Any]


def opinion(paths: Sequence[Path]) -> Opinion | None:
    """What the runs in `paths` said of the test images; None where none of them can be read any more."""
    known: list[tuple[Path, Predictions]] = []
    for path in paths:
        try:
            known.append((path, read(RunDir(path).predictions("test"))))
        except UpcycleError:
            continue  # a run that was moved away costs the page its pictures alone
    if not known:
        return None
    first = known[0][1]
    places = {key: at for at, key in enumerate(first.identities())}
    same = [
        (path, made) for path, made in known if set(made.identities()) == set(places) and made.classes == first.classes
    ]
    tables = []
    for _, made in same:
        order = np.empty(len(first), dtype=np.int64)
        for at, key in enumerate(made.identities()):
            order[places[key]] = at
        tables.append(made.probabilities()[order])
    return Opinion(first, np.stack(tables), tuple(RunDir(path).thumbnails for path, _ in same))


def sides(first: Opinion, second: Opinion) -> Sides | None:
    """The images the two disagree on, the most confident mistake first; None when they know other images."""
    places = {key: at for at, key in enumerate(second.made.identities())}
    if second.made.classes != first.made.classes or set(places) != set(first.made.identities()):
        return None
    order = [places[key] for key in first.made.identities()]
    one, two = first.probabilities, second.probabilities[:, order]
    labels = first.made.labels
    return Sides(_only(first.made, one, two, labels), _only(first.made, two, one, labels))


def _only(made: Predictions, right: Reals, wrong: Reals, labels: NDArray[np.int64]) -> Cut[Any]:
    """Images that `right` gets right and `wrong` gets wrong, by their probabilities [S, n, K] averaged over seeds.

    Averages give an answer for every image; most seeds of two do not. Both need as many seeds for a fair count.
    """
    means, others = right.mean(axis=0), wrong.mean(axis=0)
    chosen = np.flatnonzero((means.argmax(axis=1) == labels) & (others.argmax(axis=1) != labels))
    said = others.argmax(axis=1)
    at = np.arange(len(labels))
    sure = others[at, said] - others[at, labels]
    chosen = chosen[np.argsort(-sure[chosen], kind="stable")]
    return cut(
        [
            Disagreement(
                path=made.paths[at],
                sha256=made.hashes[at],
                label=made.classes[labels[at]],
                said=made.classes[said[at]],
                wrong=float(others[at, said[at]]),
                right=float(means[at, labels[at]]),
            )
            for at in chosen
        ],
        SHOWN,
    )
