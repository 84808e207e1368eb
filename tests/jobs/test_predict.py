"""A trained model in somebody's own program: threads, lists, torch's settings, words for what it cannot take."""

import io
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
from upcycle.errors import ConfigError, DecodeError
from upcycle.evaluation.thresholds import Rule, Thresholds
from upcycle.jobs import predict as job
from upcycle.jobs.predict import Classifier
from upcycle.manifest import remove_sealed, write_sealed
from upcycle.reporting.progress import Silent
from upcycle.rundir import read_json


@pytest.fixture(scope="module")
def trained(photos: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> upcycle.Run:
    options = {"arch": TINY, "weights": str(tiny_weights), "recipe": "probe", "image_size": 32, "threads": 1}
    options |= {"device": "cpu"}
    folder = tmp_path_factory.mktemp("inference") / "run"
    with without_pages():
        return upcycle.train(photos, out=folder, precision="fp32", show=Silent(), **options)


@pytest.fixture
def classifier(trained: upcycle.Run) -> Classifier:
    return upcycle.load(trained.path, show=Silent())


def test_a_classifier_answers_many_threads_as_it_answers_one(classifier: Classifier, photos: Path) -> None:
    files = sorted(photos.glob("test/*/*.png"))[:4]
    alone = [classifier.predict(file) for file in files]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(classifier.predict, files * 10))
    assert alone * 10 == together


def test_a_run_loads_its_model_once(
    trained: upcycle.Run, photos: Path, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Path] = []

    def load(path: Path) -> Classifier:
        loaded.append(path)
        return classifier

    monkeypatch.setattr("upcycle.jobs.predict.load", load)
    run, file = upcycle.Run(trained.path), next(photos.glob("test/*/*.png"))
    assert run.predict(file) == run.predict([file])[0]  # type: ignore[index]
    assert [trained.path] == loaded


def test_a_list_is_decoded_and_judged_in_parts(
    classifier: Classifier, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, sizes = Classifier.judge, []

    def counting(self: Classifier, frames: list[Any]) -> Any:
        sizes.append(len(frames))
        return plain(self, frames)

    monkeypatch.setattr(Classifier, "judge", counting)
    monkeypatch.setattr("upcycle.jobs.images.FILES_AT_ONCE", 3)
    files = sorted(photos.glob("test/*/*.png"))[:7]
    assert 7 == len(classifier.predict(files))  # type: ignore[arg-type]
    assert [3, 3, 1] == sizes
    assert [] == classifier.predict([])


@pytest.fixture
def users_torch() -> Iterator[dict[str, Any]]:
    """Settings of somebody's own, which must be there afterwards."""
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.allow_tf32 = True
    torch.manual_seed(7)
    yield settings()
    torch.use_deterministic_algorithms(False)


def settings() -> dict[str, Any]:
    return {
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "tf32": torch.backends.cudnn.allow_tf32,
        "filled": torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
    }


def test_loading_and_predicting_leave_torch_as_it_was(
    trained: upcycle.Run, photos: Path, users_torch: dict[str, Any]
) -> None:
    expected = torch.get_rng_state()
    upcycle.load(trained.path, show=Silent()).predict(next(photos.glob("test/*/*.png")))
    assert users_torch == settings()
    assert torch.equal(expected, torch.get_rng_state())


@pytest.mark.usefixtures("no_page")
def test_training_leaves_torchs_settings_as_they_were(
    photos: Path, tiny_weights: Path, tmp_path: Path, users_torch: dict[str, Any]
) -> None:
    options = {"arch": TINY, "weights": str(tiny_weights), "recipe": "probe", "image_size": 32, "threads": 1}
    options |= {"device": "cpu"}
    upcycle.train(photos, out=tmp_path / "run", show=Silent(), **options)
    assert users_torch == settings()


def test_two_classifiers_compute_each_with_its_own_threads(
    trained: upcycle.Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seeing(*given: Any, **named: Any) -> Any:
        seen.append(torch.get_num_threads())
        return plain(*given, **named)

    plain, seen = job.forward, list[int]()
    monkeypatch.setattr(job, "forward", seeing)
    one, two = (upcycle.load(trained.path, threads=number, show=Silent()) for number in (1, 2))
    for classifier in (one, two, one):
        classifier.predict(next(photos.glob("test/*/*.png")))
    assert [1, 2, 1] == seen


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (None, "NoneType"),
        (bytearray(b"x"), "bytearray"),
        ({"a": "a.png"}, "dict"),
        (float("nan"), "float"),
        (torch.zeros(3, 4, 4), "Tensor"),
    ],
)
def test_what_is_no_image_is_told_by_its_kind(classifier: Classifier, given: Any, kind: str) -> None:
    with pytest.raises(DecodeError, match=f"a {kind} is no image: give a path, bytes, a PIL image, a uint8 array"):
        classifier.predict(given)
    with pytest.raises(DecodeError, match=f"a {kind} is no image"):
        classifier.predict([given])


