import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import log_loss

from upcycle.errors import RunError, UpcycleError
from upcycle.evaluation.results import Candidate, Choice, Predictions, RunEvaluation, Views, read_predictions


def predictions(labels, logits, *, classes=("cats", "dogs"), paths=None):
    n = len(labels)
    paths = paths or tuple(f"{i}.jpg" for i in range(n))
    return Predictions(classes, paths, ("",) * n, ("",) * n, np.array(labels), np.array(logits, np.float32))


# what a file name on Linux may hold: anything but NUL, bytes that are no UTF-8 as lone surrogates
NAMES = st.text(
    st.one_of(
        st.characters(exclude_characters="\0", exclude_categories=["Cs"]),
        st.sampled_from("\r\n\t\",';\udc80\udcff \u202e\ufeff"),
    )
)


@st.composite
def any_predictions(draw):
    classes = draw(st.lists(NAMES, min_size=2, max_size=4, unique=True))
    n = draw(st.integers(1, 5))
    texts = [tuple(draw(st.lists(NAMES, min_size=n, max_size=n))) for _ in range(3)]
    labels = draw(st.lists(st.integers(0, len(classes) - 1), min_size=n, max_size=n))
    outputs = 1 if len(classes) == 2 else len(classes)
    finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
    logits = draw(arrays.arrays(np.float32, (n, outputs), elements=finite))
    return Predictions(tuple(classes), *texts, np.array(labels), logits)


@settings(deadline=None, max_examples=150)
@given(any_predictions())
def test_a_saved_file_gives_back_every_bit_and_every_name(tmp_path_factory, made):
    path = tmp_path_factory.mktemp("round") / "test.csv"
    made.save(path)
    again = read_predictions(path)
    assert (made.classes, made.paths, made.hashes, made.groups) == (
        again.classes,
        again.paths,
        again.hashes,
        again.groups,
    )
    assert made.labels.tolist() == again.labels.tolist()
    assert made.logits.tobytes() == again.logits.tobytes()


def test_the_file_of_two_classes_has_a_zero_logit_for_the_first(tmp_path):
    predictions([0, 1], [[-0.1], [1e-45]], paths=('a "b",\n.jpg', "é.png")).save(tmp_path / "test.csv")
    assert (
        '"path","label","predicted","sha256","group","logit:cats","logit:dogs"\n'
        '"a ""b"",\n.jpg","cats","cats","","",0.0,-0.1\n'
        '"é.png","dogs","dogs","","",0.0,1e-45\n'
    ) == (tmp_path / "test.csv").read_text(encoding="utf-8")


def test_two_classes_are_told_apart_at_probability_one_half():
    assert [0, 0, 1] == predictions([0, 0, 0], [[-1], [0], [1e-6]]).predicted().tolist()


def test_probabilities_of_two_classes_are_the_sigmoid_and_its_complement():
    made = predictions([0], [[np.log(3)]]).probabilities()
    np.testing.assert_allclose(made, [[0.25, 0.75]], rtol=1e-7)


def test_probabilities_of_three_classes_are_the_softmax():
    made = predictions([0], [[0, np.log(2), np.log(5)]], classes=("a", "b", "c"))
    np.testing.assert_allclose(made.probabilities(), [[0.125, 0.25, 0.625]], rtol=1e-7)


def test_a_certain_mistake_costs_its_logit_and_not_infinity():
    assert [1000.0, 0.0] == predictions([0, 1], [[1000], [1000]]).log_losses().tolist()


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 5), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_log_losses_average_to_scikit_learns_log_loss(k, n, seed):
    generator = np.random.default_rng(seed)
    labels, logits = generator.integers(k, size=n), generator.normal(size=(n, 1 if k == 2 else k)) * 3
    made = predictions(labels, logits, classes=tuple("abcde"[:k]))
    expected = log_loss(labels, made.probabilities(), labels=range(k))
    np.testing.assert_allclose(made.log_losses().mean(), expected, rtol=1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused_naming_the_first_image(bad):
    with pytest.raises(UpcycleError) as caught:
        predictions([0, 1, 1], [[0], [bad], [bad]])
    assert (
        "the model's outputs are not finite for 2 of 3 images (first: 1.jpg): "
        "its weights are unusable, train again with a lower rate"
    ) == str(caught.value)


def test_an_empty_split_is_refused():
    with pytest.raises(UpcycleError, match="no images to evaluate: the split is empty"):
        predictions([], np.zeros((0, 1)))


@pytest.mark.parametrize(
    ("labels", "logits", "classes"),
    [
        ([0, 1], [[0.0, 1.0], [1.0, 0.0]], ("a", "b")),
        ([0, 1], [[0.0], [1.0]], ("a", "b", "c")),
        ([0, 2], [[0.0], [1.0]], ("a", "b")),
        ([0, -1], [[0.0], [1.0]], ("a", "b")),
        ([0, 1], [[0.0], [1.0]], ("a", "a")),
    ],
)
def test_shapes_and_labels_that_do_not_fit_are_programming_errors(labels, logits, classes):
    with pytest.raises(ValueError):  # noqa: PT011 - each has its own words
        predictions(labels, logits, classes=classes)


def test_the_arrays_are_copies_that_cannot_be_changed():
    logits = np.zeros((1, 1), np.float32)
    made = Predictions(("a", "b"), ("x",), ("",), ("",), np.array([0]), logits)
    logits[0] = 5
    assert 0.0 == made.logits[0, 0]
    with pytest.raises(ValueError, match="read-only"):
        made.labels[0] = 1


HEADER = "path,label,predicted,sha256,group,logit:a,logit:b\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "its columns must be"),
        ("path,label\nx,a\n", "its columns must be"),
        (HEADER, "the split is empty"),
        (HEADER + "x,a,a,,,0.0\n", "image 1 has missing values"),
        (HEADER + "x,a,a,,,0.0,1.0\ny,c,a,,,0.0,1.0\n", "image 2 has missing values or an unknown class"),
        (HEADER + "x,a,a,,,0.0,one\n", "could not convert"),
        (HEADER + "x,a,a,,,0.0,nan\n", "not finite"),
        (HEADER + "x,a,a,,,1.0,1.0\n", "the logits of a must be 0, as those of the first of two classes are"),
        (HEADER + '"x,a,a,,,0.0,1.0\n', "unexpected end of data"),
    ],
)
def test_a_damaged_file_is_one_line_that_names_it(tmp_path, text, reason):
    path = tmp_path / "test.csv"
    path.write_text(text)
    with pytest.raises(RunError, match=reason) as caught:
        read_predictions(path)
    assert str(caught.value).startswith(f"{path} cannot be read as predictions: ")
    assert 1 == len(str(caught.value).splitlines())


