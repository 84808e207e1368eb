"""A table of many files: its columns, its parts, and what a killed process leaves to the next one."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

import upcycle
from tests.conftest import TINY, without_pages
from upcycle.cli import main
from upcycle.errors import ConfigError, RunError
from upcycle.evaluation.novelty import Novelty
from upcycle.jobs import prediction_files as job
from upcycle.jobs.files import Outcome
from upcycle.jobs.prediction import Frame, Prediction
from upcycle.jobs.prediction_files import write_predictions
from upcycle.reporting.progress import Display, Report, Silent
from upcycle.rundir import locked, read_json


class Bright:
    """A model of a few lines: how bright a file's first byte is; it is interrupted at the file named `stop`."""

    threads = 1
    classes = ("bright", "path")
    novelty: Novelty | None = None

    def __init__(self, name: str = "one") -> None:
        self.name = name
        self.read: list[str] = []

    def fingerprint(self) -> str:
        return self.name

    def isolated(self, source: Path) -> Frame:
        self.read.append(source.name)
        if source.name == "stop":
            raise KeyboardInterrupt
        return np.frombuffer(source.read_bytes()[:1], np.uint8)

    def judge(self, frames: list[Frame]) -> list[Prediction]:
        shares = [float(frame[0]) / 255 for frame in frames]
        return [Prediction("bright", share, {"bright": share, "path": 1 - share}) for share in shares]


