"""What a run has written so far, read for its page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upcycle.audit.findings import Audit
from upcycle.errors import RunError
from upcycle.evaluation.results import Evaluation, Predictions, RunEvaluation, read_predictions
from upcycle.history import History, ProbeResult
from upcycle.reporting.figures import PlannedPhase, planned
from upcycle.rundir import Number, RunDir, read_json, read_lines, read_values

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Timing:
    """How long an epoch took."""

    phase: str
    epoch: int
    seconds: Number = math.nan
    images_per_second: Number = math.nan


@dataclass(frozen=True, eq=False)
class RunRecord:
    """What a run has written so far; None or empty for what is not there yet."""

    status: Settings
    config: Settings
    environment: Settings
    model: Settings
    phase: PlannedPhase | None
    probe: ProbeResult | None
    audit: Audit | None
    history: History
    timings: tuple[Timing, ...]
    events: Sequence[Settings]
    evaluation: RunEvaluation | None
    predictions: Predictions | None

    @property
    def state(self) -> str:
        """running, finished, interrupted or failed."""
        return str(self.status.get("state"))

    @property
    def test(self) -> Evaluation | None:
        """The kept model on the test images."""
        return self.evaluation.test if self.evaluation else None

    @property
    def versions(self) -> Settings:
        """Versions of packages by name."""
        found = self.environment.get("versions")
        return found if isinstance(found, Mapping) else {}

    @property
    def arch(self) -> str:
        """The architecture, "" where it is not decided yet."""
        return str(self.model.get("arch") or self.config.get("arch") or "")

    @property
    def decision(self) -> str:
        """What the probe decided about fine-tuning, in words; "" where it decided nothing."""
        found = self.model.get("decision")
        return str(found.get("reason") or "") if isinstance(found, Mapping) else ""

    @property
    def probe_alone(self) -> bool:
        """Whether nothing but a probe is trained."""
        found = self.model.get("decision")
        skipped = isinstance(found, Mapping) and bool(found.get("skip"))
        never = self.config.get("fine_tune") == "never" and bool(self.config.get("probe"))
        return skipped or never or self.config.get("epochs") == 0

    @classmethod
    def read(cls, run: RunDir) -> "RunRecord":
        """The record of a run directory; RunError for one that holds something else."""

        def settings(path: Path) -> Settings:
            values = read_json(path) if path.exists() else {}
            if not isinstance(values, Mapping):
                raise RunError(f"{path} holds no settings")
            return values

        test = run.predictions("test")
        return cls(
            status=run.status(),
            config=settings(run.config),
            environment=settings(run.environment),
            model=settings(run.model),
            phase=planned(settings(run.plan)),
            probe=ProbeResult.from_dict(settings(run.probe)) if run.probe.exists() else None,
            audit=Audit.from_dict(settings(run.audit)) if run.audit.exists() else None,
            history=History.from_dicts(read_lines(run.history)),
            timings=read_values(Timing, read_lines(run.timings), str(run.timings)),
            events=read_lines(run.events),
            evaluation=RunEvaluation.from_dict(settings(run.evaluation)) if run.evaluation.exists() else None,
            predictions=read_predictions(test) if test.exists() else None,
        )
