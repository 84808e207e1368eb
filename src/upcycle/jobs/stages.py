"""The stages of a run once its data is ready: plan, probe, fine-tuning, choice, results."""

from dataclasses import asdict, dataclass, replace

import numpy as np

from upcycle.config import AUTO_RATE, Config
from upcycle.data.dataset import Dataset
from upcycle.errors import ConfigError, RunError, counted
from upcycle.evaluation.metrics import paired_log_loss, standard_error
from upcycle.jobs.deadline import allow
from upcycle.jobs.finetune import check_shared, class_loss, fine_tune, held_out_logits, synchronize_statistics
from upcycle.jobs.novelty import write_novelty
from upcycle.jobs.peak import recorded, tested
from upcycle.jobs.probe import probe_frozen, refit
from upcycle.jobs.results import Probed, Results, choose, write_results
from upcycle.jobs.session import Session
from upcycle.model import checkpoint
from upcycle.model.network import ModelSpec, Network, create, head_names, load_body
from upcycle.model.weights import Weights
from upcycle.planning import LEAST_TURNED, Decision, Phase, adapted_rate, decide, orientation, phases, schedule
from upcycle.recipes import peak_rate
from upcycle.rundir import RunDir, read_json
from upcycle.training.optim import freeze_parameters, frozen_names
from upcycle.training.rate_curve import Peak, Sweep

MOST_GUESSED = 0.8
"""Above this part of the loss of guessing a probe knows too little for turned images to cost it anything."""
MOST_TURNED = 1000
"""Validation images, at most, that are turned to see whether orientation matters: more add little."""


@dataclass(frozen=True, eq=False)
class Begun:
    """Where fine-tuning starts: the model with its head and its frozen layers, and the phases.

    Those are none where it is skipped. `fallback`: the highest rate without a range test, and why it is that.
    """

    model: Network
    network: ModelSpec
    planned: tuple[Phase, ...]
    probed: Probed | None
    fallback: tuple[float, str]


def run_stages(session: Session, data: Dataset, network: ModelSpec, weights: Weights | None) -> str:
    """Train, choose, test and write everything down; returns why training stopped."""
    config = session.config
    begun = begin_tuning(session, data, network, weights)
    model, network, probed = begun.model, begun.network, begun.probed
    if probed and not begun.planned:
        session.record_rows(())
        held = refit(session, data, model, probed) if config.refit else probed.held
        session.save_best(model)
        write_novelty(session, data, model, probed.features)
        write_results(session, data, model, Results(held, views=probed.views, refit=config.refit))
        return "trained the probe alone"
    pretrained = checkpoint.clone_weights(model)
    stopped, average = fine_tune(session, data, model, pretrained=pretrained)
    checkpoint.load_clone(model, checkpoint.load_tensors(session.best_of_training))
    if probed is None:
        model.views = network.views
    results = choose(session, data, model, probed=probed, pretrained=pretrained, average=average)
    if probed and results.choice and results.choice.chosen == "probe" and config.refit:
        results = replace(results, kept=refit(session, data, model, probed), refit=True)
        session.save_best(model)
    frozen = probed and results.choice and results.choice.chosen == "probe"
    write_novelty(session, data, model, probed.features if probed and frozen else None)
    write_results(session, data, model, results)
    session.discard_checkpoints()
    return stopped


def begin_tuning(session: Session, data: Dataset, network: ModelSpec, weights: Weights | None) -> Begun:
    """All that comes before the first update of fine-tuning, written down."""
    config = session.config
    class_loss(config, data, device="cpu")  # says what is wrong with class weights before anything long
    model = create(network, session.machine, seed=config.seed)
    check_shared(config, model, data.world, session.machine, images=len(data.splits.train))
    synchronize_statistics(model, config, data.world)
    if weights is not None:
        for note in load_body(model, weights, network.arch):
            session.show.warn(note)
    model = model.to(session.machine.device)
    planned = _plan(session, network, model, images=len(data.splits.train))
    if config.probe and model.has_linear_head:
        probed = probe_frozen(session, data, network, model)
        planned, fallback = _decided(session, data, model, planned, probed)
        return Begun(model, probed.network, planned, probed, fallback)
    network = replace(network, views=config.views if config.views != "auto" else "none")
    fallback = _own_rate(config)
    _, freeze = allow(session, data, model, planned[0], config.freeze)
    planned = _rated(session, data, model, network, planned, freeze=freeze, fallback=fallback)
    return Begun(model, network, planned, None, fallback)


