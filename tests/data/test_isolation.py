"""Files that would take a process down take one of their own, and are reported; the others are decoded."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.malformed import FORMATS, chunk, picture, stored
from upcycle.data import decode, isolation
from upcycle.data.frames import open_cache
from upcycle.data.index import index_images
from upcycle.data.isolation import Decoders, Limits, Process
from upcycle.data.preprocessing import Decoding
from upcycle.data.worker import image_statistics
from upcycle.errors import DataError, DecodeError, UpcycleError
from upcycle.jobs.files import files_of

ROOT = Path(__file__).resolve().parents[2]
needs_limits = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limits are Linux's")
SMALL = stored(picture(), "PNG")


def wide(side: int) -> bytes:
    """A transparent PNG of a bit a pixel: a few kB that take 3 bytes a pixel in colors, and 16 in between."""
    header = side.to_bytes(4) * 2 + bytes([1, 3, 0, 0, 0])
    rows = zlib.compress(bytes((side + 7) // 8 + 1) * side, 1)
    palette = chunk(b"PLTE", bytes(6)) + chunk(b"tRNS", b"\0\xff")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


LARGE = wide(8000)


@pytest.fixture
def pool() -> Iterator[Decoders]:
    made = Decoders()
    yield made
    made.close()


def load(pool: Decoders, data: bytes) -> np.ndarray:
    return pool.load(data, Decoding(24, "bilinear"))


@pytest.mark.parametrize("kind", FORMATS)
def test_other_processes_see_what_this_one_sees(pool: Decoders, kind: str) -> None:
    data = stored(picture(70, 50), kind)
    assert (hashlib.sha256(data).hexdigest(), decode.header(data)) == pool.header(data)
    assert (hashlib.sha256(data).hexdigest(), image_statistics(data)) == pool.statistics(data)
    assert (decode.load_image(data, Decoding(24, "bilinear")) == load(pool, data)).all()
    assert 1 == len(pool._workers)


def test_a_file_is_read_by_the_process_and_not_sent(pool: Decoders, tmp_path: Path) -> None:
    file, digest = tmp_path / "x.png", hashlib.sha256(SMALL).hexdigest()
    file.write_bytes(SMALL)
    sent: list[bytes] = []
    load(pool, SMALL)
    plain = pool._workers[0].ask
    pool._workers[0].ask = lambda head, data: (sent.append(data), plain(head, data))[1]  # type: ignore[method-assign]
    assert (digest, decode.header(SMALL)) == pool.header(file)
    assert (digest, image_statistics(SMALL)) == pool.statistics(file)
    same = pool.load(file, Decoding(24, "bilinear"), sha256=digest)
    assert (decode.load_image(SMALL, Decoding(24, "bilinear")) == same).all()
    assert {b""} == set(sent)


def test_a_file_that_cannot_be_read_or_is_another_is_not_the_images_fault(pool: Decoders, tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    with pytest.raises(FileNotFoundError):
        pool.header(file)
    with pytest.raises(
        DataError, match=r"x\.png cannot be read any more \(No such file or directory\): run again"
    ) as gone:
        pool.load(file, Decoding(24, "bilinear"), sha256="0" * 64)
    file.write_bytes(SMALL)
    with pytest.raises(DataError, match=r"x\.png changed since it was scanned: run again") as other:
        pool.load(file, Decoding(24, "bilinear"), sha256="0" * 64)
    assert [DataError, DataError] == [gone.type, other.type]


def test_what_is_wrong_with_a_file_is_said_as_in_this_process(pool: Decoders) -> None:
    for data in (b"", b"nothing", SMALL[:-30], SMALL[:20]):
        with pytest.raises(DecodeError) as here:
            decode.load_image(data, Decoding(24, "bilinear"))
        with pytest.raises(DecodeError) as there:
            load(pool, data)
        assert str(here.value) == str(there.value)
    assert load(pool, SMALL).shape == (24, 32, 3)


@needs_limits
def test_memory_is_bounded() -> None:
    pool = Decoders(Limits(memory=700 * 2**20))
    with pytest.raises(DecodeError, match=r"takes more than 0.68 GiB of memory"):
        load(pool, LARGE)
    assert load(pool, SMALL).shape == (24, 32, 3)
    pool.close()


@needs_limits
def test_time_is_bounded() -> None:
    pool = Decoders(Limits(seconds=0))
    with pytest.raises(DecodeError, match="takes more than 0 s of processor time"):
        for _ in range(20):
            load(pool, LARGE)
    assert load(pool, SMALL).shape == (24, 32, 3)
    pool.close()


def test_waiting_is_bounded(pool: Decoders) -> None:
    load(pool, SMALL)
    pool._workers[0].limits = Limits(patience=0.1)
    stopped = pool._workers[0].process
    stopped.send_signal(signal.SIGSTOP)
    with pytest.raises(DecodeError, match="had not ended after 0 s"):
        load(pool, SMALL)
    assert stopped.returncode == -signal.SIGKILL
    assert load(pool, SMALL).shape == (24, 32, 3)


def test_a_process_that_something_else_killed_costs_nothing(pool: Decoders) -> None:
    expected = load(pool, SMALL)
    pool._workers[0].process.kill()
    assert (load(pool, SMALL) == expected).all()


def test_a_file_that_ends_every_process_is_reported(pool: Decoders, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, killed = Process.ask, []

    def ask(worker: Process, head: dict[str, Any], data: bytes) -> tuple[Any, bytes]:
        threading.Timer(0.05, worker.process.kill).start()
        killed.append(worker.process.pid)
        return plain(worker, head, data)

    with monkeypatch.context() as patch:
        patch.setattr(Process, "ask", ask)
        with pytest.raises(DecodeError, match="ends the process that decodes it"):
            load(pool, LARGE)
    assert 2 == len(set(killed))
    assert load(pool, SMALL).shape == (24, 32, 3)


def test_the_time_in_which_all_of_it_is_stopped_does_not_count(tmp_path: Path) -> None:
    code = """
