"""Trainings and predictions on the nodes of a Ray cluster: two on this machine, one of them killed."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from pyarrow import parquet
from safetensors.torch import save_file

import upcycle
from tests.clusters import Listening, killing, plain
from tests.conftest import TINY, write_classes
from upcycle.cli import main
from upcycle.errors import ConfigError, DataError
from upcycle.jobs import on_ray, ray_prediction
from upcycle.reporting.progress import Silent

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # Ray's own


def test_without_ray_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert 2 == main(["compare", str(photos), "--on", "ray", "--out", str(tmp_path / "out")])
    assert 'upcycle: ray is not installed: pip install "upcycle[scale]"\n' == capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("on", ["spark", "ray:1", "Ray"])
def test_another_engine_is_refused(on: str, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no place to train: give ray, or ray://HOST:PORT"):
        upcycle.compare(photos, on=on, out=tmp_path / "out")


def test_a_prediction_on_ray_needs_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert 2 == main(["predict", "run", "photos", "--on", "ray"])
    assert "a prediction on Ray writes a table: give --out FILE.parquet" in capsys.readouterr().err


# ---------------------------------------------------------------- on a cluster


def test_a_comparison_is_that_of_one_machine_though_a_node_dies(
    nodes: tuple[Any, list[Any]], tiny_weights: Path, tmp_path: Path
) -> None:
    data = write_classes(tmp_path / "data", {"across": 40, "down": 40})
    options: dict[str, Any] = {
        "variants": ["probe", "constant-tuned", "default"],
        "seeds": 2,
        "arch": TINY,
        "weights": str(tiny_weights),
        "image_size": 32,
        "epochs": 3,
        "precision": "fp32",
        "threads": 1,
        "checkpoint_every": 0.05,
        "cache": str(tmp_path / "cache"),
    }
    here, there, show = tmp_path / "here", tmp_path / "there", Listening()
    upcycle.compare(data, out=here, show=Silent(), **options)

    def training() -> bool:
        return len(list((there / "runs").glob("*/history.jsonl"))) >= 2

    with killing(nodes, training) as killed:
        upcycle.compare(data, out=there, on="ray", show=show, **options)
    assert killed
    one, two = (plain(json.loads((out / "comparison.json").read_text()), without=out) for out in (here, there))
    assert one == two
    assert any(line.endswith("nodes of a Ray cluster: 9 runs") for line in show.lines)
    assert any(line.startswith("run 9 of 9 done: ") for line in show.lines)
    histories = [
        {path.parent.name: path.read_bytes() for path in out.glob("runs/*/history.jsonl")} for out in (here, there)
    ]
    assert histories[0] == histories[1]
    show.lines.clear()
    upcycle.compare(data, out=there, resume=True, show=show)  # all is done: nothing is trained
    assert not any(line.startswith("run ") for line in show.lines)


def test_a_prediction_is_that_of_one_machine_though_a_node_dies(
    nodes: tuple[Any, list[Any]],
    tiny_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write_classes(tmp_path / "data", {"across": 20, "down": 20})
    run = upcycle.train(
        data, out=tmp_path / "run", arch=TINY, weights=str(tiny_weights), image_size=32, epochs=0, threads=1
    )
    files = sorted(data.rglob("*.png"))
    listed = tmp_path / "list.txt"
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    listed.write_text("\n".join(map(str, [*files * 250, broken])))
    words = ["predict", str(run.path), "--list", str(listed), "--out"]
    assert 3 == main([*words, str(tmp_path / "here.parquet"), "--threads", "1"])
    partial = tmp_path / "there.parquet.partial"
    with killing(nodes, lambda: any(partial.glob("00000?.json"))) as killed:
        assert 3 == main([*words, str(tmp_path / "there.parquet"), "--on", "ray"])
    assert killed
    assert "1 of 10001 files could not be read" in capsys.readouterr().err
    one, two = (parquet.read_table(tmp_path / f"{name}.parquet") for name in ("here", "there"))
    assert one.equals(two)
    assert 10001 == one.num_rows
    assert not partial.exists()


def test_what_a_killed_prediction_has_written_is_not_computed_again(tiny_weights: Path, tmp_path: Path) -> None:
    data = write_classes(tmp_path / "data", {"across": 20, "down": 20})
    run = upcycle.train(
        data, out=tmp_path / "run", arch=TINY, weights=str(tiny_weights), image_size=32, epochs=0, threads=1
    )
    work = ray_prediction.Work(0, tuple(sorted(data.rglob("*.png"))), tmp_path / "000000.parquet")
    parts = ray_prediction._Parts(str(tmp_path), run.path, int8=False, device="cpu", threads=1)
    counts = parts._counts(work)
    written = work.place.stat().st_mtime_ns
    assert counts == parts._counts(work)
    assert written == work.place.stat().st_mtime_ns
    other = ray_prediction.Work(0, work.paths[::-1], work.place)
    parts._counts(other)
    assert written != work.place.stat().st_mtime_ns


def test_a_node_that_lacks_something_is_named(
    head: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with on_ray.cluster("ray") as ray:
        assert 1 <= on_ray.check_nodes(ray, photos, tmp_path / "out")
        with pytest.raises(DataError, match=r"^the Ray node \S+ does not see /nowhere: give what lies on storage"):
            on_ray.check_nodes(ray, Path("/nowhere"), tmp_path / "out")
        monkeypatch.setattr(on_ray, "versions", lambda: {"upcycle": "9.9"})
        with pytest.raises(ConfigError, match=r"^the Ray node \S+ has upcycle \S+, and here it is 9\.9: install"):
            on_ray.check_nodes(ray, photos, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_cluster_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ConfigError, match=r"no Ray cluster answers at 127\.0\.0\.1:1 \("), on_ray.cluster("ray"):
        pass


def test_a_race_is_that_of_one_machine(nodes: tuple[Any, list[Any]], tiny_weights: Path, tmp_path: Path) -> None:
    data = write_classes(tmp_path / "data", {"across": 60, "down": 60})
    other = tmp_path / "other.safetensors"
    torch.manual_seed(1)
    save_file({name: tensor.contiguous() for name, tensor in timm.create_model(TINY).state_dict().items()}, other)
    options: dict[str, Any] = {
        "candidates": [f"{TINY}={tiny_weights}", f"{TINY}.r160_in1k={other}"],
        "precision": "fp32",
        "threads": 1,
        "image_size": 32,
        "cache": str(tmp_path / "cache"),
    }
    one = upcycle.choose(data, out=tmp_path / "one", show=Silent(), **options)
    two = upcycle.choose(data, out=tmp_path / "two", on="ray", show=Silent(), **options)
    for name in ("rounds", "validation_images", "alike"):
        assert getattr(one, name) == getattr(two, name)
    assert {one.winner, two.winner} <= set(one.alike)  # of those alike the fastest wins: a matter of clocks
    scores = [[(row.name, row.log_loss, row.accuracy, row.images) for row in made.candidates] for made in (one, two)]
    assert sorted(scores[0]) == sorted(scores[1])
    assert 2 == len(scores[0])