def test_a_missing_file_says_what_to_do(tmp_path: Path):
    with pytest.raises(RunError, match="is missing: evaluate the run first, or name another split"):
        read_predictions(tmp_path / "test.csv")


# ---------------------------------------------------------------- the choice

CANDIDATES = (
    Candidate("probe", 0.25, 0.15, 0.05),
    Candidate("finetune", 0.2, 0.1, 0.02),
    Candidate("ema", 0.11, 0.01, 0.02),
    Candidate("interpolated-0.75", 0.1, 0.0, 0.0),
)


@pytest.mark.parametrize(
    ("chosen", "reason"),
    [
        (
            "ema",
            "the moving average of the fine-tuned weights was chosen: the simplest model whose validation loss is "
            "within one standard error of the lowest, that of the mean of 75 % fine-tuned and 25 % probe weights "
            "(+0.0100 ± 0.0200 per image)",
        ),
        (
            "interpolated-0.75",
            "the mean of 75 % fine-tuned and 25 % probe weights was chosen: its validation loss is the lowest, each "
            "simpler model's more than one standard error higher",
        ),
    ],
)
def test_a_choice_says_why_and_is_read_back(chosen, reason):
    choice = Choice(chosen, -0.05, 0.02, CANDIDATES)
    assert reason == choice.reason
    assert choice == RunEvaluation.from_dict(json.loads(json.dumps(RunEvaluation({}, choice).to_dict()))).choice


def test_a_probe_that_is_best_has_no_simpler_model():
    best = (Candidate("probe", 0.1, 0.0, 0.0), Candidate("finetune", 0.2, 0.1, 0.02))
    assert "the probe was chosen: its validation loss is the lowest" == Choice("probe", 0.1, 0.02, best).reason


ONE_UNIT = "validation images of a single unit cannot tell models apart"


@pytest.mark.parametrize("error", [math.inf, math.nan])  # as computed, and as read back
def test_an_error_of_one_unit_is_said_in_words(error):
    candidates = (Candidate("probe", 0.25, 0.15, error), Candidate("finetune", 0.1, 0.0, error))
    assert (
        f"the probe was chosen: the simplest model, as {ONE_UNIT} (its loss minus the lowest, that of fine-tuning: "
        "+0.1500)"
    ) == Choice("probe", -0.15, error, candidates).reason
    assert "the probe was chosen on the validation images" == Choice("probe", -0.15, error).reason
    assert (
        f"no mirror images: with them the validation loss changes by -0.1000 per image, and {ONE_UNIT}"
        == Views("flip", -0.1, error).reason
    )
    assert (
        "an image and its mirror image are averaged: the validation loss changes by -0.1000 per image, and "
        f"{ONE_UNIT}" == Views("flip", -0.1, error, asked=True).reason
    )


def test_the_choice_of_an_earlier_version_is_read():
    old = {"chosen": "finetune", "mean_difference": -0.1, "standard_error": 0.02, "reason": "fine-tuning was chosen"}
    choice = RunEvaluation.from_dict({"choice": old}).choice
    assert Choice("finetune", -0.1, 0.02) == choice
    assert choice.reason.endswith("is -0.1000 ± 0.0200 per image, better by more than one standard error")


def test_a_choice_of_an_unknown_model_is_refused():
    with pytest.raises(RunError, match="evaluation.json is damaged"):
        RunEvaluation.from_dict({"choice": {"chosen": "other"}})