def test_an_open_file_is_an_image_from_its_beginning(classifier: Classifier, photos: Path) -> None:
    path = next(photos.glob("test/*/*.png"))
    expected = classifier.predict(path)
    with path.open("rb") as file:
        file.read(9)
        assert [expected] * 4 == [
            classifier.predict(file),
            classifier.predict(file),
            classifier.predict(io.BytesIO(path.read_bytes())),
            *classifier.predict([file]),  # type: ignore[misc]
        ]


def test_a_file_that_gives_no_bytes_is_refused_in_a_line(classifier: Classifier, photos: Path) -> None:
    with pytest.raises(DecodeError, match="an open file gives str, not bytes: open it with mode 'rb'"):
        classifier.predict(io.StringIO("x"))  # type: ignore[arg-type]
    file = next(photos.glob("test/*/*.png")).open("rb")
    file.close()
    with pytest.raises(DecodeError, match=r"an open file cannot be read \(I/O operation on closed file"):
        classifier.predict(file)
    with pytest.raises(DecodeError, match="not a JPEG, PNG"):
        classifier.predict(io.BytesIO(b"x"))


def test_an_iterator_of_images_gives_a_list_and_is_read_in_parts(
    classifier: Classifier, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("upcycle.jobs.images.FILES_AT_ONCE", 2)
    files = sorted(photos.glob("test/*/*.png"))[:3]
    taken: list[Path] = []
    plain = Classifier.judge

    def judging(self: Classifier, frames: list[Any]) -> Any:
        seen.append(len(taken))
        return plain(self, frames)

    seen: list[int] = []
    monkeypatch.setattr(Classifier, "judge", judging)
    found = classifier.predict(taken.append(file) or file for file in files)  # type: ignore[func-returns-value]
    assert [2, 3] == seen
    assert classifier.predict(files) == found
    assert 20 == len(classifier.predict(photos.glob("test/*/*.png")))  # type: ignore[arg-type]
    assert [] == classifier.predict(iter([]))


def with_threads(trained: upcycle.Run, folder: Path, threads: int) -> Path:
    """A copy of the run that says it was trained with so many threads."""
    run = upcycle.Run(Path(shutil.copytree(trained.path, folder)))
    facts = {**read_json(run.directory.environment), "threads": threads, "cores": 64}
    write_sealed(run.directory, run.directory.environment, facts)
    return run.path


class Warned(Silent):
    """Keeps what a user is warned of."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def warn(self, text: str) -> None:
        self.said.append(text)


def test_a_run_of_a_larger_machine_is_predicted_with_the_cores_that_are_here(
    trained: upcycle.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "usable_cores", lambda _: 2)
    path, show = with_threads(trained, tmp_path / "run", 64), Warned()
    assert 2 == upcycle.load(path, show=show).machine.threads
    assert ["the run was trained with 64 threads, and there are 2: last digits may differ"] == show.said
    assert 5 == upcycle.load(path, threads=5, show=show).machine.threads
    assert 1 == sum("was trained with" in line for line in show.said)


def test_threads_and_device_can_be_given_on_the_command_line(
    trained: upcycle.Run, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(next(photos.glob("test/*/*.png")))
    assert 0 == main(["predict", str(trained.path), file, "--threads", "2", "--device", "cpu"])
    assert 0 == main(["evaluate", str(trained.path), "--threads", "2", "--device", "cpu"])
    capsys.readouterr()
    assert 2 == main(["predict", str(trained.path), file, "--threads", "-1"])
    assert "threads -1 is out of range" in capsys.readouterr().err
    assert 2 == main(["evaluate", str(trained.path), "--device", "tpu"])
    assert "unknown device 'tpu'" in capsys.readouterr().err


def test_a_home_is_understood_in_python(trained: upcycle.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained.path, tmp_path / "run")
    assert tmp_path / "run" == upcycle.load("~/run", show=Silent()).run.root
    with pytest.raises(ConfigError, match="'~nobody-at-all/x'"):
        upcycle.load("~nobody-at-all/x")
    assert not (tmp_path / "~").exists()


def test_a_classifier_is_a_value(classifier: Classifier) -> None:
    assert replace(classifier).machine == classifier.machine
    assert np.isfinite(classifier.logits([classifier.frame(np.zeros((8, 8, 3), np.uint8))])).all()


def test_more_threads_than_cores_in_training_are_as_many_in_prediction(trained: upcycle.Run, tmp_path: Path) -> None:
    run = upcycle.Run(Path(shutil.copytree(trained.path, tmp_path / "run")))
    here = read_json(run.directory.environment)["cores"]
    facts = {**read_json(run.directory.environment), "threads": here + 2}
    write_sealed(run.directory, run.directory.environment, facts)
    show = Warned()
    assert here + 2 == upcycle.load(run.path, show=show).machine.threads
    assert [f"{here + 2} threads share {here} cores, which is slower: give --threads {here}"] == show.said


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_run_of_a_gpu_is_predicted_here_as_asked(trained: upcycle.Run, tmp_path: Path) -> None:
    run = upcycle.Run(Path(shutil.copytree(trained.path, tmp_path / "run")))
    facts = {**read_json(run.directory.environment), "device": "cuda", "precision": "bf16", "fold_bn": False}
    write_sealed(run.directory, run.directory.environment, facts)
    show = Warned()
    found = upcycle.load(run.path, threads=2, show=show).machine
    assert ("cpu", 2, False) == (found.device, found.threads, found.fold_bn)
    assert show.said[-1].endswith("predicting at this machine's best instead")


def test_another_fingerprint_is_that_of_whatever_predicts_otherwise(trained: upcycle.Run, tmp_path: Path) -> None:
    run = upcycle.Run(Path(shutil.copytree(trained.path, tmp_path / "run"))).directory
    first = upcycle.load(run.root, show=Silent())
    assert first.fingerprint() == upcycle.load(trained.path, show=Silent()).fingerprint()
    others = [
        replace(first, machine=replace(first.machine, **one)).fingerprint()
        for one in ({"threads": 2}, {"precision": "bf16"}, {"device": "cuda"})
    ]
    seen = [first.fingerprint(), *others]
    write_sealed(run, run.thresholds, Thresholds("halfway", Rule(0.5), "some").to_dict())
    seen.append(upcycle.load(run.root, show=Silent()).fingerprint())
    remove_sealed(run, run.novelty)
    seen.append(upcycle.load(run.root, show=Silent()).fingerprint())
    remove_sealed(run, run.thresholds)
    seen.append(upcycle.load(run.root, show=Silent()).fingerprint())
    assert 7 == len(set(seen))


def test_a_picture_twice_in_a_list_is_read_once_at_a_time(classifier: Classifier, photos: Path) -> None:
    with Image.open(next(photos.glob("test/*/*.png"))) as picture:
        many = classifier.predict([picture] * 8)
    assert [many[0]] * 8 == many  # type: ignore[index]


def test_torch_settings_of_its_newer_words_are_left_alone(trained: upcycle.Run, photos: Path) -> None:
    code = f"""
import torch, upcycle
torch.backends.cuda.matmul.fp32_precision = "tf32"
upcycle.load({str(trained.path)!r}).predict({str(next(photos.glob("test/*/*.png")))!r})
assert torch.backends.cuda.matmul.fp32_precision == "tf32"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


FORKED = """
import os, signal, sys
import upcycle
from upcycle.reporting.progress import Silent

def in_a_child():
    read, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        answer = os.read(read, 4096).decode()
        os.waitpid(child, 0)
        return answer
    signal.alarm(60)
    try:
        answer = model.predict(sys.argv[2]).label
    except upcycle.UpcycleError as error:
        answer = str(error)
    os.write(write, answer.encode())
    os._exit(0)

model = upcycle.load(sys.argv[1], threads=2, show=Silent())
print(in_a_child())
print(model.predict(sys.argv[2]).label)
print(in_a_child())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_loaded_model_predicts_in_a_fork_and_one_that_has_predicted_says_why_not(
    trained: upcycle.Run, photos: Path
) -> None:
    file = str(next(photos.glob("test/*/*.png")))
    done = subprocess.run(
        [sys.executable, "-c", FORKED, str(trained.path), file], capture_output=True, text=True, timeout=120
    )
    loaded, own, after = done.stdout.splitlines()
    assert loaded == own
    assert after.startswith(
        "this process was forked after its parent had computed in several threads, which a fork loses"
    )
