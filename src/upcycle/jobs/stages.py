"""The stages of a run once its data is ready: plan, head, fine-tuning, choice, test."""

import math
import shutil
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from upcycle.config import Config
from upcycle.data.augment import Augmentation
from upcycle.data.batches import Batches
from upcycle.data.splits import components
from upcycle.device import out_of_memory, settle
from upcycle.errors import ConfigError, DivergenceError
from upcycle.evaluation.metrics import paired_log_loss
from upcycle.evaluation.predict import predict, predictions
from upcycle.evaluation.predictions import Predictions
from upcycle.history import History, is_best, should_stop
from upcycle.jobs.estimate import across, forecasting
from upcycle.jobs.extend import best_weights
from upcycle.jobs.finish import Choice, Results, write_results
from upcycle.jobs.keep import Keeper, renew, resumed, retry, slowed
from upcycle.jobs.prepare import Job, cache_root
from upcycle.jobs.room import at_once, halve, make_room
from upcycle.model import checkpoint, groups, zoo
from upcycle.model.weights import Weights
from upcycle.recipes import Phase, adapted_rate, phases, schedule
from upcycle.reporting.names import counted
from upcycle.rundir import write_json, write_lines
from upcycle.training.features import extract, head_logits
from upcycle.training.loop import Setting, fit, start
from upcycle.training.objective import Objective, objective
from upcycle.training.probe import Probe, Split, train_probe
from upcycle.training.scores import Scores, score


@dataclass(frozen=True, eq=False)
class Head:
    """The head phase's outcome: the probe, its phase, and its predictions of the held-out splits by name."""

    phase: Phase
    probe: Probe
    held_out: dict[str, Predictions]


def run_stages(job: Job, weights: Weights | None) -> str:
    """Train, choose, test and write everything down; returns why training stopped."""
    _objective(job, device="cpu")  # says what is wrong with class weights before anything long
    model = zoo.create(job.network, seed=job.config.seed)
    if weights is not None:
        for note in zoo.load_body(model, weights, job.network.arch):
            job.show.warn(note)
    model = model.to(job.machine.device)
    planned = _plan(job, model)
    head = _train_head(job, model, planned[0]) if planned[0].name == "head" else None
    if head is not None:
        planned = (head.phase, *(_adapted(job, phase, head) for phase in planned[1:]))
        _write_plan(job, planned)
        if len(planned) == 1:
            return _keep_probe(job, model, head)
    pretrained = checkpoint.clone_weights(model)
    stopped = _fine_tune(job, model, planned, head, pretrained)
    _load_best(job, model)
    results = _choose(job, model, head, pretrained)
    write_results(job, results)
    shutil.rmtree(job.run.last, ignore_errors=True)  # nothing is left to go on with
    return stopped


def _plan(job: Job, model: nn.Module) -> tuple[Phase, ...]:
    """The phases of the run, written to plan.json and model.json."""
    config, linear = job.config, zoo.has_linear_head(model)  # asked for here, where the network is real
    if config.head_epochs and not linear:
        if not config.epochs:
            raise ConfigError(f"{job.network.arch} has no single linear head: it has no probe, give 1 or more --epochs")
        job.show.warn(f"{job.network.arch} has no single linear head: no probe is trained, nothing to compare with")
        config = config.model_copy(update={"head_epochs": 0})
    planned = phases(config, len(job.prepared.splits.train))
    frozen = groups.frozen_names(model, config.freeze)
    groups.freeze_parameters(model, frozen)
    parameters = {name: parameter.numel() for name, parameter in model.named_parameters()}
    kept = zoo.head_names(model) if not config.epochs else parameters.keys() - frozen
    trained = sum(parameters[name] for name in kept)
    counts = {"parameters": sum(parameters.values()), "trained_parameters": trained}
    write_json(job.run.model, job.network.to_dict() | counts | {"linear_head": linear})
    _write_plan(job, planned)
    for phase in planned:
        first, last = phase.rate(phase.first_step), phase.rate(phase.first_step + phase.steps - 1)
        job.show.say(
            f"{phase.name}: {counted(phase.epochs, 'epoch')} of {counted(phase.steps_per_epoch, 'update')}, "
            f"{phase.schedule.kind}, "
            f"first rate {first.lr:.4g}, last {last.lr:.4g}"
        )
    job.show.say(
        f"{trained:,} of {counts['parameters']:,} parameters are {'fine-tuned' if config.epochs else 'trained'}"
    )
    return planned


