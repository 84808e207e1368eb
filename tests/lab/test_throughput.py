"""lab/throughput.py: rates, ratios and which cells are read; and what the peers' scripts share."""

from dataclasses import replace
from typing import Any

import common
import pytest
import throughput
import throughput_together

from upcycle import device
from upcycle.schedules import RampSustainDecay

CELL = throughput.Cell("upcycle", "classic", "bf16", "batch")


def reading(*seconds: float, at: int = 0) -> dict[str, Any]:
    """A reading of round `at` with epochs of so many seconds."""
    return {"images": 100, "epoch_seconds": list(seconds), "round": at}


def test_rates_are_images_by_the_seconds_of_the_first_and_of_a_later_epoch() -> None:
    row = throughput.summary(CELL, [reading(10, 4, 5), reading(20, 2, 2), reading(5, 10, 10)])
    assert row["first"] == {"median": 10, "low": 5, "high": 20}
    assert row["later"] == {"median": 100 / 4.5, "low": 10, "high": 50}


def test_a_ratio_is_to_upcycle_with_the_same_kind_of_statistics() -> None:
    cells = [CELL, replace(CELL, bn="fixed"), replace(CELL, tool="fastai"), replace(CELL, tool="Keras", bn="fixed")]
    seconds = [(9, 4), (9, 2), (9, 8), (9, 20)]
    found = [throughput.summary(cell, [reading(*one)]) for cell, one in zip(cells, seconds, strict=True)]
    ratios = {line.split(" | ")[0]: line.split(" | ")[-2:] for line in throughput.table(found).splitlines()[2:]}
    assert {"| upcycle": ["-", "- |"], "| fastai": ["1.00x", "2.00x |"], "| Keras": ["1.00x", "10.00x |"]} == ratios


def test_a_ratio_is_of_the_readings_of_one_round() -> None:
    ours = throughput.summary(CELL, [reading(9, 4), reading(9, 8, at=1), reading(9, 1, at=2)])
    theirs = throughput.summary(replace(CELL, tool="fastai"), [reading(18, 8), reading(9, 8, at=1)])
    assert [2, 1] == throughput.ratios(theirs, [ours, theirs], "later")
    assert [2, 1] == throughput.ratios(theirs, [ours, theirs], "first")
    assert "1.50x (1.00x to 2.00x)" not in throughput.table([ours, theirs])
    assert "1.50x (1.00 to 2.00)" in throughput.table([ours, theirs])


def test_rounds_of_two_series_are_kept_apart() -> None:
    rows = [{"tool": tool, "setting": "classic", "precision": "bf16", "bn": "batch"} for tool in ("upcycle", "fastai")]
    series = [
        {"cells": [{**rows[0], "readings": [reading(9, 4)]}, {**rows[1], "readings": [reading(9, 8)]}]},
        {"cells": [{**rows[0], "readings": [reading(9, 40)]}, {**rows[1], "readings": [reading(9, 120)]}]},
    ]
    found = [throughput.summary(cell, some) for cell, some in throughput_together.together(series).items()]
    assert [2, 3] == throughput.ratios(found[1], found, "later")


def test_series_of_other_machines_are_not_put_together() -> None:
    one = {"processor": "a", "threads": 2, "cells": []}
    with pytest.raises(SystemExit, match="not of one kind"):
        throughput_together.together([one, one | {"threads": 4}])


def test_unknown_cells_are_told_the_known_ones() -> None:
    machine = replace(device.detect(threads=1, device="cpu"), precision="bf16")
    assert {cell.tool for cell in throughput.cells("all", machine)} >= {"upcycle", "fastai", "Keras", "timm"}
    assert [cell.precision for cell in throughput.cells("Keras, guide", machine)] == ["fp32", "bf16"]
    with pytest.raises(SystemExit, match="unknown cells pytorch: use all, a tool, or .*'PyTorch loop, best'"):
        throughput.cells("pytorch", machine)


@pytest.mark.parametrize("epoch", range(60))
def test_the_articles_script_follows_the_schedule_of_classic(epoch: int) -> None:
    assert common.article_rate(epoch) == pytest.approx(RampSustainDecay()(epoch).lr, rel=1e-12)


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_peer_that_did_not_train_is_no_reading(loss: float) -> None:
    with pytest.raises(SystemExit, match="did not train"):
        common.report("timm", common.Clock(), 100, (), loss=loss)
