"""When checkpoints within an epoch are written, and what signals do while a job works."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from upcycle.changes import MicroBatch, Retry
from upcycle.config import Config
from upcycle.errors import HungUp, Terminated
from upcycle.evaluation import forward
from upcycle.jobs import session
from upcycle.jobs.session import SIGNALS, Session, stopping
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


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    assert before == {number: signal.getsignal(number) for number in SIGNALS}


def test_sigterm_stops_at_once_where_nothing_is_half_done() -> None:
    with pytest.raises(Terminated), stopping():
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("went on")


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no such signal here")
def test_a_closed_terminal_stops_a_job_as_ctrl_c_does() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with pytest.raises(HungUp), stopping() as job:
            with job.held():
                os.kill(os.getpid(), signal.SIGHUP)
                os.kill(os.getpid(), signal.SIGHUP)  # the shell sends one and the system another
                assert job.asked
            raise AssertionError("went on")
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_held_signal_waits_until_it_is_obeyed() -> None:
    seen = []
    with pytest.raises(KeyboardInterrupt) as caught, stopping() as job, job.held():
        os.kill(os.getpid(), signal.SIGINT)
        seen.append(job.asked)
        job.obey()
        seen.append("went on")
    assert [True] == seen
    assert KeyboardInterrupt is caught.type


def test_a_signal_held_to_the_end_is_obeyed_there() -> None:
    seen = []
    with pytest.raises(Terminated), stopping() as job:
        with job.held():
            os.kill(os.getpid(), signal.SIGTERM)
            seen.append("finished")
        seen.append("went on")
    assert ["finished"] == seen


def test_a_second_signal_stops_at_once() -> None:
    with pytest.raises(Terminated), stopping() as job, job.held():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("went on")


@pytest.mark.parametrize("number", SIGNALS)
def test_an_ignored_signal_stays_ignored(number: int) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with stopping() as job:
            os.kill(os.getpid(), number)
            assert not job.asked
    finally:
        signal.signal(number, before)


def test_a_job_in_another_thread_hears_no_signal() -> None:
    heard: list[bool] = []

    def work() -> None:
        with stopping() as job:
            heard.append(job.asked)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [False] == heard
