"""When checkpoints within an epoch are written, and what signals do while a job works."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from upcycle.changes import MicroBatch, Retry
from upcycle.config import Config
from upcycle.evaluation import forward
from upcycle.jobs import session
from upcycle.jobs.session import Session
from upcycle.planning import phases
from upcycle.reporting.progress import Silent
from upcycle.rundir import RunDir, read_json, read_lines


def opened(folder: Path, **options: Any) -> Session:
    """The session of an empty run."""
    run = RunDir(folder)
    run.set_status("running", seconds=3.0, features_seconds=1.0, stopped="x")
    stopping = SimpleNamespace(asked=False, obey=lambda: None)
    return Session(run, Config(**options), cast(Any, None), Silent(), cast(Any, stopping))


def test_states_within_an_epoch_wait_their_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    now = [0.0]
    monkeypatch.setattr(session.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(session, "_is_finite", lambda _: True)
    monkeypatch.setattr(Session, "_save", lambda *_: now.__setitem__(0, now[0] + 5))
    monkeypatch.setattr(Session, "_last_whole", lambda _: None)
    work = opened(tmp_path, checkpoint_every=60)
    work.resume(cast(Any, SimpleNamespace(epoch=0)), cast(Any, None))

    def due_at(seconds: float) -> bool:
        now[0] = seconds
        return work.due()

    assert [False, True] == [due_at(59), due_at(60)]
    work.pause(cast(Any, None), cast(Any, None))  # a write of 5 s, after which it rests for a hundred
    assert [False, True] == [due_at(164), due_at(165)]
    work.config = Config(checkpoint_every=0)
    assert not work.due()
    cast(Any, work.stopping).asked = True
    assert work.due()


def test_the_plan_is_written_when_it_changes_and_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = opened(tmp_path)
    work.follow(work.plan.__class__(phases(Config(), 320)))
    first = work.plan.last.first_step
    assert not work.run.events.exists()
    work.change(Retry(first + 10, 0.5, "it exploded"))
    work.change(MicroBatch(first, 4, "memory"))
    assert ["retry", "micro-batch"] == [row["event"] for row in read_lines(work.run.events)]
    assert "scaled" == read_json(work.run.plan)["phases"][-1]["schedule"]["kind"]
    work.run.plan.unlink()
    work.follow(work.plan)
    assert not work.run.plan.exists()
    again = opened(tmp_path)
    assert work.plan.changes == again.plan.changes
    work.run.events.unlink()
    assert (1, 1) == (len(again.plan.retries), len(again.plan.micro_batches))


def test_seconds_of_earlier_sessions_count(tmp_path: Path) -> None:
    work = opened(tmp_path)
    assert work.seconds() >= 3.0
    assert {"features_seconds": 1.0} == work.details


def test_no_more_than_1024_images_of_the_features_are_computed_again() -> None:
    assert 1024 == forward.PART


# ---------------------------------------------------------------- signals
