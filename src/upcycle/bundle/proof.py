"""Whether an exported model predicts what the trained one does, on the run's own held-out photos."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from upcycle.errors import ExportError, counted
from upcycle.evaluation.intervals import Estimate, clusters
from upcycle.evaluation.metrics import averages
from upcycle.evaluation.results import Predictions

TOLERANCE = 0.005
"""The most that a probability may differ from torch's in fp32."""
_Rows = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Proof:
    """An exported model beside the trained one, on `images` photos of a `split`.

    `same`: photos with the same most probable class; `largest`: the largest difference of a probability; `f1`,
    `f1_torch`: macro F1 in onnxruntime and of torch in fp32; `recorded_same`, `recorded_f1`: the predictions that the
    run recorded, in the precision it was trained in. Times are medians per photo, from decoded to probabilities.
    """

    split: str
    images: int
    same: int
    largest: float
    f1: float
    f1_torch: float
    recorded_same: int
    recorded_f1: float
    milliseconds: float
    torch_milliseconds: float
    threads: int
    tolerance: float = TOLERANCE

    def describe(self) -> str:
        """One line."""
        gap = f"{self.largest:.4f}" if self.largest >= 0.0001 else "below 0.0001"
        equal = "=" if f"{self.f1:.3f}" == f"{self.f1_torch:.3f}" else "against"
        return (
            f"{counted(self.images, f'{self.split} image')}: {self.same:,} same answers; largest difference of a "
            f"probability {gap}; F1 {self.f1:.3f} {equal} {self.f1_torch:.3f}; "
            f"{self.milliseconds:.0f} ms/image on {counted(self.threads, 'thread')} "
            f"(torch: {self.torch_milliseconds:.0f})"
        )

    def of_the_run(self) -> str:
        """One line about the predictions that the run recorded."""
        return (
            f"the run's own predictions: {self.recorded_same:,} of {self.images:,} the same answers, "
            f"F1 {self.recorded_f1:.3f}"
        )


def prove(
    made: _Rows,
    torch: _Rows,
    recorded: Predictions,
    *,
    split: str,
    seconds: tuple[Sequence[float], Sequence[float]],
    threads: int,
) -> Proof:
    """Judge the probabilities [n, K] of onnxruntime by those of torch in fp32, both of the images of `recorded`.

    `seconds` per image, of onnxruntime and of torch. ExportError where a probability differs by more than `TOLERANCE`:
    an answer can then only change where the two highest probabilities are within twice that.
    """
    gaps = np.abs(made - torch).max(axis=1)
    worst = int(gaps.argmax())
    if not gaps[worst] <= TOLERANCE:  # a NaN is no agreement either
        raise ExportError(
            f"not exported: for {recorded.paths[worst]} a probability differs by {gaps[worst]:.4f} from torch's, and "
            f"{TOLERANCE} is allowed; {int((~(gaps <= TOLERANCE)).sum())} of {len(gaps)} images differ by more"
        )
    answers, theirs, own = made.argmax(axis=1), torch.argmax(axis=1), recorded.predicted()
    milliseconds, torch_milliseconds = (1000 * float(np.median(one)) for one in seconds)
    return Proof(
        split=split,
        images=len(made),
        same=int((answers == theirs).sum()),
        largest=float(gaps[worst]),
        f1=macro_f1(recorded, answers),
        f1_torch=macro_f1(recorded, theirs),
        recorded_same=int((answers == own).sum()),
        recorded_f1=macro_f1(recorded, own),
        milliseconds=milliseconds,
        torch_milliseconds=torch_milliseconds,
        threads=threads,
    )


def macro_f1(recorded: Predictions, answers: npt.NDArray[np.int64]) -> float:
    """Macro F1 of answers [n] by the labels of `recorded`."""
    return float(averages(recorded.labels, answers, len(recorded.classes))(np.ones((1, len(answers))))[0, 2])


@dataclass(frozen=True)
class Quantized:
    """What int8 costs and gives: the change of macro F1 with its 95 % interval over images, time and bytes."""

    f1: Estimate
    milliseconds: float
    speed: float
    bytes: int
    bytes_fp32: int

    def describe(self) -> str:
        """One line."""
        value, low, high = (f"{100 * one:+.1f}" for one in (self.f1.value, self.f1.low, self.f1.high))
        return (
            f"int8: F1 {value} points ({low} to {high}), {self.speed:.1f}x as fast, "
            f"{self.bytes / 1e6:.0f} MB instead of {self.bytes_fp32 / 1e6:.0f}"
        )


def judge_int8(
    fp32: _Rows, int8: _Rows, recorded: Predictions, seconds: Mapping[str, Sequence[float]], sizes: tuple[int, int]
) -> Quantized:
    """What the quantized model loses, paired over the images of `recorded`; `sizes`: bytes in int8 and in fp32."""
    from upcycle.comparison.statistics import Arm, difference, scored  # loads scipy.stats: predicting does without

    units = clusters(recorded.groups, recorded.hashes)
    first, second = (
        scored(Arm(recorded.labels, rows.argmax(axis=1)[None], units, len(recorded.classes))) for rows in (fp32, int8)
    )
    times = {name: float(np.median(some)) for name, some in seconds.items()}
    return Quantized(
        difference(first, second, "f1_macro"), 1000 * times["int8"], times["fp32"] / times["int8"], sizes[0], sizes[1]
    )
