"""Tasks: outputs, targets, and what is read from logits."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from upcycle.task import Binary, Multiclass, Task
from upcycle.training.loss import Loss, predicted_classes, targets_of

TWO, THREE = Task.of(["cats", "dogs"]), Task.of(["a", "b", "c"])


def test_two_classes_take_one_output_and_more_take_one_each() -> None:
    assert Binary(("cats", "dogs")) == TWO
    assert Multiclass(("a", "b", "c")) == THREE
    assert (1, 3) == (TWO.outputs, THREE.outputs)
    assert (math.log(2), math.log(3)) == (TWO.guessing, THREE.guessing)
    assert ("roc_auc" in TWO.metrics, "roc_auc" in THREE.metrics) == (True, False)


def test_one_class_is_no_task() -> None:
    with pytest.raises(ValueError, match="two or more classes, not 1"):
        Task.of(["a"])


def test_targets_are_floats_of_the_outputs_shape() -> None:
    assert [0.0, 1.0] == TWO.targets(np.array([0, 1])).tolist()
    assert [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]] == THREE.targets(np.array([2, 0])).tolist()
    assert {np.dtype(np.float32)} == {task.targets(np.array([1])).dtype for task in (TWO, THREE)}


@pytest.mark.parametrize("task", [TWO, THREE])
def test_a_task_is_read_back_from_model_json_old_and_new(task: Task) -> None:
    written = json.loads(json.dumps(task.to_dict()))
    assert task == Task.from_dict(written)
    assert task == Task.from_dict({"classes": written["classes"]})


def test_a_task_of_a_later_version_is_refused() -> None:
    with pytest.raises(ValueError, match="task 'multilabel' with 3 classes is not one that this version knows"):
        Task.from_dict({"task": "multilabel", "classes": ["a", "b", "c"]})
    with pytest.raises(ValueError, match="classes must be a list, not str"):
        Task.from_dict({"classes": "abc"})


@given(st.sampled_from([TWO, THREE]), st.data())
def test_probabilities_predictions_costs_and_columns_agree(task: Task, data: st.DataObject) -> None:
    finite = st.floats(-30, 30, width=32)
    logits = data.draw(arrays.arrays(np.float32, (4, task.outputs), elements=finite))
    chances, costs, columns = task.probabilities(logits), task.costs(logits), task.to_columns(logits)
    assert (4, len(task.classes)) == chances.shape == costs.shape == columns.shape
    assert np.ones(4) == pytest.approx(chances.sum(axis=1))
    assert chances == pytest.approx(np.exp(-costs))
    assert task.predictions(logits).tolist() == columns.argmax(axis=1).tolist()
    assert logits.tobytes() == task.from_columns(columns).tobytes()
    assert task.predictions(logits).tolist() == predicted_classes(task, torch.from_numpy(logits)).tolist()


@pytest.mark.parametrize("task", [TWO, THREE])
def test_the_loss_in_torch_is_the_cost_of_the_label(task: Task) -> None:
    logits = np.random.default_rng(0).normal(size=(6, task.outputs)).astype(np.float32)
    labels = np.arange(6) % len(task.classes)
    losses = Loss(task)(torch.from_numpy(logits), targets_of(task, torch.from_numpy(labels)))
    assert task.costs(logits)[np.arange(6), labels] == pytest.approx(losses.numpy(), rel=1e-5)


def test_no_tensors_are_imported() -> None:
    code = "import sys, upcycle.task; sys.exit('torch' in sys.modules)"
    assert 0 == subprocess.run([sys.executable, "-c", code], check=False).returncode
