"""The result of a comparison as values: variants with scores and costs, every pair with its difference.

docs/results.md says what each value means. Scores and differences are shares of one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from markupsafe import Markup
from pydantic import TypeAdapter

from upcycle.comparison.runs import FailedSeed
from upcycle.errors import RunError, shown
from upcycle.evaluation.intervals import Estimate
from upcycle.rundir import read_json, read_value, write_json

_VERSION = 2
FILE, PAGE = "comparison.json", "comparison.html"

Verdict = Literal["gain", "loss", "same", "unclear", "too-small"]


@dataclass(frozen=True)
class MeanScore(Estimate):
    """A score averaged over seeds, with its 95 % interval over new images and its standard deviation over seeds."""

    deviation: float | None = None


@dataclass(frozen=True)
class RunScores:
    """One run: `path` is relative to the comparison, `phase` the one that its curves are about."""

    seed: int
    path: str
    accuracy: float
    f1_macro: float
    log_loss: float
    phase: str | None = None


@dataclass(frozen=True)
class Cost:
    """What a variant takes, as means over its runs: epochs of fine-tuning, seconds.

    `seconds` are those of one training that finds nothing cached, None where unknown. `tuning_seconds` were spent on
    the rates that were not chosen.
    """

    epochs: float
    seconds: float | None
    tuning_seconds: float
    parameters: int | None
    trained_parameters: int | None

    @property
    def total(self) -> float | None:
        """Seconds of training once, tuning included."""
        return None if self.seconds is None else self.seconds + self.tuning_seconds


@dataclass(frozen=True)
class Trial:
    """A rate that was tried, and the lowest validation loss at it."""

    lr: float
    val_loss: float | None


@dataclass(frozen=True)
class VariantResult:
    """A variant's runs with their scores and cost, which are None where no run finished."""

    name: str
    title: str
    description: str
    runs: tuple[RunScores, ...]
    failed: tuple[FailedSeed, ...]
    accuracy: MeanScore | None
    f1_macro: MeanScore | None
    cost: Cost | None
    lr: float | None = None
    trials: tuple[Trial, ...] = ()


@dataclass(frozen=True)
class Difference(Estimate):
    """Second minus first with its 95 % interval; `p` is corrected for the number of pairs (Holm)."""

    p: float
    significant: bool


@dataclass(frozen=True)
class Pair:
    """Two variants on the same test images, `second` against `first`.

    `f1` is of these trained models on new images. It is significant where the interval leaves out zero and the
    corrected p of the sign-flip test of correctness is below 0.05. `retrained` answers for the recipes with other
    seeds: None where fewer than 5 `seeds` are common. `images_needed`: test images that would narrow the interval of F1
    to the smallest difference that matters; None where it is as narrow.
    """

    first: str
    second: str
    seeds: int
    f1: Difference
    accuracy: Estimate
    retrained: Estimate | None
    images_needed: int | None
    verdict: Verdict


@dataclass(frozen=True)
class Recommendation:
    """The cheapest variant that is not shown to be worse than the best by a difference that matters, and why."""

    variant: str
    reason: str


@dataclass(frozen=True)
class About:
    """Where a comparison comes from: the images, the command that repeats it, when it was made."""

    data: str | None = None
    command: str | None = None
    created: str | None = None


@dataclass(frozen=True)
class Comparison:
    """A comparison of variants on the same test images; `path` is the folder that holds it.

    The first variant is the baseline. `pairs` has every two variants that have runs. `options` are those in which the
    variants differ, by option and variant. `notes` are sentences about what limits the comparison.
    """

    path: Path
    about: About
    classes: tuple[str, ...]
    test_images: int
    test_units: int
    smallest_difference: float
    variants: tuple[VariantResult, ...]
    pairs: tuple[Pair, ...]
    recommendation: Recommendation | None
    notes: tuple[str, ...]
    options: Mapping[str, Mapping[str, object]]
    environment: Mapping[str, object]
    machines: tuple[str, ...]

    @property
    def page(self) -> Path:
        """The self-contained page."""
        return self.path / PAGE

    @property
    def finished(self) -> tuple[VariantResult, ...]:
        """The variants that have scores."""
        return tuple(one for one in self.variants if one.f1_macro is not None)

    @property
    def best(self) -> VariantResult:
        """The variant with the highest mean test F1."""
        return max(self.finished, key=lambda one: one.f1_macro.value if one.f1_macro else 0.0)

    def pair(self, first: str, second: str) -> Pair | None:
        """The pair of these two variants, by name; None where it was not compared in this order."""
        return next((pair for pair in self.pairs if (pair.first, pair.second) == (first, second)), None)

    def over_baseline(self, name: str) -> Pair | None:
        """The pair of the baseline, the first variant that has scores, and the variant `name`."""
        return self.pair(self.finished[0].name, name) if self.finished else None

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {"version": _VERSION, **TypeAdapter(Comparison).dump_python(self, mode="json", exclude={"path"})}

    @classmethod
    def from_dict(cls, values: object, path: Path) -> "Comparison":
        """The inverse of `to_dict`; RunError for other values."""
        if isinstance(values, dict) and values.get("version", _VERSION) != _VERSION:
            raise RunError(
                f"{path / FILE} was written by another version of upcycle. "
                f"Compare its runs: `upcycle compare {path}/runs/*`"
            )
        given = {**values, "path": path} if isinstance(values, dict) else values
        return read_value(cls, given, str(path / FILE))

    def _repr_html_(self) -> str:
        """What a notebook shows: test F1 of each variant with its interval, and the recommendation."""
        row = Markup('<tr><th style="text-align:left">{}</th><td>{:.3f}</td><td>{:.3f} to {:.3f}</td></tr>')
        scores = [(shown(one.title), one.f1_macro) for one in self.variants]
        rows = Markup("").join(row.format(name, f1.value, f1.low, f1.high) for name, f1 in scores if f1)
        head = Markup("<tr><th>variant</th><th>test F1</th><th>95 % interval</th></tr>")
        reason = Markup("<p>{}</p>").format(shown(self.recommendation.reason)) if self.recommendation else ""
        return str(Markup("<table>{}{}</table>{}").format(head, rows, reason))

    def save(self) -> None:
        """Write comparison.json."""
        write_json(self.path / FILE, self.to_dict())


def read_comparison(folder: Path) -> Comparison:
    """The comparison in `folder`; RunError when there is none, or it is damaged."""
    return Comparison.from_dict(read_json(folder / FILE), folder)
