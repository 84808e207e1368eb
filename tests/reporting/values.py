"""Results and plans to draw and tabulate."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from upcycle.evaluation.results import ClassMetrics, Evaluation, Metric
from upcycle.history import History, Row
from upcycle.reporting.figures import PlannedPhase


def phase(name: str, rates: list[float], momenta: list[float] | None = None, **more: Any) -> PlannedPhase:
    given = {"name": name, "epochs": len(rates), "steps_per_epoch": 1, "per": "step"} | more
    points: list[dict[str, float]] = [
        {"step": 100 + step * given["steps_per_epoch"], "lr": rate} for step, rate in enumerate(rates)
    ]
    for point, momentum in zip(points, momenta or [], strict=False):
        point["momentum"] = momentum
    return PlannedPhase.from_dict({**given, "rates": points})


def classic() -> PlannedPhase:
    rates = [1e-5 + 1.8e-5 * epoch if epoch < 5 else 1e-5 + 9e-5 * 0.8 ** (epoch - 5) for epoch in range(50)]
    return phase("train", rates, steps_per_epoch=63, per="epoch")


def one_cycle() -> PlannedPhase:
    return phase("finetune", [1e-5, 3e-4, 2e-8], [0.95, 0.85, 0.95])


def history(epochs: int, **changed: Sequence[float]) -> History:
    """Falling losses; `changed` replaces a column."""
    rows = []
    for epoch in range(1, epochs + 1):
        held = {"val_loss": 0.6 / epoch, "val_accuracy": 1 - 0.3 / epoch, "val_f1_macro": 0.5}
        row = Row("finetune", epoch, epoch, 1e-3, 0.9, 0.5 / epoch, 1 - 0.2 / epoch, **held)
        rows.append(replace(row, best=epoch in (1, epochs - 1)))
    for column, values in changed.items():
        rows = [replace(row, **{column: value}) for row, value in zip(rows, values, strict=True)]
    return History(tuple(rows))


def metric(value: float, low: float | None = None, high: float | None = None) -> Metric:
    return Metric(
        value, max(value - 0.05, 0) if low is None else low, min(value + 0.05, 1) if high is None else high, "wilson"
    )


def evaluation(classes: Sequence[str], confusion: list[list[int]] | None = None, **more: Any) -> Evaluation:
    """The classes one after the other better, from F1 0.5 on."""
    size = len(classes)
    counts = confusion or (np.eye(size, dtype=int) * 9 + np.eye(size, k=1, dtype=int)).tolist()
    scores = {name: metric(0.5 + 0.4 * at / size) for at, name in enumerate(classes)}
    made = Evaluation(
        n=sum(map(sum, counts)),
        classes=tuple(classes),
        accuracy=metric(0.95, 0.912, 0.9786),
        precision_macro=metric(0.94, 0.9, 0.97),
        recall_macro=metric(0.93, 0.9, 0.97),
        f1_macro=metric(0.7),
        log_loss=metric(0.1468, 0.1071, 0.2),
        roc_auc=None,
        per_class={name: ClassMetrics(f1, f1, f1, 1234) for name, f1 in scores.items()},
        confusion=tuple(map(tuple, counts)),
        distinguishable_points=4.0,
        resolution="models closer than 4 points cannot be told apart",
    )
    return replace(made, **more)


PETS = evaluation(["cats", "dogs"], [[71, 4], [3, 82]])
