"""The choosing job on small images with small networks, one of them trained and one random."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional

import upcycle
from tests.conftest import draw, write_classes
from upcycle.comparison.selection import Selection
from upcycle.data.index import index_images
from upcycle.data.splits import read_splits, split
from upcycle.errors import ConfigError, RunError, WeightsError
from upcycle.evaluation import forward
from upcycle.jobs import entrants
from upcycle.jobs.entrants import at_hand, parse_candidates
from upcycle.jobs.race import Course, round_sizes
from upcycle.model.catalog import Backbone
from upcycle.reporting.progress import Silent
from upcycle.training.probe import train_probe

SMALL: dict[str, Any] = {"image_size": 32, "threads": 1, "precision": "fp32", "device": "cpu", "probe_layers": "last"}
"""The last stage alone: the first ones of random networks tell such pictures apart as well."""


def noisy(kind: int, number: int) -> Image.Image:
    """The picture under so much noise that not every network sees its class."""
    random = np.random.default_rng(7 * number + kind)
    pixels = np.asarray(draw(kind, number).resize((32, 32)), np.float64) + random.normal(0, 110, (32, 32, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DATA/CLASS with 2 x 130 noisy pictures."""
    root = tmp_path_factory.mktemp("noisy")
    for kind, name in enumerate(("across", "down")):
        (root / name).mkdir()
        for number in range(130):
            noisy(kind, number).save(root / name / f"{number:03d}.png")
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of weights by architecture: `test_resnet` trained on other such pictures, the others random."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    good = timm.create_model("test_resnet", num_classes=2)
    labels = torch.arange(256) % 2
    pictures = [np.array(noisy(at % 2, 5000 + at)) for at in range(256)]
    images = (torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255 - 0.45) / 0.225
    optimizer = torch.optim.AdamW(good.parameters(), 3e-3)
    for _ in range(10):
        for some in torch.randperm(256).split(32):
            functional.cross_entropy(good(images[some]), labels[some]).backward()
            optimizer.step()
            optimizer.zero_grad()
    made = {"test_resnet": good}
    made |= {name: timm.create_model(name, num_classes=2) for name in ("test_convnext", "test_efficientnet")}
    files = {name: folder / f"{name}.safetensors" for name in made}
    for name, model in made.items():
        save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, files[name])
    return files


