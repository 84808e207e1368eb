"""Ask a run that is being trained to end early. Needs no torch."""

from pathlib import Path

from upcycle.errors import RunError
from upcycle.rundir import RunDir, is_locked, write_text


def finish(folder: Path | str) -> str:
    """Ask the process that trains the run in `folder` to end early; returns what it will do.

    It lowers its rate to the end within a fifth of the updates made (`cooldown`), then chooses, tests and reports.
    RunError where no process trains it.
    """
    run = RunDir(Path(folder))
    state = run.status()["state"]
    if any(run.root.glob("fold-*")):
        raise RunError(f"{run.root} is a cross-validation: finish the fold that is trained, such as {run.root}/fold-1")
    if state == "finished":
        raise RunError(f"{run.root} is finished already: see {run.report}")
    if not is_locked(run.root):
        again = f"upcycle train --out {run.root} --resume"
        raise RunError(f"{run.root} is not being trained (it is {state}): resume it with `{again}`, then finish it")
    write_text(run.request, "")
    return f"{run.root} was asked to finish: a short fall of its rate, if it is fine-tuned, then test and report"