def _write_plan(job: Job, planned: tuple[Phase, ...]) -> None:
    write_json(job.run.plan, {"phases": [phase.to_dict() for phase in planned]})


# ---------------------------------------------------------------- the head on frozen features


def _train_head(job: Job, model: nn.Module, phase: Phase) -> Head:
    """Compute the features once, train the head on them, and put it into the model."""
    index, splits = job.prepared.index, job.prepared.splits
    with job.work.timed("features_seconds"), job.show.progress("features") as progress:
        features = extract(
            model,
            index,
            job.prepared.frames,
            network=job.network,
            machine=job.machine,
            folder=cache_root(job.config),
            workers=job.workers,
            progress=progress,
        )
    tied = components(index)
    train, val = (Split(features, side, index.labels[side], tied[side]) for side in (splits.train, splits.val))
    goal = _objective(job, device="cpu")
    with job.show.progress("probe") as progress:
        probe = train_probe(train, val, phase=phase, objective=goal, seed=job.config.seed, progress=progress)
    zoo.set_head(model, probe.weight, probe.bias)
    row = probe.rows[-1]
    job.show.say(
        f"probe (frozen network, L2 {probe.strength:.0e}, rate {probe.lr_max:g}): "
        f"val loss {row.val_loss:.4f}, val accuracy {row.val_accuracy:.4f}"
    )
    held = {
        name: predictions(index, splits.of(name), head_logits(model, features, splits.of(name), job.machine))
        for name in splits.held_out
    }
    return Head(
        replace(phase, schedule=replace(phase.schedule, lr_max=probe.lr_max)),  # type: ignore[type-var]
        probe,
        held,
    )


def _keep_probe(job: Job, model: nn.Module, head: Head) -> str:
    """The probe is all that was asked for: write it down as the run's model."""
    write_lines(job.run.history, [row.to_dict() for row in head.probe.rows])
    checkpoint.save_model(job.run.best, model, job.network)
    write_results(job, Results(head.held_out))
    return "trained the probe alone"


def _objective(job: Job, *, device: str) -> Objective:
    labels = job.prepared.index.labels[job.prepared.splits.train]
    return objective(
        job.config.class_weights,
        labels,
        job.network.classes,
        smoothing=job.config.label_smoothing,
        device=device,
    )


def _adapted(job: Job, phase: Phase, head: Head) -> Phase:
    """The fine-tuning phase with its peak rate fitted to how far the task is from the frozen features."""
    if not job.config.lr_adapt:
        return phase
    lr = adapted_rate(job.config.lr, head.probe.rows[-1].val_loss, len(job.network.classes))
    job.show.say(f"highest rate of fine-tuning, by the probe's validation loss: {lr:.3g}")
    config = job.config.model_copy(update={"lr": lr})
    return replace(phase, schedule=schedule(config, phase.steps_per_epoch))


# ---------------------------------------------------------------- fine-tuning


def _fine_tune(
    job: Job, model: nn.Module, planned: tuple[Phase, ...], head: Head | None, pretrained: dict[str, Tensor]
) -> str:
    """Fine-tune by the last phase of the plan, more slowly where the loss explodes; returns why it ended."""
    make_room(job, model, planned[-1])
    while True:
        phase = slowed(job.run, planned[-1])
        _write_plan(job, (*planned[:-1], phase))
        try:
            return _train(job, model, phase, head)
        except DivergenceError as error:
            retry(job, phase, error)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            halve(job, model, phase, error)
        checkpoint.load_clone(model, pretrained)


def _train(job: Job, model: nn.Module, phase: Phase, head: Head | None) -> str:
    """Train, keeping the best weights and, after every epoch, a state to go on from."""
    setting = _setting(job, model, phase)
    state = start(model, job.config, step=phase.first_step)
    history = resumed(job, state, phase, head.probe.rows if head else ())
    reason = _reason_to_stop(job, history, phase)
    if reason:
        return reason
    renew(job, state, phase)
    keeper = Keeper(job, phase)
    with job.show.progress(phase.name) as told, job.work.stopping.held():
        progress = across(told, phase, lambda: state.epoch)
        if state.epoch == 0:
            checked = len(job.prepared.splits.val)
            progress = forecasting(
                progress,
                phase,
                batch_size=job.config.batch_size,
                checked=checked,
                say=job.show.say,
                settle=partial(settle, job.machine),
            )
        validate = partial(_validate, job)
        for ended in fit(state, setting, validate=validate, progress=progress, due=keeper.due):
            if ended is None:
                keeper.pause(state, history)
                continue
            row, totals = ended
            row = replace(row, best=is_best(history.of(phase.name), row, job.config.monitor))
            history = keeper.epoch(state, history.adding(row), totals)
            job.show.row(history, phase.epochs, totals.images / totals.seconds)
            reason = _reason_to_stop(job, history, phase)
            if reason:
                break
            renew(job, state, phase)
            job.work.stopping.obey()
    return reason