def _own_rate(config: Config) -> tuple[float, str]:
    """The rate of the options, or of their recipe, and which of them that is."""
    return peak_rate(config), "the recipe's own" if config.lr == AUTO_RATE else "that of the options"


def _plan(session: Session, network: ModelSpec, model: Network, *, images: int) -> tuple[Phase, ...]:
    """The phases of the run as they are before the probe, written to plan.json and model.json."""
    config = session.config
    if warning := without_probe(config, network.arch, model):
        session.show.warn(warning)
    planned = phases(config, images, session.callables.schedule)
    if not session.run.model.exists():  # a resumed run keeps what it has decided until it has done so again
        _follow(session, network, model, planned, freeze=config.freeze)
    return planned


def without_probe(config: Config, arch: str, model: Network) -> str:
    """Why no probe is trained although one was asked for, else ""; ConfigError where nothing else would be."""
    if not config.probe or model.has_linear_head:
        return ""
    if not config.tunes:
        advice = "give 1 or more --epochs" if not config.epochs else "leave --fine-tune out"
        raise ConfigError(f"{arch} has no single linear head: it has no probe, {advice}")
    return f"{arch} has no single linear head: no probe is trained, nothing to compare with"


def _follow(
    session: Session,
    network: ModelSpec,
    model: Network,
    planned: tuple[Phase, ...],
    *,
    freeze: str,
    decision: Decision | None = None,
    peak: Peak | None = None,
) -> None:
    """Freeze the layers that `freeze` names; write the phases to plan.json, and parameter counts to model.json."""
    freeze_parameters(model.body, frozen_names(model.body, freeze))
    trained, whole = _sizes(model, planned)
    facts: dict[str, object] = {
        "parameters": whole,
        "trained_parameters": trained,
        "linear_head": model.has_linear_head,
    }
    facts |= {"decision": decision.to_dict()} if decision else {}
    session.describe(network, **facts, **({"range_test": asdict(peak)} if peak else {}))
    session.follow(replace(session.plan, phases=planned))


def _rated(
    session: Session,
    data: Dataset,
    model: Network,
    network: ModelSpec,
    planned: tuple[Phase, ...],
    *,
    freeze: str,
    fallback: tuple[float, str],
    decision: Decision | None = None,
) -> tuple[Phase, ...]:
    """The phases to follow, written down and shown; at the rate of a range test where that is asked for.

    A run that has a checkpoint keeps the rate that it was started with.
    """
    config = session.config
    wanted = bool(planned) and config.lr == AUTO_RATE
    peak = recorded(session.run) if wanted else None  # before its file is written again
    _follow(session, network, model, planned, freeze=freeze, decision=decision, peak=peak)
    if wanted:
        if peak is None:
            lr, reason = fallback
            peak = tested(session, data, model, Sweep(), fallback=lr, fallback_reason=reason).peak
            least = max(config.lr_start, config.lr_min) if config.schedule == "ramp-sustain-decay" else 0.0
            if peak.lr < least:
                peak = replace(
                    peak, lr=least, reason=f"{least:.3g}, which its schedule starts or ends at; {peak.reason}"
                )
        session.show.message(f"highest rate of fine-tuning, by a range test: {peak.reason}")
        planned = tuple(_at_rate(session, phase, peak.lr) for phase in planned)
        _follow(session, network, model, planned, freeze=freeze, decision=decision, peak=peak)
    _announce(session, model, planned)
    return planned


def _at_rate(session: Session, phase: Phase, lr: float) -> Phase:
    """The phase with another highest rate."""
    changed = session.config.model_copy(update={"lr": lr, "epochs": phase.epochs})
    return replace(phase, schedule=schedule(changed, phase.steps_per_epoch, session.callables.schedule))


def _sizes(model: Network, planned: tuple[Phase, ...]) -> tuple[int, int]:
    """How many parameters are trained, and how many there are."""
    head = head_names(model.body)
    parameters = dict(model.body.named_parameters())
    trained = [one for name, one in parameters.items() if (one.requires_grad if planned else name in head)]
    return sum(one.numel() for one in trained), sum(one.numel() for one in parameters.values())


