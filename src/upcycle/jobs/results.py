"""What a run leaves behind once it is trained: the choice, predictions, metrics, thumbnails."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from upcycle.data import decode
from upcycle.data.dataset import Dataset
from upcycle.errors import DecodeError
from upcycle.evaluation.calibration import calibration_of, fit_temperature, scaled
from upcycle.evaluation.forward import predictions
from upcycle.evaluation.metrics import measure, simplest_of
from upcycle.evaluation.results import (
    MODELS,
    Choice,
    FoldScores,
    ModelName,
    Predictions,
    RunEvaluation,
    Views,
    read_predictions,
)
from upcycle.jobs.finetune import held_out_logits
from upcycle.jobs.session import Session
from upcycle.manifest import check
from upcycle.model import checkpoint
from upcycle.model.network import ModelSpec, Network
from upcycle.reporting.text import calibration_text, evaluation_table, models_table
from upcycle.rundir import RunDir, read_json, write_bytes, write_json
from upcycle.training.probe import Probe

SHARES: dict[ModelName, float] = {"interpolated-0.75": 0.75, "interpolated-0.5": 0.5, "interpolated-0.25": 0.25}
"""The fine-tuned weights' part of each mean with the probe's (WiSE-FT, Wortsman et al. 2022, arXiv 2109.01903)."""
MOST_THUMBNAILS = 1000
"""Small pictures that are kept: the page shows fewer, and a run on a million photos may make that many mistakes."""
HeldOut = dict[str, Predictions]
"""Predictions by split: "val" and, where there are test images, "test"."""


@dataclass(frozen=True, eq=False)
class Results:
    """Predictions of the kept model and, by name, of others; the choice of the model and of its views."""

    kept: HeldOut
    others: dict[str, Predictions] = field(default_factory=dict)
    choice: Choice | None = None
    views: Views | None = None
    refit: bool = False
    """Whether the kept head learned from the validation images too, once they had chosen it."""


@dataclass(frozen=True, eq=False)
class Probed:
    """A trained probe, and the `network` with the stages it reads and the views that are averaged.

    `held` are predictions with these views, `plain` those of the validation images from one view. `features` [N, D] are
    those of all images; `widths` has how many of them each stage gives.
    """

    probe: Probe
    network: ModelSpec
    held: HeldOut
    plain: Predictions
    features: npt.NDArray[np.float32]
    widths: tuple[int, ...]
    views: Views | None = None


def held_out(data: Dataset, logits: Callable[[str], npt.NDArray[np.float32]]) -> HeldOut:
    """Predictions of every split that is not trained on, given the logits of one by its name."""
    return {name: predictions(data.index, data.splits.of(name), logits(name)) for name in data.splits.held_out}


def choose(
    session: Session,
    data: Dataset,
    model: Network,
    *,
    probed: Probed | None,
    pretrained: dict[str, Tensor],
    average: dict[str, Tensor],
) -> Results:
    """Keep the simplest model whose validation loss is within one standard error of the lowest.

    `model` has the weights of the best epoch, `pretrained` are the probe's, and `average` is the moving average of the
    trained ones. One view of each validation image decides; the test images decide nothing. Predictions use the views
    that were chosen for the probe.
    """

    def outputs(split: str) -> npt.NDArray[np.float32]:
        return held_out_logits(data, model, session.machine, split)

    def predicted(split: str) -> Predictions:
        return predictions(data.index, data.splits.of(split), outputs(split))

    if probed is None:
        return Results({name: predicted(name) for name in data.splits.held_out})
    weights = _Rivals(pretrained, checkpoint.clone_weights(model), average)
    val: dict[ModelName, Predictions] = {"probe": probed.plain, "finetune": predicted("val")}
    for name in () if session.plan.lean else weights.names:
        checkpoint.load_clone(model, weights.of(name))
        logits = outputs("val")
        if np.isfinite(logits).all():  # a mean of two good networks need not be one
            val[name] = predictions(data.index, data.splits.of("val"), logits)
    choice = simplest_of(val)
    session.show.message(choice.reason)
    model.views = probed.network.views
    held: dict[ModelName, HeldOut] = {"probe": probed.held}
    for name in dict.fromkeys(one for one in ("finetune", choice.chosen) if one != "probe"):
        checkpoint.load_clone(model, weights.of(name))
        known = {"val": val[name]} if model.views == "none" else {}
        held[name] = {split: known.get(split) or predicted(split) for split in data.splits.held_out}
    others = {
        f"{name}_{split}": made
        for name in ("probe", "finetune")
        if name != choice.chosen or name == "probe"
        for split, made in held[name].items()
    }
    checkpoint.load_clone(model, weights.of(choice.chosen))
    if choice.chosen == "finetune":
        session.keep_fine_tuned()
    else:
        session.keep_other(model)
    return Results(held[choice.chosen], others=others, choice=choice, views=probed.views)


@dataclass(frozen=True, eq=False)
class _Rivals:
    """The weights of the models that a run chooses from, each built on request."""

    probe: dict[str, Tensor]
    tuned: dict[str, Tensor]
    average: dict[str, Tensor]

    @property
    def names(self) -> tuple[ModelName, ...]:
        """Those beside the probe and the fine-tuned model, the simplest first."""
        return tuple(name for name in MODELS if name in SHARES or (name == "ema" and self.average))

    def of(self, name: ModelName) -> dict[str, Tensor]:
        """All tensors of a model."""
        if name in ("probe", "finetune"):
            return self.probe if name == "probe" else self.tuned
        if name == "ema":
            return {**self.tuned, **self.average}
        return {
            key: torch.lerp(self.probe[key], tensor, SHARES[name]) if tensor.is_floating_point() else tensor
            for key, tensor in self.tuned.items()
        }


def _calibrated(made: HeldOut, temperatures: Mapping[str, float]) -> HeldOut:
    """The predictions by name, those of each model divided by its own temperature."""
    return {name: scaled(one, temperatures[name.rpartition("_")[0]]) for name, one in made.items()}


def write_results(session: Session, data: Dataset, model: Network, results: Results) -> None:
    """Fit the temperature of `model`, write all that the run leaves, and show the metrics.

    These are its weights, predictions, `evaluation.json` and thumbnails of the mistakes. Each model's temperature is
    fitted on its own predictions of validation images, the kept one's before it learned from them: those are not held
    out from a head that is trained again, and it is given the temperature of the first one.
    """
    run, show = session.run, session.show
    every = {**results.kept, **results.others}
    temperatures = {
        name.removesuffix("val").removesuffix("_"): fit_temperature(made)
        for name, made in every.items()
        if name.endswith("val")
    }
    temperature = temperatures[""]
    session.calibrate(model, temperature)
    named = _calibrated(every, temperatures)
    for name, made in named.items():
        made.save(run.predictions(name))
    calibration = calibration_of(results.kept, temperature, seed=session.config.seed)
    evaluation = RunEvaluation(
        {
            name: measure(made, seed=session.config.seed, split="val" if name.endswith("val") else "test")
            for name, made in named.items()
        },
        results.choice,
        views=results.views,
        refit=results.refit,
        calibration=calibration,
    )
    write_json(run.evaluation, evaluation.to_dict())
    _write_thumbnails(session, data, results.kept.get("test"))
    split = "test" if evaluation.test else "val"
    if split == "val":
        show.message(
            "no test set: these are scores of the validation images, which chose the model, so they flatter it"
        )
    show.table(evaluation_table(evaluation[split]))
    show.message(calibration_text(calibration, split))
    names = {"probe": f"probe_{split}", "fine-tuned": f"finetune_{split}"}
    others = {label: evaluation[name] for label, name in names.items() if name in evaluation.named}
    if others and results.choice is not None:
        chosen = {"finetune": "fine-tuned"}.get(results.choice.chosen, results.choice.chosen)
        others.pop(chosen, None)
        show.table(models_table({f"{chosen} (chosen)": evaluation[split], **others}))


def _write_thumbnails(session: Session, data: Dataset, test: Predictions | None) -> None:
    """Keep small pictures of misclassified test images, the most confident first: the report needs no data folder."""
    shutil.rmtree(session.run.thumbnails, ignore_errors=True)
    if test is None:
        return
    positions = data.splits.test
    for at in test.mistakes()[:MOST_THUMBNAILS]:
        try:
            small = decode.thumbnail_jpeg(data.index.file(int(positions[at])), scale=data.preprocessing.scale)
        except DecodeError:
            continue  # the file went away since it was decoded; its row in the table remains
        write_bytes(session.run.thumbnails / f"{test.hashes[at]}.jpg", small)


def write_pooled(session: Session, folds: Sequence[RunDir]) -> None:
    """Write and show the metrics of all images of a cross-validation, each as its own fold's model predicted it."""
    for fold in folds:
        check(fold)
    parts = [read_predictions(fold.predictions("test")) for fold in folds]
    pooled = Predictions(
        classes=parts[0].classes,
        paths=tuple(path for part in parts for path in part.paths),
        hashes=tuple(digest for part in parts for digest in part.hashes),
        groups=tuple(group for part in parts for group in part.groups),
        labels=np.concatenate([part.labels for part in parts]),
        logits=np.concatenate([part.logits for part in parts]),
    )
    pooled.save(session.run.predictions("test"))
    evaluation = measure(pooled, seed=session.config.seed)
    scores = [RunEvaluation.from_dict(read_json(fold.evaluation))["test"].f1_macro.value for fold in folds]
    spread = FoldScores(tuple(scores), float(np.mean(scores)), float(np.std(scores, ddof=1)))
    write_json(session.run.evaluation, RunEvaluation({"test": evaluation}, folds=spread).to_dict())
    session.show.table(evaluation_table(evaluation))
    session.show.message(
        f"test F1 by fold: {', '.join(f'{score:.4f}' for score in scores)} "
        f"(mean {spread.mean:.4f}, standard deviation {spread.deviation:.4f})"
    )
