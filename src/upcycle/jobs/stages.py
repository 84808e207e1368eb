"""The stages of a run once its data is ready: plan, probe, fine-tuning, choice, results."""

from dataclasses import replace

from upcycle.data.dataset import Dataset
from upcycle.data.splits import components
from upcycle.errors import ConfigError, counted
from upcycle.evaluation.forward import extract, head_logits
from upcycle.jobs.finetune import class_loss, fine_tune
from upcycle.jobs.prepare import cache_root
from upcycle.jobs.results import HeldOut, Results, choose, held_out, write_results
from upcycle.jobs.session import Session
from upcycle.model import checkpoint
from upcycle.model.network import ModelSpec, Network, create, head_names, load_body
from upcycle.model.weights import Weights
from upcycle.planning import Phase, adapted_rate, phases, schedule
from upcycle.training.optim import freeze_parameters, frozen_names
from upcycle.training.probe import Probe, Split, train_probe


def run_stages(session: Session, data: Dataset, network: ModelSpec, weights: Weights | None) -> str:
    """Train, choose, test and write everything down; returns why training stopped."""
    class_loss(session.config, data, device="cpu")  # says what is wrong with class weights before anything long
    model = create(network, session.machine, seed=session.config.seed)
    if weights is not None:
        for note in load_body(model, weights, network.arch):
            session.show.warn(note)
    model = model.to(session.machine.device)
    planned = _plan(session, network, model, images=len(data.splits.train))
    asked = session.config.probe and model.has_linear_head
    probed: HeldOut | None = None
    if asked:
        probe, probed = _train_probe(session, data, network, model)
        if not planned:
            session.record_rows(())
            session.save_best(model)
            write_results(session, data, Results(probed))
            return "trained the probe alone"
        planned = tuple(_adapted(session, phase, probe, data) for phase in planned)
        session.follow(replace(session.plan, phases=planned))
    pretrained = checkpoint.clone_weights(model)
    stopped = fine_tune(session, data, model, pretrained=pretrained)
    checkpoint.load_clone(model, checkpoint.load_tensors(session.best_of_training))
    write_results(session, data, choose(session, data, model, probed=probed, pretrained=pretrained))
    session.discard_checkpoints()
    return stopped


def _plan(session: Session, network: ModelSpec, model: Network, *, images: int) -> tuple[Phase, ...]:
    """The phases of the run, written to plan.json and model.json."""
    config, show, linear = session.config, session.show, model.has_linear_head
    if config.probe and not linear:
        if not config.epochs:
            raise ConfigError(f"{network.arch} has no single linear head: it has no probe, give 1 or more --epochs")
        show.warn(f"{network.arch} has no single linear head: no probe is trained, nothing to compare with")
    planned = phases(config, images, session.callables.schedule)
    frozen = frozen_names(model.body, config.freeze)
    freeze_parameters(model.body, frozen)
    parameters = {name: parameter.numel() for name, parameter in model.body.named_parameters()}
    kept = head_names(model.body) if not config.epochs else parameters.keys() - frozen
    trained, whole = sum(parameters[name] for name in kept), sum(parameters.values())
    session.describe(network, parameters=whole, trained_parameters=trained, linear_head=linear)
    session.follow(replace(session.plan, phases=planned))
    for phase in planned:
        first, last = phase.rate(phase.first_step), phase.rate(phase.first_step + phase.steps - 1)
        show.message(
            f"{phase.name}: {counted(phase.epochs, 'epoch')} of {counted(phase.steps_per_epoch, 'update')}, "
            f"{phase.schedule.kind}, "
            f"first rate {first.lr:.4g}, last {last.lr:.4g}"
        )
    show.message(f"{trained:,} of {whole:,} parameters are {'fine-tuned' if config.epochs else 'trained'}")
    return planned


# ---------------------------------------------------------------- the probe


def _train_probe(session: Session, data: Dataset, network: ModelSpec, model: Network) -> tuple[Probe, HeldOut]:
    """Compute the features once, train the probe on them, and put it into the model; its held-out predictions."""
    config, show, machine = session.config, session.show, session.machine
    index, splits = data.index, data.splits
    with session.timed("features_seconds"), show.progress("features") as progress:
        features = extract(
            model,
            index,
            data.frames,
            network=network,
            machine=machine,
            folder=cache_root(config),
            workers=data.workers(machine),
            progress=progress,
        )
    same = components(index)
    train, val = (Split(features, side, index.labels[side], same[side]) for side in (splits.train, splits.val))
    loss = class_loss(config, data, device="cpu")
    with show.progress("probe") as progress:
        probe = train_probe(train, val, loss=loss, seed=config.seed, progress=progress)
    model.set_head(probe.weight, probe.bias)
    session.record_probe(probe.result)
    show.message(
        f"probe (linear head on frozen features): val loss {probe.result.val_loss:.4f}, "
        f"val accuracy {probe.result.val_accuracy:.4f}"
    )
    return probe, held_out(data, lambda name: head_logits(model, features, splits.of(name), machine))


def _adapted(session: Session, phase: Phase, probe: Probe, data: Dataset) -> Phase:
    """The fine-tuning phase with its peak rate fitted to how far the task is from the frozen features."""
    config = session.config
    if not config.lr_adapt:
        return phase
    lr = adapted_rate(config.lr, probe.result.val_loss, len(data.index.classes))
    session.show.message(f"highest rate of fine-tuning, by the probe's validation loss: {lr:.3g}")
    return replace(phase, schedule=schedule(config.model_copy(update={"lr": lr}), phase.steps_per_epoch))
