"""How training ends: after its last update, when patience runs out, on request, or in time for a deadline."""

import math

from upcycle.changes import Ending, Replan
from upcycle.config import Config
from upcycle.errors import counted
from upcycle.history import History, should_stop
from upcycle.jobs.session import Session
from upcycle.planning import WARM
from upcycle.training.loop import State


def wants_change(session: Session, state: State) -> bool:
    """Whether the plan should change after the update just made."""
    if session.plan.ending is None and session.asked_to_finish():
        return True
    pace = session.pace
    return pace is not None and pace.to_look() and pace.steps_for(session.plan, state.step) is not None


def change_plan(session: Session, state: State) -> bool:
    """Change the plan where someone asked the run to finish or the pace is another than planned; whether it did."""
    if session.plan.ending is None and session.run.request.exists():
        _end(session, state, "finished early on request")
        session.run.request.unlink(missing_ok=True)
        return True
    steps = session.pace.steps_for(session.plan, state.step) if session.pace else None
    if session.pace is None or steps is None:
        return False
    now = session.plan.last.steps
    reason = f"{session.pace.describe()}: {counted(steps, 'update')} in all, not {now:,}"
    session.change(Replan(state.step, steps, reason))
    session.show.message(f"update {state.step}: {reason}")
    return True


def reason_to_stop(session: Session, state: State, rows: History) -> str:
    """Why training is over, "" while it is not. Where patience has run out, the plan gets its way down first."""
    plan, config = session.plan, session.config
    last = plan.last
    if state.step - last.first_step >= last.steps and not state.sums.updates:
        return _ended(session)
    if plan.ending is not None:
        return ""
    armed = armed_from(config, plan.phases[-1].epochs)
    if not should_stop(rows, patience=config.patience, monitor=config.monitor, start_from_epoch=armed):
        return ""
    reason = f"stopped early after epoch {len(rows)}: no better {config.monitor} in "
    reason += counted(config.patience or 0, "epoch")
    if not cooldown_updates(config, state.step - last.first_step):
        return reason
    _end(session, state, reason)
    return ""


def _ended(session: Session) -> str:
    last, ending = session.plan.last, session.plan.ending
    if ending is not None:
        down = ending.steps - (ending.step - last.first_step)
        return ending.reason + (f"; then {counted(down, 'update')} of falling rate" if down else "")
    if last.updates is not None:
        return f"ran all {counted(last.steps, 'update')} that the deadline allowed"
    return f"ran {'its one epoch' if last.epochs == 1 else f'all {last.epochs:,} epochs'}"


def _end(session: Session, state: State, reason: str) -> None:
    """Lower the rate to the end from here on, within the updates that are planned."""
    done = state.step - session.plan.phases[-1].first_step
    down = min(cooldown_updates(session.config, done), session.plan.last.steps - done)
    session.change(Ending(state.step, done + down, session.config.cooldown_shape, reason))
    session.show.message(f"{reason}: {counted(down, 'update')} of falling rate" if down else reason)


def cooldown_updates(config: Config, done: int) -> int:
    """Updates of falling rate after so many, when training ends early."""
    return math.ceil(round(config.cooldown * done, 6))


def armed_from(config: Config, epochs: int) -> int:
    """The epoch of so many from which patience counts: never before the peak of one-cycle, or the end of a warm-up."""
    part = {"one-cycle": config.pct_start, **dict.fromkeys(WARM, config.warmup)}.get(config.schedule, 0.0)
    return max(config.start_from_epoch, math.ceil(part * epochs))