from upcycle.data.isolation import Decoders, Limits
from tests.data.test_isolation import SMALL, load, wide
pool, large = Decoders(Limits(patience=4)), wide(4000)
load(pool, SMALL)
print("ready", flush=True)
for _ in range(6):
    load(pool, large)
pool.close()
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        assert b"ready\n" == process.stdout.readline()
        time.sleep(0.1)
        try:
            os.killpg(process.pid, signal.SIGSTOP)
            time.sleep(6)
            os.killpg(process.pid, signal.SIGCONT)
            assert 0 == process.wait(60)
        finally:  # whatever failed, nothing stopped is left to be waited for
            process.kill()


def test_idle_processes_that_were_killed_are_not_asked(pool: Decoders) -> None:
    together(pool, 3)
    for worker in pool._workers:
        worker.process.kill()
        worker.process.wait()
    assert load(pool, SMALL).shape == (24, 32, 3)
    assert 1 == len(pool._workers)


@needs_limits
def test_a_folder_with_such_files_is_used_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "DECODERS", Decoders(Limits(memory=700 * 2**20)))
    for label in ("ants", "bees"):
        (tmp_path / label).mkdir()
        for number in range(4):
            (tmp_path / label / f"{number}.png").write_bytes(stored(picture(40 + number), "PNG"))
    (tmp_path / "bees" / "large.png").write_bytes(LARGE)
    index = index_images(tmp_path)
    assert 9 == len(index)
    images, failures = open_cache(index, Decoding(24, "bilinear"), root=tmp_path / "cache")
    assert ["bees/large.png"] == [index.path(at) for at in failures]
    assert ("decoding it takes more than 0.68 GiB of memory", "limit") == failures.popitem()[1]
    assert 8 == len(images.without([8]))
    isolation.DECODERS.close()


@needs_limits
def test_a_process_may_write_no_file(pool: Decoders) -> None:
    load(pool, SMALL)
    limits = Path(f"/proc/{pool._workers[0].process.pid}/limits").read_text().splitlines()
    bounds = {line[:26].strip(): line[26:].split()[:2] for line in limits}
    assert bounds["Max file size"] == ["0", "0"]
    assert bounds["Max core file size"] == ["0", "0"]
    assert bounds["Max address space"] == [str(pool.limits.memory)] * 2


