"""The stages of a run once its data is ready: plan, probe, fine-tuning, choice, results."""

from dataclasses import replace

from upcycle.data.dataset import Dataset
from upcycle.errors import ConfigError, counted
from upcycle.jobs.finetune import class_loss, fine_tune
from upcycle.jobs.probe import Probed, probe_frozen
from upcycle.jobs.results import Results, choose, write_results
from upcycle.jobs.session import Session
from upcycle.model import checkpoint
from upcycle.model.network import ModelSpec, Network, create, head_names, load_body
from upcycle.model.weights import Weights
from upcycle.planning import Phase, adapted_rate, phases, schedule
from upcycle.training.optim import freeze_parameters, frozen_names
from upcycle.training.probe import Probe


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
    probed: Probed | None = None
    if asked:
        probed = probe_frozen(session, data, network, model)
        _describe(session, probed.network, model)
        if not planned:
            session.record_rows(())
            session.save_best(model)
            write_results(session, data, Results(probed.held, views=probed.views))
            return "trained the probe alone"
        planned = tuple(_adapted(session, phase, probed.probe, data) for phase in planned)
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
    trained, whole = _describe(session, network, model)
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


def _describe(session: Session, network: ModelSpec, model: Network) -> tuple[int, int]:
    """Write model.json; how many parameters are trained, and how many there are."""
    config, body = session.config, model.body
    parameters = {name: parameter.numel() for name, parameter in body.named_parameters()}
    kept = head_names(body) if not config.epochs else parameters.keys() - frozen_names(body, config.freeze)
    trained, whole = sum(parameters[name] for name in kept), sum(parameters.values())
    session.describe(network, parameters=whole, trained_parameters=trained, linear_head=model.has_linear_head)
    return trained, whole


def _adapted(session: Session, phase: Phase, probe: Probe, data: Dataset) -> Phase:
    """The fine-tuning phase with its peak rate fitted to how far the task is from the frozen features."""
    config = session.config
    if not config.lr_adapt:
        return phase
    lr = adapted_rate(config.lr, probe.result.val_loss, len(data.index.classes))
    session.show.message(f"highest rate of fine-tuning, by the probe's validation loss: {lr:.3g}")
    return replace(phase, schedule=schedule(config.model_copy(update={"lr": lr}), phase.steps_per_epoch))