class Told(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def chosen(data: Path, out: Path, weights: dict[str, Path], *names: str, **more: Any) -> Selection:
    words = [f"{name}={weights[name]}" for name in names or weights]
    return upcycle.choose(data, out=out, candidates=words, show=Silent(), **{**SMALL, **more})


@pytest.fixture(scope="module")
def made(data: Path, weights: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Selection]:
    out = tmp_path_factory.mktemp("chosen") / "out"
    return out, chosen(data, out, weights, val_fraction=0.3, test_fraction=0.1)


def test_the_trained_network_wins_over_random_ones(made: tuple[Path, Selection]) -> None:
    _, found = made
    assert "test_resnet" == found.winner
    assert ("test_resnet",) == found.alike
    assert all(one.behind is not None and one.behind.low > 0 for one in found.candidates[1:])
    assert found.verdict.startswith("use test_resnet: +")


def test_choice_json_is_what_was_returned_and_the_page_is_there(made: tuple[Path, Selection]) -> None:
    out, found = made
    assert found == Selection.from_dict(json.loads((out / "choice.json").read_text()))
    assert (out / "choice.html").exists()
    assert found.train.startswith(f"upcycle train {found.data} --arch test_resnet --weights /")


def test_the_size_of_the_weights_is_that_of_their_file(made: tuple[Path, Selection], weights: dict[str, Path]) -> None:
    expected = {name: file.stat().st_size / 1e6 for name, file in weights.items()}
    assert {one.name: one.megabytes for one in made[1].candidates} == pytest.approx(expected, abs=0.15)


def test_the_same_call_gives_the_same_scores(
    made: tuple[Path, Selection], data: Path, weights: dict[str, Path], tmp_path: Path
) -> None:
    again = chosen(data, tmp_path / "again", weights, "test_resnet", val_fraction=0.3, test_fraction=0.1)
    assert made[1].best.log_loss == again.best.log_loss
    assert "use test_resnet: it is the only candidate" == again.verdict


def test_test_images_are_never_decoded(photos: Path, weights: dict[str, Path], tmp_path: Path) -> None:
    whole = tmp_path / "data"
    for side in ("train", "val", "test"):
        write_classes(whole / side, {"across": 12, "down": 12}, start={"train": 0, "val": 100, "test": 200}[side])
    for file in (whole / "test").rglob("*.png"):  # their headers can be read, their pixels cannot
        content = bytearray(file.read_bytes())
        content[60:] = bytes(len(content) - 60)
        file.write_bytes(bytes(content))
        with Image.open(file) as picture, pytest.raises(Exception, match=r"."):
            picture.load()
    found = chosen(whole, tmp_path / "out", weights, "test_resnet", "test_convnext")
    assert 2 == len(found.candidates)
    assert {24} == {one.images for one in found.candidates}


def test_without_time_the_first_stays_and_the_others_are_lines(
    data: Path, weights: dict[str, Path], tmp_path: Path
) -> None:
    found = chosen(data, tmp_path / "out", weights, within="0.001s")
    assert 1 == len(found.candidates)
    assert 2 == len(found.left_out)
    assert all("no time" in line for line in found.left_out)
    assert 0.001 == found.within


def test_rounds_are_halved_and_the_dropped_are_named(data: Path, weights: dict[str, Path], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("upcycle.jobs.race.SIZES", (40, 80, 160))
        found = chosen(data, tmp_path / "out", weights)
    dropped = [one for one in found.candidates if one.dropped]
    assert found.rounds[0] == 40
    assert dropped
    assert all(re.fullmatch(r"worse on \d+ images", one.dropped) for one in dropped)
    assert "test_resnet" == found.winner


def test_one_that_cannot_take_part_is_a_line_and_none_at_all_an_error(
    data: Path, weights: dict[str, Path], tmp_path: Path
) -> None:
    wrong = [f"test_convnext={weights['test_resnet']}", f"test_resnet={weights['test_resnet']}", "resnet18.a1_in1k"]
    found = upcycle.choose(data, out=tmp_path / "a", candidates=wrong, show=Silent(), **SMALL)
    assert ["test_resnet"] == [one.name for one in found.candidates]
    assert ["resnet18.a1_in1k is left out: no weights", "test_convnext is left out: weights from"] == [
        re.match(r"\S+ is left out: \w+ \w+", line)[0]  # type: ignore[index]
        for line in found.left_out
    ]
    with pytest.raises(ConfigError, match="no candidate is left: unknown_net is left out: unknown architecture"):
        upcycle.choose(data, out=tmp_path / "b", candidates=["unknown_net"], show=Silent())
    with pytest.raises(WeightsError, match="no candidate can be scored: test_convnext is left out"):
        upcycle.choose(data, out=tmp_path / "b", candidates=wrong[:1], show=Silent(), **SMALL)
    assert not (tmp_path / "b").exists()


def test_what_is_wrong_with_the_request_is_one_line(data: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for error, match, call in (
        (RunError, "is not empty", {"out": tmp_path / "full"}),
        (ConfigError, "lies inside", {"out": data / "x"}),
        (ConfigError, "choose takes no arch", {"arch": "resnet50"}),
        (ConfigError, "give a list", {"candidates": "resnet50"}),
        (ConfigError, "no duration", {"within": "5 minutes"}),
        (ConfigError, "names no architecture", {"candidates": []}),
    ):
        with pytest.raises(error, match=match):
            upcycle.choose(data, show=Silent(), **call)  # type: ignore[arg-type]


def test_candidates_are_architectures_with_or_without_a_file(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    assert [("resnet50", "auto"), ("vit", str(file)), ("a", "hf-hub:timm/a")] == parse_candidates(
        ["resnet50", f" vit={file}", "a=hf-hub:timm/a"]
    )
    for words in (["="], [""], ["a="], ["=file"], ["a", "a"], [], ["a=none"]):
        with pytest.raises(ConfigError, match="^candidates"):
            parse_candidates(words)


def test_there_are_as_many_rounds_as_images_allow() -> None:
    assert (150,) == round_sizes(150, 2)
    assert (200, 400) == round_sizes(500, 2)
    assert (200, 400, 800) == round_sizes(9000, 2)
    assert (600, 1200, 2400) == round_sizes(9000, 300)


# ---------------------------------------------------------------- features for the training


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the images whose features are computed, in order."""
    paths: list[str] = []
    plain = forward.extract

    def extract(model: Any, index: Any, frames: Any, **options: Any) -> Any:
        def predict(model: Any, frames: Any, positions: Any, **more: Any) -> Any:
            paths.extend(index.path(int(at)) for at in positions)
            return predict_logits(model, frames, positions, **more)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(forward, "predict_logits", predict)
            return plain(model, index, frames, **options)

    predict_logits = forward.predict_logits
    monkeypatch.setattr("upcycle.jobs.probe.extract", extract)
    return paths


def split_paths(run: upcycle.Run, *names: str) -> list[str]:
    return sorted(row.path for row in read_splits(run.path / "splits.csv") if row.split in names)


@pytest.mark.parametrize("broken", [False, True])
def test_a_training_that_follows_computes_features_of_test_images_alone(
    data: Path, weights: dict[str, Path], counted: list[str], tmp_path: Path, no_page: None, broken: bool
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    options = {**SMALL, "probe_layers": "auto", "views": "none", "cache": str(tmp_path / "cache")}
    index = index_images(folder)
    if broken:  # an image that trains, so that train draws another split than with it
        file = folder / index.path(int(split(index, seed=0).train[5]))
        content = bytearray(file.read_bytes())
        content[60:] = bytes(len(content) - 60)
        file.write_bytes(bytes(content))
    told = Told()
    found = upcycle.choose(
        folder,
        out=tmp_path / "out",
        candidates=[f"test_resnet={weights['test_resnet']}"],
        within="1h",
        show=told,
        **options,
    )
    before = sorted(counted)
    counted.clear()
    run = upcycle.train(
        folder,
        out=tmp_path / "run",
        arch=found.best.arch,
        weights=found.best.weights,
        epochs=0,
        show=Silent(),
        **options,
    )
    assert split_paths(run, "train", "val") == before
    assert split_paths(run, "test") == sorted(counted)
    line = f"features of {len(before)} training and validation images are cached for that training"
    assert line == told.lines[-1]


def test_label_errors_take_the_features_of_a_run_and_of_a_race(
    data: Path, weights: dict[str, Path], counted: list[str], tmp_path: Path, no_page: None
) -> None:
    options = {**SMALL, "probe_layers": "auto", "cache": str(tmp_path / "cache")}
    chosen(data, tmp_path / "out", weights, "test_resnet", **options)
    race = len(counted)
    scanned = {"arch": "test_resnet", "weights": weights["test_resnet"], "label_errors": True}
    del options["probe_layers"]
    upcycle.scan(data, out=tmp_path / "scan", show=Silent(), **scanned, **options)
    assert 260 == len(counted) == len(set(counted)) > race
    upcycle.train(
        data,
        out=tmp_path / "run",
        arch="test_resnet",
        weights=weights["test_resnet"],
        epochs=0,
        views="none",
        show=Silent(),
        **options,
    )
    assert 260 == len(counted)


def test_folds_share_the_features_of_all_images(
    weights: dict[str, Path], counted: list[str], tmp_path: Path, no_page: None
) -> None:
    write_classes(tmp_path / "data", {"across": 12, "down": 12})
    upcycle.train(
        tmp_path / "data",
        out=tmp_path / "run",
        arch="test_resnet",
        weights=weights["test_resnet"],
        epochs=0,
        views="none",
        folds=2,
        cache=str(tmp_path / "cache"),
        show=Silent(),
        **SMALL,
    )
    assert 24 == len(counted)


def test_without_time_no_features_are_computed_for_the_training(
    data: Path, weights: dict[str, Path], counted: list[str], tmp_path: Path
) -> None:
    told = Told()
    words = [f"test_resnet={weights['test_resnet']}"]
    upcycle.choose(data, out=tmp_path / "out", candidates=words, within="0.001s", show=told, **SMALL)
    assert [] == counted
    assert re.fullmatch(r"features for the training are not computed: about [\d.]+ s, 0\.0 s left", told.lines[-1])


def test_without_a_budget_features_that_take_long_are_left_out(
    data: Path, weights: dict[str, Path], counted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("upcycle.jobs.choose.UNASKED", 0.0)
    told = Told()
    words = [f"test_resnet={weights['test_resnet']}"]
    upcycle.choose(data, out=tmp_path / "out", candidates=words, show=told, **SMALL)
    assert [] == counted
    expected = r"features for the training are not computed: about [\d.]+ s: give --within to allow that"
    assert re.fullmatch(expected, told.lines[-1])


def test_how_long_features_take_is_said_before_and_too_little_memory_is_a_line(
    data: Path, weights: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore lines")

    monkeypatch.setattr("upcycle.jobs.choose.features_of", full)
    told = Told()
    words = [f"test_resnet={weights['test_resnet']}"]
    found = upcycle.choose(data, out=tmp_path / "out", candidates=words, show=told, **SMALL)
    assert "test_resnet" == found.winner
    assert re.fullmatch(r"features of \d+ training and validation images follow: about [\d.]+ s", told.lines[-1])
    assert "features for the training were not computed: out of memory" == told.warnings[-1]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (torch.linalg.LinAlgError("linalg.eigh: failed\nto converge"), r"its probe cannot be computed \(linalg.eigh: "),
        (WeightsError("its features are not finite"), "its features are not finite"),
    ],
)
def test_a_probe_that_fails_costs_its_candidate_alone(
    error: Exception, line: str, data: Path, weights: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def failing(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise error
        return train_probe(*args, **options)

    monkeypatch.setattr("upcycle.jobs.race.train_probe", failing)
    found = chosen(data, tmp_path / "out", weights, "test_resnet", "test_convnext")
    (lost,) = found.left_out
    assert re.match(rf"test_\w+ is left out: {line}", lost)
    assert "\n" not in lost
    assert 1 == len(found.candidates)


def test_where_all_of_a_later_round_fail_the_best_of_those_dropped_wins(
    data: Path, weights: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(train: Any, *args: Any, **options: Any) -> Any:
        if len(train) > 40:
            raise WeightsError("its features are not finite")
        return train_probe(train, *args, **options)

    monkeypatch.setattr("upcycle.jobs.race.SIZES", (40, 80, 160))
    monkeypatch.setattr("upcycle.jobs.race.train_probe", failing)
    told = Told()
    words = [f"{name}={file}" for name, file in weights.items()]
    found = upcycle.choose(data, out=tmp_path / "out", candidates=words, show=told, **SMALL)
    assert "test_resnet" not in {one.name for one in found.candidates}
    assert (found.winner,) == found.alike
    expected = f"features for the training are not computed: {found.winner} had left the race (worse on 40 images)"
    assert expected == told.lines[-1]


# ---------------------------------------------------------------- auto


@pytest.fixture
def catalog(weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A catalog of the small networks; the weights of those in the list that is returned are at hand."""
    names = list(weights)
    monkeypatch.setattr(entrants, "BACKBONES", tuple(Backbone(name, "Apache-2.0", 2) for name in names))

    def cached(repository: str, file: str) -> str | None:
        name = repository.removeprefix("timm/").partition(".")[0]
        return str(weights[name]) if name in names and file == "model.safetensors" else None

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    return names


def test_auto_trains_what_the_race_chose_and_resumes_without_another(
    catalog: list[str], data: Path, tmp_path: Path, no_page: None
) -> None:
    told, small = Told(), {**SMALL, "val_fraction": 0.3}
    run = upcycle.train(data, out=tmp_path / "run", arch="auto", epochs=0, show=told, **small)
    assert "test_resnet" == run.config.arch == json.loads((run.path / "config.json").read_text())["arch"]
    assert 1 == sum(line.startswith("arch auto: use test_resnet: +") for line in told.lines)
    again = Told()
    upcycle.train(data, out=tmp_path / "run", arch="auto", resume=True, show=again, **small)
    assert [f"{run.path} is finished already: nothing to do"] == again.lines


def test_auto_takes_the_only_one_at_hand_without_a_race(
    catalog: list[str], data: Path, tmp_path: Path, no_page: None
) -> None:
    catalog[:] = ["test_efficientnet"]
    told = Told()
    run = upcycle.train(data, out=tmp_path / "run", arch="auto", epochs=0, show=told, **SMALL)
    assert "test_efficientnet" == run.config.arch
    assert "arch auto: test_efficientnet is the only one of the catalog at hand" in told.lines


def test_auto_says_what_it_cannot_do(catalog: list[str], data: Path, tmp_path: Path) -> None:
    for more, match in (
        ({"weights": "none"}, "chooses the weights too"),
        ({"folds": 3}, "folds test every image once"),
    ):
        with pytest.raises(ConfigError, match=match):
            upcycle.train(data, out=tmp_path / "run", arch="auto", show=Silent(), **more)  # type: ignore[arg-type]
    catalog.clear()
    with pytest.raises(ConfigError, match="are at hand: name some with --candidates"):
        upcycle.train(data, out=tmp_path / "run", arch="auto", show=Silent())
    assert not (tmp_path / "run").exists()


def test_weights_that_a_package_offers_for_every_tag_are_raced_once(
    catalog: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    twice = (Backbone("test_resnet", "Apache-2.0", 2), Backbone("test_resnet.r160_in1k", "Apache-2.0", 2))
    monkeypatch.setattr(entrants, "BACKBONES", twice)
    assert ["test_resnet"] == [one.name for one in at_hand()[0]]


@pytest.mark.parametrize(("layers", "stages"), [("auto", 3), ("last", 1)])
def test_the_probe_of_a_race_reads_the_stages_that_a_training_may_read(
    data: Path, weights: dict[str, Path], tmp_path: Path, layers: str, stages: int
) -> None:
    widths: list[tuple[int, ...]] = []

    def noted(*args: Any, **options: Any) -> Any:
        widths.append(options["widths"])
        return train_probe(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("upcycle.jobs.race.train_probe", noted)
        chosen(data, tmp_path / "out", weights, "test_resnet", probe_layers=layers)
    assert {stages} == {max(1, len(read)) for read in widths}


def test_the_course_has_no_test_image(photos: Path) -> None:
    index = index_images(photos)
    course = Course.of(index, split(index, seed=0), seed=0)
    assert not any(course.index.path(at).startswith("test/") for at in range(len(course.index)))
    assert (24, 12) == (len(course.rounds[-1]), len(course.val))
