"""Labels that are probably wrong, by confident learning.

Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels" (arXiv 1911.00068): an image
counts as confidently of the class whose probability, by a model that did not train on it, is above that class's own
threshold, the mean probability of the class among the images labelled so. Where that class is not the label, the label
is suspected. The thresholds make up for classes that the model is generally less sure of.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Suspects:
    """`positions`: suspected images, the surest first; `given`, `likely`: their label and the class they look like.

    `margins`: probability of the label less that of the likely class, -1 to 0 and mostly below.
    """

    positions: npt.NDArray[np.int64]
    given: npt.NDArray[np.int64]
    likely: npt.NDArray[np.int64]
    margins: Reals

    def __len__(self) -> int:
        return len(self.positions)


def suspects(probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> Suspects:
    """The images whose `labels` [n] their out-of-fold `probabilities` [n, K] speak against.

    A class without any image is never likely.
    """
    chances, given = np.asarray(probabilities, np.float64), np.asarray(labels, np.int64)
    everything = np.arange(len(given))
    classes = chances.shape[1]
    counts = np.bincount(given, minlength=classes)
    sums = np.bincount(given, weights=chances[everything, given], minlength=classes)
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    confident = np.where(chances >= thresholds, chances, -1.0)
    likely = confident.argmax(axis=1)
    counted = confident[everything, likely] >= 0
    margins = chances[everything, given] - chances[everything, likely]
    found = np.flatnonzero(counted & (likely != given))
    found = found[np.argsort(margins[found], kind="stable")]
    return Suspects(found, given[found], likely[found], margins[found])
