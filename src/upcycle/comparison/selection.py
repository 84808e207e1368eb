"""What a race among backbones found: its values, who stays after a round, and the verdict in words. Needs no torch.

All candidates of a round train a probe on the same images and are scored on the same validation images, so every
difference is paired. The validation images choose among few candidates, so the scores of the best flatter it a little.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from scipy.stats import t

from upcycle.comparison.statistics import Arm, difference, scored
from upcycle.errors import shown
from upcycle.evaluation.intervals import LEVEL, clusters
from upcycle.evaluation.metrics import paired_log_loss
from upcycle.evaluation.results import Metric, Predictions
from upcycle.rundir import Number, read_value

FILE = "choice.json"


@dataclass(frozen=True)
class Behind:
    """A log loss minus the leader's on the same images, in nats, with its 95 % interval."""

    value: Number
    low: Number
    high: Number


@dataclass(frozen=True)
class Candidate:
    """A backbone that was scored.

    `name`, `arch`, `weights`: as it was named, and as `train` takes it; `local`: its weights were at hand; `size`:
    pixels of its input; `images`: those that its last probe learned from; `behind`: None for the leader of its last
    round; `minutes`: about what `train` takes, decoding left out; `milliseconds`: the network alone, on one image;
    `dropped`: why it was not in the last round, "" where it was.
    """

    name: str
    arch: str
    weights: str
    license: str
    megabytes: float
    local: bool
    size: int
    images: int
    log_loss: float
    accuracy: float
    f1_macro: Metric
    behind: Behind | None
    images_per_second: float
    minutes: float
    milliseconds: float
    dropped: str = ""


@dataclass(frozen=True)
class Gain:
    """The chosen one's macro F1 minus that of `over`, with its 95 % interval, and its minutes over the other's."""

    over: str
    value: float
    low: float
    high: float
    time: float


@dataclass(frozen=True)
class Selection:
    """All of `choice.json`: the candidates, the best first, and the one to use.

    `rounds`: training images of each; `alike`: the leader and those that are not distinguishable from it; `left_out`: a
    line for each that was not scored; `within`: the budget in seconds, None without one.
    """

    data: str
    winner: str
    candidates: tuple[Candidate, ...]
    alike: tuple[str, ...]
    gain: Gain | None
    rounds: tuple[int, ...]
    validation_images: int
    left_out: tuple[str, ...] = ()
    within: float | None = None
    seconds: float = 0.0
    created: str = ""
    command: str = ""
    train: str = ""
    upcycle: str = ""

    @property
    def best(self) -> Candidate:
        """The one to use."""
        return next(one for one in self.candidates if one.name == self.winner)

    @property
    def verdict(self) -> str:
        """What to do, in one line."""
        if len(self.candidates) == 1:
            return f"use {self.winner}: it is the only candidate"
        if len(self.alike) > 1:
            faster = "faster" if len(self.alike) == 2 else "fastest"
            return f"not distinguishable: {', '.join(self.alike)}: take {self.winner}, the {faster}"
        if self.gain is None:
            return f"use {self.winner}"
        points, low, high = (100 * value for value in (self.gain.value, self.gain.low, self.gain.high))
        return (
            f"use {self.winner}: {points:+.1f} points of F1 ({low:.1f} to {high:.1f}) over {self.gain.over} "
            f"at {self.gain.time:.2g}x the time"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows: validation F1 of each backbone with its interval, its minutes, and the verdict."""
        row = Markup(
            '<tr><th style="text-align:left">{}</th><td>{:.3f}</td><td>{:.3f} to {:.3f}</td><td>{:.1f}</td></tr>'
        )
        rows = Markup("").join(
            row.format(shown(one.name), one.f1_macro.value, one.f1_macro.low, one.f1_macro.high, one.minutes)
            for one in self.candidates
        )
        head = Markup("<tr><th>backbone</th><th>validation F1</th><th>95 % interval</th><th>about min</th></tr>")
        return str(Markup("<table>{}{}</table><p>{}</p>").format(head, rows, shown(self.verdict)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "verdict": self.verdict}

    @classmethod
    def from_dict(cls, values: object) -> "Selection":
        """The inverse of `to_dict`; RunError for other values."""
        plain = (
            {name: value for name, value in values.items() if name != "verdict"} if isinstance(values, Mapping) else {}
        )
        return read_value(cls, plain, FILE)


def behind(one: Predictions, leader: Predictions) -> Behind:
    """How far the log loss of `one` is behind the `leader`'s on the same images, by Student's t for their groups."""
    paired = paired_log_loss(one, leader)
    groups = int(clusters(one.groups, one.hashes).max()) + 1
    half = float(t.isf((1 - LEVEL) / 2, max(groups - 1, 1))) * paired.standard_error
    return Behind(paired.mean_difference, paired.mean_difference - half, paired.mean_difference + half)


def staying(gaps: Sequence[Behind]) -> list[bool]:
    """Which candidates stay after a round, given how far each is behind, the leader first and in order of loss.

    The better half, and of the others those whose interval reaches 0 (successive halving: Jamieson and Talwalkar,
    AISTATS 2016, with a paired interval so that noise drops nobody).
    """
    half = -(-len(gaps) // 2)
    return [place < half or gap.low <= 0 for place, gap in enumerate(gaps)]


def fitting(costs: Sequence[float], left: float) -> list[bool]:
    """Which of `costs`, taken in order, fit together into what is `left`; the first one always does."""
    spent, found = 0.0, []
    for place, cost in enumerate(costs):
        fits = place == 0 or spent + cost <= left
        spent += cost if fits else 0.0
        found.append(fits)
    return found


def gain(first: Predictions, second: Predictions, *, over: str, time: float) -> Gain:
    """What `second` gains over `first`, named `over`, in macro F1 on the same images."""
    units = clusters(first.groups, first.hashes)
    one, two = (
        scored(Arm(made.labels, np.asarray(made.predicted())[None], units, len(made.classes)))
        for made in (first, second)
    )
    found = difference(one, two, "f1_macro")
    return Gain(over, found.value, found.low, found.high, time)
