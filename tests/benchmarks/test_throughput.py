"""benchmarks/throughput.py: rates, ratios and which cells are read; and what the peers' scripts share."""

from dataclasses import replace
from typing import Any

import common
import pytest
import throughput
import throughput_together

from upcycle import device
from upcycle.schedules import RampSustainDecay

CELL = throughput.Cell("upcycle", "classic", "bf16", "batch")


def reading(*seconds: float) -> dict[str, Any]:
    return {"images": 100, "epoch_seconds": list(seconds)}


def test_rates_are_images_by_the_seconds_of_the_first_and_of_a_later_epoch() -> None:
    row = throughput.summary(CELL, [reading(10, 4, 5), reading(20, 2, 2), reading(5, 10, 10)])
    assert row["first"] == {"median": 10, "low": 5, "high": 20}
    assert row["later"] == {"median": 100 / 4.5, "low": 10, "high": 50}


def test_a_ratio_is_to_upcycle_with_the_same_kind_of_statistics() -> None:
    cells = [CELL, replace(CELL, bn="fixed"), replace(CELL, tool="fastai"), replace(CELL, tool="Keras", bn="fixed")]
    seconds = [(9, 4), (9, 2), (9, 8), (9, 20)]
    found = [throughput.summary(cell, [reading(*one)]) for cell, one in zip(cells, seconds, strict=True)]
    ratios = {line.split(" | ")[0]: line.split(" | ")[-1] for line in throughput.table(found).splitlines()[2:]}
    assert ratios == {"| upcycle": "- |", "| fastai": "2.00x |", "| Keras": "10.00x |"}


def test_series_of_other_machines_are_not_put_together() -> None:
    one = {"processor": "a", "threads": 2, "cells": []}
    with pytest.raises(SystemExit, match="not of one kind"):
        throughput_together.together([one, one | {"threads": 4}])


def test_unknown_cells_are_told_the_known_ones() -> None:
    machine = replace(device.detect(threads=1, device="cpu"), precision="bf16")
    assert {cell.tool for cell in throughput.cells("all", machine)} >= {"upcycle", "fastai", "Keras", "timm"}
    assert [cell.precision for cell in throughput.cells("Keras, guide", machine)] == ["fp32", "bf16", "bf16"]
    with pytest.raises(SystemExit, match="unknown cells pytorch: use all, a tool, or .*'PyTorch loop, best'"):
        throughput.cells("pytorch", machine)


@pytest.mark.parametrize("epoch", range(60))
def test_the_articles_script_follows_the_schedule_of_classic(epoch: int) -> None:
    assert common.article_rate(epoch) == pytest.approx(RampSustainDecay()(epoch).lr, rel=1e-12)


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_peer_that_did_not_train_is_no_reading(loss: float) -> None:
    with pytest.raises(SystemExit, match="did not train"):
        common.report("timm", common.Clock(), 100, (), loss=loss)
