"""Whole trainings on photos that lie elsewhere, beside that on the same photos in a local folder."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

import upcycle
from tests.conftest import TINY
from tests.stores import serving
from upcycle import remote
from upcycle.cli import main
from upcycle.data import frames
from upcycle.errors import DataError
from upcycle.reporting.progress import Silent

KEPT = ("history.jsonl", "predictions/test.csv", "predictions/val.csv", "checkpoints/best.safetensors")


@pytest.fixture(scope="module")
def options(tiny_weights: Path) -> dict[str, Any]:
    return {
        "arch": TINY,
        "weights": str(tiny_weights),
        "image_size": 32,
        "epochs": 2,
        "batch_size": 8,
        "precision": "fp32",
        "threads": 1,
        "show": Silent(),
    }


@pytest.fixture(scope="module")
def local(photos: Path, options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The results of the training on the local folder."""
    folder = tmp_path_factory.mktemp("local")
    return kept(upcycle.train(photos, out=folder / "run", cache=str(folder / "cache"), **options).path)


def kept(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in KEPT}


@pytest.fixture
def in_memory(photos: Path) -> Iterator[str]:
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for file in photos.rglob("*.png"):
        memory.pipe(f"/bucket/photos/{file.relative_to(photos)}", file.read_bytes())
    yield "memory://bucket/photos"
    memory.store.clear()


@pytest.mark.parametrize("budget", [20, 0])
def test_a_training_is_that_of_the_local_folder(
    budget: int, in_memory: str, local: dict[str, bytes], options: dict[str, Any], tmp_path: Path
) -> None:
    """Decoded once, or where the budget has no room for that, fetched and decoded when they are needed."""
    run = upcycle.train(in_memory, out=tmp_path / "run", cache=str(tmp_path / "cache"), cache_budget=budget, **options)
    assert local == kept(run.path)
    assert in_memory == json.loads((run.path / "config.json").read_text())["data"]
    assert bool(budget) == any((tmp_path / "cache").glob("images/*.images"))
    assert f"upcycle train {in_memory} " in json.loads((run.path / "environment.json").read_text())["command"]


def test_an_address_that_is_gone_for_long_stops_a_run_that_goes_on_later(
    in_memory: str, local: dict[str, bytes], options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PAUSES", (0.01,))
    place: dict[str, Any] = {"out": tmp_path / "run", "cache": str(tmp_path / "cache"), "cache_budget": 0}
    plain, left = remote.asked, [200]

    def failing(address: Path, question: Any) -> Any:
        left[0] -= 1

        def gone(*_: object) -> Any:
            raise ConnectionError("nobody answers")

        return plain(address, gone if left[0] < 0 else question)

    with monkeypatch.context() as patch:
        patch.setattr(remote, "asked", failing)
        with pytest.raises(DataError, match=r"does not answer \(nobody answers\): what is done is kept: resume"):
            upcycle.train(in_memory, **place, **options)
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert "failed" == status["state"]
    again = upcycle.train(out=tmp_path / "run", resume=True, cache_budget=20, show=Silent())
    assert local == kept(again.path)


def test_a_photo_that_has_changed_is_not_trained_on(
    in_memory: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = frames.open_cache

    def changed(*words: Any, **more: Any) -> Any:
        name = sorted(fsspec.filesystem("memory").find("/bucket/photos"))[0]
        fsspec.filesystem("memory").pipe(name, b"other")
        shutil.rmtree(tmp_path / "cache" / "fetched")
        return plain(*words, **more)

    monkeypatch.setattr("upcycle.jobs.prepare.open_cache", changed)
    with pytest.raises(DataError, match="has changed since it was scanned: run again"):
        upcycle.train(in_memory, out=tmp_path / "run", cache=str(tmp_path / "cache"), **options)


def test_files_at_an_address_are_predicted(
    in_memory: str, photos: Path, options: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = upcycle.train(photos, out=tmp_path / "run", **{**options, "epochs": 0})
    assert 0 == main(["predict", str(run.path), str(photos / "test")])
    here = capsys.readouterr().out.replace(str(photos), "")
    assert 0 == main(["predict", str(run.path), f"{in_memory}/test"])
    assert here == capsys.readouterr().out.replace(in_memory, "")
    assert 3 == main(["predict", str(run.path), f"{in_memory}/nothing.png"])
    assert f"{in_memory}/nothing.png: does not exist" in capsys.readouterr().err


def test_a_manifest_over_the_web_names_photos_beside_it(
    photos: Path, local: dict[str, bytes], options: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("aiohttp")
    folder = tmp_path / "site"
    shutil.copytree(photos, folder)
    rows = [
        f"{file.relative_to(folder)},{file.parent.name},{file.parent.parent.name}" for file in folder.rglob("*.png")
    ]
    (folder / "list.csv").write_text("\n".join(["path,label,split", *rows]))
    with serving(folder) as web:
        run = upcycle.train(
            f"{web.address}/list.csv?key=secret", out=tmp_path / "run", cache=str(tmp_path / "c"), **options
        )
        written = "".join(file.read_text() for file in run.path.glob("*.json"))
        assert "secret" not in written
        assert f"{web.address}/list.csv" in written
    assert local == kept(run.path)


# ---------------------------------------------------------------- S3


@pytest.fixture(scope="module")
def s3(photos: Path) -> Iterator[dict[str, str]]:
    """A stand-in of S3 on this machine with the photos in it, and how to reach it."""
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    reach = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        import s3fs

        for _ in range(150):
            try:
                store = s3fs.S3FileSystem(key="testing", secret="testing", endpoint_url=reach["AWS_ENDPOINT_URL"])
                store.mkdir("bucket")
                break
            except Exception:
                time.sleep(0.2)
        store.put(str(photos), "bucket/photos", recursive=True)
        yield reach
    finally:
        server.kill()
        server.wait()


def command(words: list[object], reach: dict[str, str]) -> subprocess.CompletedProcess[str]:
    place = {**os.environ, **reach, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "upcycle", *words]
    return subprocess.run(list(map(str, words)), env=place, capture_output=True, text=True, timeout=120, check=False)


def test_s3_gives_what_the_local_folder_gives(
    s3: dict[str, str], local: dict[str, bytes], tiny_weights: Path, tmp_path: Path
) -> None:
    words = [
        "train",
        "s3://bucket/photos",
        "--arch",
        TINY,
        "--weights",
        tiny_weights,
        "--image-size",
        32,
        "--epochs",
        2,
    ]
    words += ["--batch-size", 8, "--precision", "fp32", "--threads", 1, "--out", tmp_path / "run", "--cache", tmp_path]
    done = command(words, s3)
    assert 0 == done.returncode, done.stderr
    assert local == kept(tmp_path / "run")
    absent = command(["scan", "s3://bucket/nothing", "--out", tmp_path / "scan"], s3)
    assert "upcycle: s3://bucket/nothing does not exist: give a folder of images or a manifest\n" == absent.stderr


def test_s3_without_credentials_says_which(s3: dict[str, str], tmp_path: Path) -> None:
    none = {"AWS_ENDPOINT_URL": s3["AWS_ENDPOINT_URL"], "AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}
    done = command(["scan", "s3://bucket/photos", "--out", tmp_path / "scan"], none)
    assert 3 == done.returncode
    assert "refuses to be read" in done.stderr
    assert "give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile of ~/.aws" in done.stderr
    assert "Traceback" not in done.stderr
