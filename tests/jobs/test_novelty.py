"""Images unlike the training photos: the table that a run leaves, and what predicting and evaluating make of it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import upcycle
from tests.conftest import TINY, without_pages
from upcycle.cli import main
from upcycle.errors import RunError
from upcycle.evaluation.novelty import read_novelty
from upcycle.jobs.novelty import drawn, with_head_inputs
from upcycle.model.network import Network
from upcycle.reporting.progress import Silent
from upcycle.rundir import read_json

OPTIONS: dict[str, Any] = {"arch": TINY, "image_size": 32, "threads": 1, "device": "cpu", "precision": "fp32"}


def trained(photos: Path, weights: Path, folder: Path, **options: Any) -> upcycle.Run:
    with without_pages():
        return upcycle.train(photos, out=folder, weights=str(weights), show=Silent(), **{**OPTIONS, **options})


@pytest.fixture(scope="module")
def probe(photos: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> upcycle.Run:
    return trained(photos, tiny_weights, tmp_path_factory.mktemp("novelty") / "run", recipe="probe", refit=True)


def pictures(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.png"))


def test_a_run_keeps_a_table_of_its_training_photos_and_its_checksum(probe: upcycle.Run) -> None:
    made = read_novelty(probe.directory.novelty)
    assert made is not None
    assert (12, 12, 12) == (len(made.directions), len(made.distances), made.units)
    assert "novelty.safetensors" in read_json(probe.directory.manifest)


def test_validation_images_have_the_p_values_that_they_were_calibrated_with(probe: upcycle.Run, photos: Path) -> None:
    found = [one.p_value for one in upcycle.load(probe.path, show=Silent()).predict(pictures(photos / "val"))]
    np.testing.assert_allclose(np.arange(2, 14) / 13, np.sort(np.array(found, float)))


@pytest.mark.parametrize("recipe", ["default", "classic"])
def test_a_fine_tuned_model_is_calibrated_on_its_own_features(
    recipe: str, photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    tuned = {"epochs": 1, "fine_tune": "always"} if recipe == "default" else {"epochs": 6}
    run = trained(photos, tiny_weights, tmp_path / "run", recipe=recipe, batch_size=8, freeze="none", **tuned)
    found = [one.p_value for one in run.predict(pictures(photos / "val"))]
    np.testing.assert_allclose(np.arange(2, 14) / 13, np.sort(np.array(found, float)))


@pytest.mark.parametrize("views", ["none", "flip", "square"])
def test_one_pass_gives_the_logits_of_all_views_to_the_bit_and_the_features_of_the_first(
    probe: upcycle.Run, views: str
) -> None:
    classifier = upcycle.load(probe.path, show=Silent())
    model = classifier.model
    model.views = views
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        both = with_head_inputs(model, images)
        assert torch.equal(model(images), both[:, :1])
        assert torch.equal(model.features(images).float(), both[:, 1:])


def test_logits_are_the_same_to_the_bit_with_a_table_and_without(probe: upcycle.Run, photos: Path) -> None:
    classifier = upcycle.load(probe.path, show=Silent())
    frames = [classifier.frame(path) for path in pictures(photos / "test")]
    expected = replace(classifier, novelty=None).logits(frames)
    np.testing.assert_array_equal(expected, classifier.logits(frames))
    np.testing.assert_array_equal(expected, probe.predictions().logits)


def test_the_network_is_run_once_an_image(probe: upcycle.Run, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def counting(network: Network, images: torch.Tensor) -> torch.Tensor:
        passes.append(len(images))
        return plain(network, images)

    plain, passes = Network.features, list[int]()
    monkeypatch.setattr(Network, "features", counting)
    upcycle.load(probe.path, show=Silent()).predict(pictures(photos / "val"))
    assert [32] == passes


def test_a_p_value_does_not_depend_on_the_neighbors(probe: upcycle.Run, photos: Path) -> None:
    classifier = upcycle.load(probe.path, show=Silent())
    paths = pictures(photos)
    together = [one.p_value for one in classifier.predict(paths)]
    assert together == [classifier.predict(path).p_value for path in paths]


def test_a_run_of_an_earlier_version_predicts_without_p_values(
    probe: upcycle.Run, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(probe.path, tmp_path / "run")
    (run / "novelty.safetensors").unlink()
    sums = read_json(run / "manifest.json")
    del sums["novelty.safetensors"]
    (run / "manifest.json").write_text(json.dumps(sums))
    main(["predict", str(run), str(photos / "val"), "--json"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [{"path", "label", "probabilities"}] * 12 == [set(line) for line in lines]


def test_a_table_of_another_model_is_an_error(probe: upcycle.Run, tmp_path: Path) -> None:
    run = shutil.copytree(probe.path, tmp_path / "run")
    made = read_novelty(run / "novelty.safetensors")
    assert made is not None
    replace(made, mean=made.mean[:-1], directions=made.directions[:, :-1]).save(run / "novelty.safetensors")
    (run / "manifest.json").unlink()
    with pytest.raises(RunError, match="novelty.safetensors is of another model"):
        upcycle.load(run, show=Silent())


def test_a_damaged_table_is_found(probe: upcycle.Run, tmp_path: Path) -> None:
    run = shutil.copytree(probe.path, tmp_path / "run")
    content = bytearray((run / "novelty.safetensors").read_bytes())
    content[-1] ^= 1
    (run / "novelty.safetensors").write_bytes(content)
    with pytest.raises(RunError, match="novelty.safetensors is damaged or was changed"):
        upcycle.load(run, show=Silent())


def blanks(folder: Path, count: int) -> Path:
    """Images of one color each, in a folder of each class."""
    for at in range(count):
        path = folder / ("across", "down")[at % 2] / f"{at:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (48, 48), (255 - at, 0, 0)).save(path)
    return folder


UNLIKE = "80 of 80 images are unlike the training photos (6 expected): the report's F1 does not hold for them"


def test_predicting_other_images_ends_with_one_line_on_standard_error(
    probe: upcycle.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["predict", str(probe.path), str(blanks(tmp_path, 80)), "--json"])
    written = capsys.readouterr()
    assert UNLIKE == written.err.splitlines()[-1]
    assert [1 / 13] * 80 == [json.loads(line)["p_value"] for line in written.out.splitlines()]


def test_predicting_images_of_the_same_kind_says_nothing(
    probe: upcycle.Run, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["predict", str(probe.path), str(photos / "test")])
    assert "" == capsys.readouterr().err


def test_evaluating_other_images_says_so(probe: upcycle.Run, tmp_path: Path) -> None:
    class Listening(Silent):
        def warn(self, text: str) -> None:
            told.append(text)

    told = list[str]()
    upcycle.evaluate(probe.path, blanks(tmp_path, 80), show=Listening())
    assert [UNLIKE] == told
    upcycle.evaluate(probe.path, show=Listening())
    assert [UNLIKE] == told


def test_a_network_without_a_linear_head_leaves_no_table(photos: Path, tmp_path: Path) -> None:
    with without_pages():
        run = upcycle.train(photos, out=tmp_path / "run", recipe="simple-cnn", epochs=1, show=Silent(), threads=1)
    assert not run.directory.novelty.exists()
    assert run.predict(pictures(photos / "val")[0]).p_value is None


def test_the_photos_kept_have_one_of_every_class_before_a_second_and_then_shares() -> None:
    labels = np.array([0] * 90 + [1] * 9 + [2], np.int32)
    positions = np.arange(100)
    three, twenty = drawn(positions, labels, 3, seed=0), drawn(positions, labels, 20, seed=0)
    assert [0, 1, 2] == sorted(labels[three].tolist())
    assert [17, 2, 1] == np.bincount(labels[twenty]).tolist()
    assert twenty.tolist() == drawn(positions, labels, 20, seed=0).tolist()
    assert twenty.tolist() != drawn(positions, labels, 20, seed=1).tolist()
    assert positions.tolist() == drawn(positions, labels, 400, seed=0).tolist()