def _setting(job: Job, model: nn.Module, phase: Phase) -> Setting:
    config, prepared = job.config, job.prepared
    return Setting(
        config=config,
        phase=phase,
        batches=Batches(
            prepared.frames,
            prepared.index.labels,
            prepared.splits.train,
            preprocessing=job.network.preprocessing,
            batch_size=config.batch_size,
            augmentation=Augmentation.of(config.augment, mixup=config.mixup),
            seed=config.seed,
            num_classes=len(job.network.classes),
            device=job.machine.device,
            workers=job.workers,
        ),
        objective=_objective(job, device=job.machine.device),
        machine=job.machine,
        frozen=groups.frozen_names(model, config.freeze),
        at_once=at_once(job.run),
    )


def _validate(job: Job, model: nn.Module) -> Scores:
    labels = torch.from_numpy(job.prepared.index.labels[job.prepared.splits.val].astype(np.int64))
    return score(torch.from_numpy(_logits(job, model, "val")), labels)


def _logits(job: Job, model: nn.Module, split: str) -> npt.NDArray[np.float32]:
    return predict(
        model,
        job.prepared.frames,
        job.prepared.splits.of(split),
        preprocessing=job.network.preprocessing,
        machine=job.machine,
        workers=job.workers,
    )


def _reason_to_stop(job: Job, history: History, phase: Phase) -> str:
    """Why training is over, or "" while it is not."""
    config, rows = job.config, history.of(phase.name)
    if len(rows) >= phase.epochs:
        return f"ran {'its one epoch' if phase.epochs == 1 else f'all {phase.epochs:,} epochs'}"
    armed = _armed_from(config, len(rows))
    stop = should_stop(rows, patience=config.patience, monitor=config.monitor, start_from_epoch=armed)
    return (
        f"stopped early after epoch {len(rows)}: no better {config.monitor} in {counted(config.patience or 0, 'epoch')}"
        if stop
        else ""
    )


def _armed_from(config: Config, epoch: int) -> int:
    """The epoch from which patience counts: never before a restart, nor, with one-cycle, before its cycle's peak."""
    begin, cycles = 0, [config.epochs, *config.more_epochs]
    while len(cycles) > 1 and epoch >= begin + cycles[0]:
        begin += cycles.pop(0)
    rising = math.ceil(config.pct_start * cycles[0]) if config.schedule == "one-cycle" else 0
    return max(config.start_from_epoch, begin + rising)


# ---------------------------------------------------------------- choice and test


def _load_best(job: Job, model: nn.Module) -> None:
    checkpoint.load_clone(model, checkpoint.load_tensors(best_weights(job.run)))


def _choose(job: Job, model: nn.Module, head: Head | None, pretrained: dict[str, Tensor]) -> Results:
    """The model to keep and its held-out predictions.

    Fine-tuning is kept when its per-image log loss on the validation images beats the probe's by
    more than one standard error of the paired difference. The test images decide nothing.
    """
    index, splits = job.prepared.index, job.prepared.splits
    tuned = {name: predictions(index, splits.of(name), _logits(job, model, name)) for name in splits.held_out}
    if head is None:
        return Results(tuned)
    paired = paired_log_loss(tuned["val"], head.held_out["val"])
    choice = Choice(
        chosen="finetune" if paired.mean_difference < -paired.standard_error else "probe",
        mean_difference=paired.mean_difference,
        standard_error=paired.standard_error,
    )
    job.show.say(choice.says)
    others = {f"probe_{name}": made for name, made in head.held_out.items()}
    if choice.chosen == "finetune":
        if job.run.fine_tuned.exists():  # a choice that was not finished fell on the probe
            job.run.fine_tuned.replace(job.run.best)
        return Results(tuned, others=others, choice=choice)
    if not job.run.fine_tuned.exists():
        job.run.best.replace(job.run.fine_tuned)
    checkpoint.load_clone(model, pretrained)
    checkpoint.save_model(job.run.best, model, job.network)
    others |= {f"finetune_{name}": made for name, made in tuned.items()}
    return Results(head.held_out, others=others, choice=choice)
