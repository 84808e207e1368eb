"""Questions about rows: the best, and whether to stop."""

import json

import pytest

from upcycle.errors import ConfigError, RunError
from upcycle.history import History, ProbeResult, Row, best, is_best, should_stop


def row(epoch: int, val_loss: float, *, phase: str = "finetune", accuracy: float = 0.5) -> Row:
    return Row(phase, epoch, epoch * 10, 1e-4, 0.9, 0.3, 0.9, val_loss, accuracy, accuracy)


def history(*losses: float) -> History:
    return History(tuple(row(at, loss) for at, loss in enumerate(losses, 1)))


def test_rows_of_runs_older_than_retries_are_read() -> None:
    (old,) = history(0.5).to_dicts()
    del old["retries"]
    assert history(0.5) == History.from_dicts([old])


def test_the_best_row_is_the_first_with_the_lowest_loss() -> None:
    found = best(history(0.5, 0.2, 0.2, 0.3))
    assert found is not None
    assert 2 == found.epoch


def test_an_accuracy_is_better_when_it_is_higher() -> None:
    rows = History((row(1, 0.1, accuracy=0.7), row(2, 0.2, accuracy=0.9)))
    found = best(rows, "val_accuracy")
    assert found is not None
    assert 2 == found.epoch


def test_a_loss_that_is_not_a_number_is_never_the_best() -> None:
    found = best(history(float("nan"), 0.9))
    assert found is not None
    assert 2 == found.epoch


def test_an_equal_value_is_no_improvement() -> None:
    assert not is_best(history(0.5, 0.2), row(3, 0.2))
    assert is_best(history(0.5, 0.2), row(3, 0.19))


def test_patience_5_stops_at_the_fifth_epoch_without_improvement_as_keras_does() -> None:
    losses = [0.5, 0.4, 0.3, 0.31, 0.32, 0.33, 0.34, 0.35]
    stops = [should_stop(history(*losses[:count]), patience=5) for count in range(1, 9)]
    assert [False] * 7 + [True] == stops


def test_epochs_before_the_start_do_not_count() -> None:
    losses = [0.1, 0.2, 0.3, 0.4]
    assert should_stop(history(*losses), patience=2)
    assert not should_stop(history(*losses), patience=2, start_from_epoch=3)


def test_epochs_before_the_start_are_no_best_either_as_with_keras() -> None:
    rising = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    stops = [should_stop(history(*rising[:count]), patience=2, start_from_epoch=3) for count in range(1, 7)]
    assert [False] * 5 + [True] == stops
    falling = [0.1, 0.9, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    assert not any(should_stop(history(*falling[:n]), patience=2, start_from_epoch=3) for n in range(1, 9))


def test_without_patience_nothing_stops() -> None:
    assert not should_stop(history(0.1, 9.0, 9.0), patience=None)


def test_a_phase_is_judged_by_its_own_rows() -> None:
    rows = History((row(1, 0.1, phase="head"), row(1, 0.5), row(2, 0.4)))
    assert (1, 2) == tuple(one.epoch for one in rows.of("finetune").rows)


def test_rows_of_a_head_trained_by_an_earlier_version_are_left_out() -> None:
    rows = History((row(1, 0.1, phase="head"), row(1, 0.5)))
    assert [("finetune", 1)] == [(one.phase, one.epoch) for one in History.from_dicts(rows.to_dicts()).rows]


def test_a_probes_result_survives_plain_values() -> None:
    result = ProbeResult({"common": 0.1, "each": 1e-3}, 0.25, 0.9, 0.875)
    assert result == ProbeResult.from_dict(json.loads(json.dumps(result.to_dict())))
    with pytest.raises(RunError, match="a probe's result is damaged"):
        ProbeResult.from_dict({"strengths": {}})


def test_rows_survive_plain_values() -> None:
    rows = history(0.5, 0.25)
    assert rows == History.from_dicts(rows.to_dicts())


def test_a_row_with_a_wrong_key_is_refused() -> None:
    with pytest.raises(RunError, match=r"wrong keys: \['momentum'\]"):
        History.from_dicts([{key: value for key, value in row(1, 0.1).to_dict().items() if key != "momentum"}])


def test_an_unknown_monitor_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot monitor 'f2': choose one of val_loss, val_accuracy, val_f1_macro"):
        best(history(0.1), "f2")