class Listening(Display):
    """What was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []
        self.reports: list[tuple[int, int | None]] = []

    def message(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def progress(self, what: str) -> "Listening":  # type: ignore[override]
        return self

    def __enter__(self) -> Report:
        return lambda done, total: self.reports.append((done, total))

    def __exit__(self, *_: object) -> None:
        return


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of four files, predicted two by two."""
    monkeypatch.setattr(job, "PART", 4)
    monkeypatch.setattr(job, "FILES_AT_ONCE", 2)
    monkeypatch.setattr("upcycle.jobs.files.FILES_AT_ONCE", 2)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Ten files, of which the third is not there."""
    (tmp_path / "files").mkdir()
    paths = [tmp_path / "files" / f"{at}" for at in range(10)]
    for at, path in enumerate(paths):
        if at != 2:
            path.write_bytes(bytes([25 * at]))
    return paths


def write(files: list[Path], out: Path, model: Bright | None = None, show: Display | None = None) -> tuple[int, int]:
    return write_predictions(model or Bright(), files, out, show=show or Silent(), command="predict again")


def interrupted(files: list[Path], out: Path, after: int, show: Display | None = None) -> None:
    with pytest.raises(KeyboardInterrupt):
        write([*files[:after], out.parent / "stop", *files[after + 1 :]], out, show=show)


HEADER = "path,label,probability,probability:bright,probability:path,p_value,error"


def test_a_table_has_a_row_for_every_file_in_order(files: list[Path], tmp_path: Path) -> None:
    assert (10, 1) == write(files, tmp_path / "a.csv")
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert [HEADER, f"{files[0]},bright,0.0,0.0,1.0,,"] == lines[:2]
    assert f"{files[2]},,,,,,does not exist" == lines[3]
    assert list(map(str, files)) == [row["path"] for row in csv.DictReader(lines)]


def test_the_kinds_of_table_hold_the_same(files: list[Path], tmp_path: Path) -> None:
    for kind in ("parquet", "jsonl"):
        write(files, tmp_path / f"a.{kind}")
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    table = parquet.read_table(tmp_path / "a.parquet")
    assert table.to_pylist() == rows
    assert ["string", "string", "double", "double", "double", "double", "string"] == [
        str(one.type) for one in table.schema
    ]
    missing = dict.fromkeys(("label", "probability", "probability:bright", "probability:path", "p_value"))
    assert {"path": str(files[2]), **missing, "error": "does not exist"} == rows[2]
    assert HEADER.split(",") == list(rows[0])


class Strange(Bright):
    """All that it judges is unlike its training photos."""

    novelty = Novelty.fitted(
        np.eye(40, 30, dtype=np.float32) + 1, np.eye(200, 30, dtype=np.float32) + np.float32(1.5), units=200
    )

    def judge(self, frames: list[Frame]) -> list[Prediction]:
        return [replace(one, p_value=0.001) for one in super().judge(frames)]


def test_images_unlike_the_training_photos_are_counted_over_all_parts(files: list[Path], tmp_path: Path) -> None:
    show = Listening()
    write(files, tmp_path / "a.csv", Strange(), show)
    (warning,) = show.warnings
    assert warning.startswith("9 of 9 images are unlike the training photos (less than 1 expected)")
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert [row["p_value"] for row in rows] == ["0.001"] * 2 + [""] + ["0.001"] * 7


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_what_was_interrupted_is_resumed_to_the_same_bytes(kind: str, files: list[Path], tmp_path: Path) -> None:
    out, show, model = tmp_path / f"a.{kind}", Listening(), Bright()
    write(files, tmp_path / f"whole.{kind}")
    interrupted(files, out, after=9, show=show)
    assert ["8 files done; to resume: predict again"] == show.lines
    assert not out.exists()
    assert (10, 1) == write(files, out, model)
    assert ["8", "9"] == model.read
    assert (tmp_path / f"whole.{kind}").read_bytes() == out.read_bytes()
    assert not (tmp_path / f"a.{kind}.partial").exists()


def test_half_a_part_is_predicted_again_and_what_it_left_is_removed(files: list[Path], tmp_path: Path) -> None:
    out, model = tmp_path / "a.parquet", Bright()
    interrupted(files, out, after=7)
    (tmp_path / "a.parquet.partial" / ".000001.parquet.abcdefgh").write_bytes(b"half")
    (tmp_path / "a.parquet.partial" / "000001.parquet").write_bytes(b"not recorded yet")
    write(files, out, model)
    assert ["4", "5", "6", "7", "8", "9"] == model.read
    assert list(map(str, files)) == parquet.read_table(out)["path"].to_pylist()


def test_the_bar_counts_all_files_and_forgets_a_total_that_was_too_small(files: list[Path], tmp_path: Path) -> None:
    show = Listening()
    write_predictions(Bright(), files, tmp_path / "a.csv", show=show, total=7)
    assert [(2, 7), (4, 7), (6, 7), (8, None), (10, None)] == show.reports
    assert [f"10 files: {tmp_path / 'a.csv'}"] == show.lines
    interrupted(files, tmp_path / "b.csv", after=9)
    show = Listening()
    write(files, tmp_path / "b.csv", show=show)
    assert [(10, None)] == show.reports


def test_another_model_other_classes_and_other_paths_are_refused(files: list[Path], tmp_path: Path) -> None:
    out, advice = tmp_path / "a.csv", "give those, remove the folder, or give another --out"
    interrupted(files, out, after=9)
    with pytest.raises(RunError, match=rf"a\.csv\.partial was started with another model: {advice}"):
        write(files, out, Bright("another"))
    other = Bright()
    other.classes = ("dark", "path")
    with pytest.raises(RunError, match="was started with a model of other classes"):
        write(files, out, other)
    with pytest.raises(RunError, match=r"was started with other paths \(files 5 to 8 are others\)"):
        write([*files[:4], *files[5:]], out)
    with pytest.raises(RunError, match=r"was started with other paths \(files 5 to 8 are others\)"):
        write(files[:6], out)
    assert (10, 1) == write(files, out)


def test_a_table_that_exists_or_has_no_kind_is_refused_before_anything_is_predicted(
    files: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "a.csv").touch()
    model = Bright()
    with pytest.raises(RunError, match=r"a\.csv already exists: remove it, or give another --out"):
        write(files, tmp_path / "a.csv", model)
    with pytest.raises(ConfigError, match=r"give a name that ends in \.parquet, \.csv, \.jsonl"):
        write(files, tmp_path / "a.txt", model)
    assert [] == model.read
    assert ["a.csv", "files"] == sorted(path.name for path in tmp_path.iterdir())


def test_two_processes_do_not_write_one_table(files: list[Path], tmp_path: Path) -> None:
    with locked(tmp_path / "a.csv.partial"), pytest.raises(RunError, match="another upcycle is at work"):
        write(files, tmp_path / "a.csv")


def test_a_table_that_was_written_since_the_start_is_not_replaced(files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "a.csv"

    class Slow(Bright):
        def judge(self, frames: list[Frame]) -> list[Prediction]:
            out.write_text("of another")
            return super().judge(frames)

    with pytest.raises(RunError, match=r"a\.csv already exists"):
        write(files, out, Slow())
    assert "of another" == out.read_text()
    out.unlink()
    model = Bright()
    assert (10, 1) == write(files, out, model)
    assert [] == model.read


def test_a_table_that_was_written_before_the_lock_is_refused_at_once(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, model = tmp_path / "a.csv", Bright()

    @contextlib.contextmanager
    def late(folder: Path) -> Iterator[None]:
        out.write_text("of another")
        with locked(folder):
            yield

    monkeypatch.setattr(job, "locked", late)
    with pytest.raises(RunError, match=r"a\.csv already exists"):
        write(files, out, model)
    assert ("of another", []) == (out.read_text(), model.read)
    assert ["a.csv", "files"] == sorted(path.name for path in tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="no open file is removed there")
def test_the_folder_of_the_parts_is_removed_while_it_is_locked(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[bool] = []

    @contextlib.contextmanager
    def watched(folder: Path) -> Iterator[None]:
        with locked(folder):
            yield
            left.append(folder.exists())
        folder.mkdir()  # the next process's
        (folder / "000000.csv").touch()

    monkeypatch.setattr(job, "locked", watched)
    write(files, tmp_path / "a.csv")
    assert [False] == left
    assert (tmp_path / "a.csv.partial" / "000000.csv").exists()


def test_any_name_of_a_file_or_a_class_has_its_place(tmp_path: Path) -> None:
    name, model = os.fsdecode(b'a,"\n\xff'), Bright()
    model.classes = ("bright", "path")
    for kind in ("csv", "jsonl", "parquet"):
        assert (1, 1) == write([tmp_path / name], tmp_path / f"a.{kind}", model)
    with (tmp_path / "a.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        assert str(tmp_path / name) == next(csv.DictReader(file))["path"]
    assert str(tmp_path / name) == json.loads((tmp_path / "a.jsonl").read_text())["path"]
    assert f'{tmp_path}/a,"\n\\udcff' == parquet.read_table(tmp_path / "a.parquet")["path"][0].as_py()


def test_without_files_nothing_is_written(tmp_path: Path) -> None:
    assert (0, 0) == write([], tmp_path / "a.csv")
    assert [] == list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def trained(photos: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> upcycle.Run:
    options = {"arch": TINY, "weights": str(tiny_weights), "recipe": "probe", "image_size": 32, "threads": 1}
    with without_pages():
        return upcycle.train(
            photos, out=tmp_path_factory.mktemp("tables") / "run", device="cpu", show=Silent(), **options
        )


def test_the_table_equals_what_was_evaluated_to_the_bit(
    trained: upcycle.Run, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "test.parquet"
    assert 0 == main(["predict", str(trained.path), str(photos / "test"), "--out", str(out), "--json"])
    assert {"out": str(out), "files": 20, "failed": 0} == json.loads(capsys.readouterr().out)
    table, recorded = parquet.read_table(out), trained.predictions("test")
    columns = [table[f"probability:{name}"].to_numpy() for name in recorded.classes]
    places = {str(photos / path): at for at, path in enumerate(recorded.paths)}
    expected = recorded.probabilities()[[places[path] for path in table["path"].to_pylist()]]
    assert np.array_equal(expected, np.stack(columns, axis=1))


def test_without_files_the_command_says_nothing_of_a_table(
    trained: upcycle.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    out = tmp_path / "e.csv"
    assert 3 == main(["predict", str(trained.path), str(tmp_path / "empty"), "--out", str(out), "--json"])
    said = capsys.readouterr()
    assert ("", f"upcycle: no images in {tmp_path / 'empty'}\n") == (said.out, said.err)
    assert not out.exists()


@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="needs names of open pipes")
def test_a_list_may_be_a_pipe(
    trained: upcycle.Run, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading), os.fdopen(writing, "w") as file:
        file.write(f"{next(photos.glob('test/*/*.png'))}\n")
        file.close()
        words = ["predict", str(trained.path), "--list", f"/dev/fd/{reading}", "--out", str(tmp_path / "a.csv")]
        assert 0 == main(words)
    assert f"1 file: {tmp_path / 'a.csv'}" in capsys.readouterr().err


def test_files_that_cannot_be_read_are_counted_and_end_in_code_3(
    trained: upcycle.Run, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed, out = tmp_path / "list.txt", tmp_path / "some.csv"
    listed.write_text(f"{next(photos.glob('test/*/*.png'))}\n{tmp_path / 'gone.png'}\n")
    assert 3 == main(["predict", str(trained.path), "--list", str(listed), "--out", str(out)])
    said = capsys.readouterr()
    assert "" == said.out
    assert [f"2 files: {out}", "upcycle: 1 of 2 files could not be read"] == said.err.splitlines()
    assert 5 == main(["predict", str(trained.path), "--list", str(listed), "--out", str(out)])


def test_an_interrupted_command_names_the_one_that_resumes_it(
    trained: upcycle.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopping(_: object, paths: Iterator[Path]) -> Iterator[Outcome]:
        list(paths)
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "predict_files", stopping)
    listed, out = tmp_path / "list.txt", tmp_path / "my table.csv"
    listed.write_text("a.png\n")
    words = ["predict", str(trained.path), "--list", str(listed), "--out", str(out), "--threads", "1"]
    assert 130 == main(words)
    resume = f"upcycle predict {trained.path} --list {listed} --out '{out}' --threads 1"
    assert f"0 files done; to resume: {resume}" == capsys.readouterr().err.splitlines()[0]


def parts_of(out: Path) -> Iterator[int]:
    """How many parts are whole, asked again and again."""
    state = out.with_name(f"{out.name}.partial") / "state.json"
    while True:
        yield len(read_json(state)["parts"]) if state.exists() else 0
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_a_killed_command_is_resumed_to_the_same_bytes(trained: upcycle.Run, photos: Path, tmp_path: Path) -> None:
    listed, out = tmp_path / "list.txt", tmp_path / "many.jsonl"
    file = next(photos.glob("test/*/*.png"))
    listed.write_text(f"{file}\n" * 2000)
    code = "import sys; from upcycle.jobs import prediction_files as job; job.PART = 128; from upcycle.cli import main"
    words = ["predict", str(trained.path), "--list", str(listed), "--out", str(out)]
    with subprocess.Popen([sys.executable, "-c", f"{code}; main({words})"], stderr=subprocess.DEVNULL) as process:
        next(parts for parts in parts_of(out) if parts >= 2 or process.poll() is not None)
        process.send_signal(signal.SIGKILL)
    assert -signal.SIGKILL == process.returncode
    assert 0 == main(words)
    rows = out.read_text().splitlines()
    assert (2000, 1) == (len(rows), len(set(rows)))
    assert str(file) == json.loads(rows[0])["path"]
