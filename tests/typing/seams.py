"""What users write with the Python interface, and what a type checker says of it; read by mypy, never run."""

from collections.abc import Iterator
from pathlib import Path
from typing import assert_type

import torch

import upcycle


def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (logits - targets).square().sum(dim=1)


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return images * (0.9 + 0.2 * torch.rand(1, generator=generator))


def schedule(step: int) -> upcycle.Rate:
    return upcycle.Rate(1e-3 / (1 + step), 0.9)


class Tracker:
    """Structural: no base class."""

    def started(self, run: upcycle.Run) -> None: ...

    def epoch(self, row: upcycle.Row) -> None: ...

    def finished(self, run: upcycle.Run) -> None: ...


class Rows(upcycle.Observer):
    """One method of the three."""

    def epoch(self, row: upcycle.Row) -> None:
        assert_type(row.val_loss, float)


run = upcycle.train(
    Path("photos"),
    epochs=2,
    lr=1e-3,
    class_weights={"cat": 1.0, "dog": 2.0},
    moms=[0.9, 0.8, 0.9],
    weights=Path("weights.safetensors"),
    patience=None,
    observers=[Tracker(), Rows()],
)
upcycle.train("photos", schedule=schedule, loss=loss, augment=augment, optimizer="lion")
upcycle.train("photos", schedule=upcycle.OneCycle(1e-3), augment="none")
upcycle.train("photos", schedule="constant")

assert_type(run, upcycle.Run)
assert_type(run.test.f1_macro.value, float)
assert_type(run.test, upcycle.Evaluation)
assert_type(run.predict("new.jpg"), upcycle.Prediction)
assert_type(run.predict([Path("a.jpg"), Path("b.jpg")]), list[upcycle.Prediction])
assert_type(upcycle.load("runs/first").predict("new.jpg"), upcycle.Prediction)
assert_type(upcycle.evaluate(run, "other", split="test"), upcycle.Evaluation)
assert_type(upcycle.plan(epochs=5, schedule=schedule).rates, tuple[upcycle.Rate, ...])
assert_type(upcycle.report(run), Path)
assert_type(upcycle.compare("photos", variants=["probe", "default"], seeds=3, epochs=2), upcycle.Comparison)
assert_type(upcycle.scan("photos", classes_at=1), upcycle.Scan)


def paths(folder: Path) -> Iterator[Path]:
    yield from folder.glob("*.jpg")


assert_type(run.predict(paths(Path("photos"))), list[upcycle.Prediction])

# what is wrong is seen before it runs
upcycle.train("photos", epoch=3)  # type: ignore[call-arg]
upcycle.train("photos", epochs="3")  # type: ignore[arg-type]
upcycle.train("photos", recipe="clasic")  # type: ignore[arg-type]
upcycle.train("photos", schedule=lambda step: 0.1)  # type: ignore[arg-type,return-value]
upcycle.train("photos", observers=[object()])  # type: ignore[list-item]