def test_an_interrupt_is_for_the_one_who_asked(pool: Decoders) -> None:
    load(pool, SMALL)
    pool._workers[0].process.send_signal(signal.SIGINT)
    first = pool._workers[0]
    assert load(pool, SMALL).shape == (24, 32, 3)
    assert [first] == pool._workers


def test_processes_end_when_idle_and_when_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Decoders()
    load(pool, SMALL)
    closed = pool._workers[0].process
    pool.close()
    assert closed.returncode is not None
    monkeypatch.setattr(isolation, "_IDLE", 0.1)
    load(pool, SMALL)
    idle = pool._workers[0].process
    for _ in range(100):
        if not pool._workers:
            break
        time.sleep(0.1)
    assert not pool._workers
    assert idle.wait(10) is not None
    pool.close()


def together(pool: Decoders, count: int) -> None:
    """Ask from so many threads at once."""
    threads = [threading.Thread(target=load, args=(pool, LARGE)) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_threads_have_a_process_each_up_to_a_number(pool: Decoders, monkeypatch: pytest.MonkeyPatch) -> None:
    together(pool, 2)
    assert 2 == len(pool._workers)
    monkeypatch.setattr(isolation, "_MOST", 1)
    few = Decoders()
    together(few, 3)
    assert 1 == len(few._workers)
    few.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_has_its_own() -> None:
    code = """
import os, sys
from upcycle.data import isolation
from tests.data.test_isolation import SMALL, load
load(isolation.DECODERS, SMALL)
parents = isolation.DECODERS._workers[0].process.pid
child = os.fork()
if not child:
    load(isolation.DECODERS, SMALL)
    os._exit(isolation.DECODERS._workers[0].process.pid == parents)
assert os.waitpid(child, 0)[1] == 0
load(isolation.DECODERS, SMALL)
assert isolation.DECODERS._workers[0].process.pid == parents
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT, timeout=120)


@needs_limits
def test_under_a_limit_of_the_system_each_file_has_a_process_of_its_own() -> None:
    code = """
import resource
from upcycle.data import isolation
from tests.data.test_isolation import SMALL, load
resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
for _ in range(3):
    assert load(isolation.DECODERS, SMALL).shape == (24, 32, 3)
assert isolation.DECODERS._workers[0].process.wait(20) == 0
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT, timeout=120)


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no process to decode images can be started: No such file"),
        ("exit 3", "the process to decode images ended with code 3 as it started"),
        ("echo hello", "the process to decode images ended with code 0 as it started"),
        ("exec sleep 60", "the process to decode images did not start within 1 s"),
    ],
)
def test_no_process_to_be_had_is_one_line_and_no_fault_of_the_file(
    text: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = script(tmp_path / "python", text) if text else "/nowhere/python"
    monkeypatch.setattr(sys, "executable", python)
    few = Decoders(Limits(patience=1))
    with pytest.raises(UpcycleError, match=message) as caught, decode.naming(tmp_path / "x.png"):
        load(few, SMALL)
    assert not isinstance(caught.value, DecodeError)
    assert not few._workers


def test_what_python_prints_as_it_starts_and_odd_paths_do_no_harm(
    pool: Decoders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('hello')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "resource.py").write_text("raise SystemExit(1)")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "path", ["", tmp_path, *sys.path])
    assert load(pool, SMALL).shape == (24, 32, 3)


def test_photos_are_decoded_alike(assets: Path, pool: Decoders) -> None:
    for path in list(files_of([assets / "data" / "hymenoptera" / "val"]))[:10]:
        data = path.read_bytes()
        assert (decode.load_image(data, Decoding(64, "bicubic")) == pool.load(data, Decoding(64, "bicubic"))).all()


def test_the_bounds_are_those_that_are_promised() -> None:
    assert isolation.Limits() == isolation.DECODERS.limits
    assert (60, 600.0, 5 * 2**30) == (
        isolation.Limits().seconds,
        isolation.Limits().patience,
        isolation.Limits().memory,
    )