def _announce(session: Session, model: Network, planned: tuple[Phase, ...]) -> None:
    """Show the phases, and how much of the network is trained."""
    for phase in planned:
        allowed = session.plan.last if session.plan.phases == planned else phase  # by a deadline, or a plan repeated
        first, last = allowed.rate(phase.first_step), allowed.rate(phase.first_step + allowed.steps - 1)
        length = f"{counted(phase.epochs, 'epoch')} of {counted(phase.steps_per_epoch, 'update')}"
        if allowed.updates is not None:
            length = f"{counted(allowed.steps, 'update')}, not {length}"
        session.show.message(
            f"{phase.name}: {length}, {phase.schedule.kind}, first rate {first.lr:.4g}, last {last.lr:.4g}"
        )
    trained, whole = _sizes(model, planned)
    session.show.message(f"{trained:,} of {whole:,} parameters are {'fine-tuned' if planned else 'trained'}")


# ---------------------------------------------------------------- what the probe decides


def _decided(
    session: Session, data: Dataset, model: Network, planned: tuple[Phase, ...], probed: Probed
) -> tuple[tuple[Phase, ...], tuple[float, str]]:
    """The phases after the probe: none if fine-tuning is skipped, else with epochs and peak rate by its loss.

    And the rate that needs no range test, with its reason.
    """
    config, network, fallback = session.config, probed.network, _own_rate(session.config)
    if not planned:
        return _rated(session, data, model, network, planned, freeze=config.freeze, fallback=fallback), fallback
    (phase,) = planned
    decision = decide(
        config,
        loss=probed.probe.result.val_loss,
        error=standard_error(probed.plain),
        images=len(probed.plain),
        classes=len(data.index.classes),
        steps_per_epoch=phase.steps_per_epoch,
    )
    session.show.message(decision.reason)
    decided: tuple[Phase, ...] = ()
    if not decision.skip:
        if config.lr_adapt:
            loss, classes = probed.probe.result.val_loss, len(data.index.classes)
            lr = adapted_rate(fallback[0], loss, classes, whole=decision.freeze == "none")
            fallback = lr, "that of the probe's validation loss"
            if config.lr != AUTO_RATE:
                session.show.message(f"highest rate of fine-tuning, by the probe's validation loss: {lr:.3g}")
        decided = (_at_rate(session, replace(phase, epochs=decision.epochs), fallback[0]),)
    augment = _augment(session, data, model, probed) if decided and config.augment == "auto" else ""
    if decided:
        there_is_time, freeze = allow(session, data, model, decided[0], decision.freeze)
        decision = replace(decision, freeze=freeze, skip=not there_is_time)
        decided = decided if there_is_time else ()
    _same_decision(session.run, probed.network, decision, augment)
    session.follow(replace(session.plan, phases=decided, augment=augment))
    return (
        _rated(session, data, model, network, decided, freeze=decision.freeze, fallback=fallback, decision=decision),
        fallback,
    )


def _same_decision(run: RunDir, network: ModelSpec, decision: Decision, augment: str) -> None:
    """RunError where a run that has a checkpoint would go on by another decision of the probe than it began with."""
    if not any(run.last.glob("*.safetensors")):
        return
    known = read_json(run.model)
    before = {
        **known.get("decision", {}),
        "stages": known.get("stages") or 1,
        "augment": read_json(run.plan).get("augment", ""),
    }
    now = {**decision.to_dict(), "stages": network.stages, "augment": augment}
    for name in ("stages", "skip", "epochs", "freeze", "augment"):
        if before.get(name) != now[name]:
            raise RunError(
                f"{run.root} cannot resume here: its probe chose {name} = {before.get(name)}, and here {now[name]}, as "
                "other threads, precision or libraries can: resume it as it was started, or start another"
            )


def _augment(session: Session, data: Dataset, model: Network, probed: Probed) -> str:
    """The augmentation: "square" where the probe does as well on turned validation images, else "light"."""
    images = len(probed.plain)
    guessing = data.task.guessing
    if images < LEAST_TURNED or probed.probe.result.val_loss > MOST_GUESSED * guessing:
        return "light"
    at = np.unique(np.linspace(0, images - 1, min(images, MOST_TURNED)).astype(np.int64))  # of every class
    upright = probed.plain.part(at)
    logits = np.empty_like(upright.logits)
    for quarter in (1, 2, 3):  # each image by one of them
        own = slice(quarter - 1, None, 3)
        logits[own] = held_out_logits(data, model, session.machine, "val", at[own], output=f"turned by {quarter}")
    paired = paired_log_loss(replace(upright, logits=logits), upright)
    free, reason = orientation(paired.mean_difference, paired.standard_error, len(data.index.classes))
    session.show.message(reason)
    return "square" if free else "light"
