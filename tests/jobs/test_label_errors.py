import numpy as np
import numpy.typing as npt
import pytest

from upcycle.jobs.label_errors import suspects


def test_a_label_is_suspected_where_another_class_is_above_its_own_threshold() -> None:
    chances = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.3, 0.7], [0.2, 0.8], [0.62, 0.38]])
    labels = np.array([0, 0, 0, 1, 1, 1])
    # thresholds: the mean of 0.9, 0.8 and 0.1, which is 0.6, and of 0.7, 0.8 and 0.38, which is 0.627
    found, likely = suspects(chances, labels)
    assert [2, 5] == found.tolist()
    assert [1, 0] == likely.tolist()


def test_a_class_the_model_is_unsure_of_is_not_suspected_for_that() -> None:
    chances = np.array([[0.95, 0.05]] * 10 + [[0.55, 0.45]] * 10)
    found, _ = suspects(chances, np.array([0] * 10 + [1] * 10))
    assert 0 == len(found)


def test_a_class_without_images_is_never_likely() -> None:
    chances = np.array([[0.2, 0.0, 0.8], [0.9, 0.1, 0.0], [0.1, 0.9, 0.0]])
    assert [] == suspects(chances, np.array([0, 0, 1]))[0].tolist()


def simulated(
    noise: float, *, distance: float, seed: int, images: int = 4000
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Probabilities of a model that knows three overlapping classes, noisy labels, and which of them are wrong."""
    random = np.random.default_rng(seed)
    centres = distance * np.eye(3)
    true = random.integers(0, 3, images)
    points = centres[true] + random.normal(size=(images, 3))
    logits = -((points[:, None] - centres[None]) ** 2).sum(axis=2) / 2
    chances = np.exp(logits - logits.max(axis=1, keepdims=True))
    wrong = random.random(images) < noise
    labels = np.where(wrong, (true + random.integers(1, 3, images)) % 3, true)
    return chances / chances.sum(axis=1, keepdims=True), labels, wrong


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.2])
def test_simulated_noise_is_found_with_high_precision_and_recall(noise: float) -> None:
    chances, labels, wrong = simulated(noise, distance=4.0, seed=1)
    found, _ = suspects(chances, labels)
    precision, recall = wrong[found].mean(), wrong[found].sum() / wrong.sum()
    assert precision > 0.9
    assert recall > 0.9


def test_the_surest_are_first_where_classes_overlap() -> None:
    chances, labels, wrong = simulated(0.05, distance=2.0, seed=2)
    found, _ = suspects(chances, labels)
    first = wrong[found[:50]].mean()
    assert first > 0.8
    assert first > wrong[found].mean() + 0.1


def test_few_labels_are_suspected_where_none_is_wrong() -> None:
    chances, labels, _ = simulated(0.0, distance=4.0, seed=3)
    assert len(suspects(chances, labels)[0]) < 0.01 * len(labels)
