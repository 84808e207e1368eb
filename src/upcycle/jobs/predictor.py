"""What predicts: the model of an export, without torch, or the best one of a run."""

from pathlib import Path
from typing import TYPE_CHECKING

from upcycle.bundle.description import is_bundle
from upcycle.config import expanded
from upcycle.errors import ConfigError
from upcycle.reporting.progress import Display

if TYPE_CHECKING:
    from upcycle.jobs.bundle import Bundle
    from upcycle.jobs.predict import Classifier


def predictor(run: Path, *, int8: bool, threads: int, device: str, show: Display) -> "Bundle | Classifier":
    """The model of an export or of a run; ConfigError for an option that is for the other one."""
    if is_bundle(expanded(run)):
        from upcycle.jobs.bundle import open_bundle

        if device not in ("auto", "cpu"):
            raise ConfigError(f"an export predicts on the CPU, not on {device}: leave --device out")
        return open_bundle(run, threads=threads, int8=int8)
    if int8:
        raise ConfigError(f"{run} is no export: --int8 is for what upcycle export --int8 wrote")
    from upcycle.jobs.predict import load

    return load(run, threads=threads, device=device, show=show)
