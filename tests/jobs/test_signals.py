"""Signals that stop a job: at once where nothing is half done, held where something is."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from upcycle.errors import HungUp, Terminated
from upcycle.jobs.signals import SIGNALS, stopping


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
