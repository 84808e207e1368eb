"""More epochs for a run that is there, and what its files say of the plan it has followed."""

import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from upcycle.config import Config
from upcycle.manifest import unseal, write_sealed
from upcycle.model import checkpoint
from upcycle.rundir import RunDir, read_json, read_lines
from upcycle.training.loop import Sums

UPDATES = 4
"""Counted up whenever an upcycle makes other updates of the same state, so that no run mixes the two."""


def extend(run: RunDir, config: Config) -> None:
    """Write down that a run has `config.more_epochs`; a finished one gets a state to go on from: its best weights.

    That its data are what they were has been found out before: nothing takes it back.

    Whenever this is cut off, the run is as it was, or one that has its test still to come.
    """
    rows = read_lines(run.history)
    if run.status()["state"] == "finished":
        facts = {"epoch": len(rows), "step": rows[-1]["step"], "updates": 0, "retries": len(retries(run))}
        facts |= {"sums": asdict(Sums()), "rows": rows, "version": UPDATES}
        weights = checkpoint.load_tensors(best_weights(run))
        shutil.rmtree(run.last, ignore_errors=True)  # what an earlier attempt left
        checkpoint.save_state(run.last, weights=weights, moments={}, facts=facts)
        checkpoint.copy(best_weights(run), restart(run, len(rows)))
        run.set_status("interrupted", **{name: value for name, value in run.status().items() if name != "state"})
        unseal(run)
    elif len(rows) == config.all_epochs - config.more_epochs[-1]:  # all done, and not tested yet
        checkpoint.copy(best_weights(run), restart(run, len(rows)))
    if run.fine_tuned.exists():
        run.fine_tuned.replace(run.best)
    environment = read_json(run.environment)
    # an earlier one had all numbers behind one word
    before = re.sub(r" --more-epochs( \d+)+", "", str(environment.get("command", "")))
    command = " ".join([before, *(f"--more-epochs {epochs}" for epochs in config.more_epochs)])
    write_sealed(run, run.environment, {**environment, "command": command})
    write_sealed(run, run.config, {**read_json(run.config), "more_epochs": list(config.more_epochs)})


def restart(run: RunDir, epoch: int) -> Path:
    """Where the best weights until a restart after `epoch` are kept, beside the states."""
    return run.last / f"restart-{epoch}.safetensors"


def is_fold(run: RunDir) -> bool:
    """Whether a run is one of a cross-validation's."""
    return run.root.name.startswith("fold-") and RunDir(run.root.absolute().parent).config.exists()


def best_weights(run: RunDir) -> Path:
    """The best weights of fine-tuning: moved aside once the probe was kept instead."""
    return run.fine_tuned if run.fine_tuned.exists() else run.best


def retries(run: RunDir) -> list[dict[str, Any]]:
    """Every time that training went on at a lower rate: `step`, `factor` and `reason`."""
    return [event for event in events(run) if event.get("event") == "retry"]


def events(run: RunDir) -> list[dict[str, Any]]:
    """What has changed the plan since it was made, in order; RunError for a file that is damaged."""
    return read_lines(run.events, whole=True)
