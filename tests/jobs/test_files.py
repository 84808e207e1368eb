"""Which files `upcycle predict` attempts, and a line for each of them."""

import io
import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import upcycle
from tests.conftest import TINY, draw, without_pages
from upcycle.cli import main
from upcycle.evaluation.forward import EVAL_BATCH
from upcycle.jobs.files import Outcome, Unlisted, asked, files_of, number_of, predict_files
from upcycle.jobs.prediction import FILES_AT_ONCE, Frame, Prediction
from upcycle.reporting.progress import Silent


@pytest.fixture(scope="module")
def trained(photos: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    options = {"arch": TINY, "weights": str(tiny_weights), "recipe": "probe", "image_size": 32, "threads": 1}
    folder = tmp_path_factory.mktemp("files") / "run"
    with without_pages():
        return str(upcycle.train(photos, out=folder, device="cpu", show=Silent(), **options).path)


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(0, 1).save(path, format="PNG")
    return path


def names(root: Path, *paths: Path) -> list[str]:
    return [(one.path if isinstance(one, Unlisted) else one).relative_to(root).as_posix() for one in files_of(paths)]


def test_every_file_below_a_folder_is_attempted_but_hidden_ones_and_leftovers(tmp_path: Path) -> None:
    for name in (
        "a.png",
        "._a.png",
        "more/B.JPG",
        "more/notes.txt",
        "none",
        ".hidden/a.png",
        "Thumbs.db",
        "x.jpg_large",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "more" / "desktop.ini").touch()
    (tmp_path / "linked").symlink_to(tmp_path / "more")
    (tmp_path / "more" / "round").symlink_to(tmp_path)
    linked = ["linked/B.JPG", "linked/notes.txt"]
    assert ["a.png", *linked, "more/B.JPG", "more/notes.txt", "none", "x.jpg_large"] == [
        name for name in names(tmp_path, tmp_path) if "round" not in name
    ]
    assert ["Thumbs.db", "gone"] == names(tmp_path, tmp_path / "Thumbs.db", tmp_path / "gone")


def test_odd_names_are_predicted_and_everything_else_is_an_error_line(
    trained: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("noending", "x.png?w=200", "x.jpg_large"):
        picture(tmp_path / name)
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0")
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert 3 == main(["predict", trained, str(tmp_path), str(tmp_path / "gone.png"), "/dev/zero"])
    said = capsys.readouterr()
    assert ["noending", "x.jpg_large", "x.png?w=200"] == [
        Path(line.split("\t")[0]).name for line in said.out.splitlines()
    ]
    assert [
        f"{tmp_path}/IMG_1.HEIC: a HEIC image: install what reads it with pip install 'upcycle[heif]'",
        f"{tmp_path}/broken.png: a broken link",
        f"{tmp_path}/notes.txt: not a JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF, JPEG 2000, PNM or HEIC image",
        f"{tmp_path}/pipe.png: is no regular file",
        f"{tmp_path}/gone.png: does not exist",
        "/dev/zero: is no regular file",
        "upcycle: 6 of 9 files could not be read",
    ] == said.err.splitlines()


@pytest.mark.parametrize("name", ["a" * 300, "a\\0b", "file.png/below"])
def test_a_path_that_the_system_refuses_is_an_error_line(
    name: str, trained: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(tmp_path / "file.png")
    path = str(tmp_path / name.replace("\\0", "\0"))
    assert 3 == main(["predict", trained, path, str(tmp_path / "file.png"), "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert ["error", "label"] == [next(iter(set(row) & {"label", "error"})) for row in rows]
    assert path not in rows[0]["error"]


def test_a_folder_that_cannot_be_listed_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "closed").mkdir()
    file, plain = picture(tmp_path / "z.png"), Path.iterdir

    def refusing(path: Path) -> Any:
        if path.name == "closed":
            raise PermissionError(13, "Permission denied")
        return plain(path)

    monkeypatch.setattr(Path, "iterdir", refusing)
    assert 3 == main(["predict", trained, str(tmp_path)])
    said = capsys.readouterr()
    assert said.out.startswith(str(file))
    assert f"{tmp_path}/closed: cannot list the folder (Permission denied)" == said.err.splitlines()[0]


def test_a_folder_without_files_is_an_error(trained: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".hidden.png").touch()
    assert 3 == main(["predict", trained, str(tmp_path)])
    assert f"upcycle: no images in {tmp_path}\n" == capsys.readouterr().err


class Bright:
    """A predictor of a few lines: how bright a file's first byte is."""

    threads = 2

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def isolated(self, source: Path) -> Frame:
        return np.frombuffer(source.read_bytes()[:1], np.uint8)

    def judge(self, frames: list[Frame]) -> list[Prediction]:
        self.sizes.append(len(frames))
        return [Prediction("bright", frame[0] / 255, {"bright": frame[0] / 255}) for frame in frames]


def test_anything_that_decodes_and_judges_predicts_files_in_parts(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xff")
    (tmp_path / "b").write_bytes(b"\0")
    predictor, a, b, gone = Bright(), tmp_path / "a", tmp_path / "b", tmp_path / "gone"
    found = list(predict_files(predictor, [a, gone, b] * 43))
    white, black = Prediction("bright", 1.0, {"bright": 1.0}), Prediction("bright", 0.0, {"bright": 0.0})
    assert [Outcome(a, white, None), Outcome(gone, None, "does not exist"), Outcome(b, black, None)] * 43 == found
    assert [85, 1] == predictor.sizes  # of 128 files and of one, those that could be read


def test_files_predicted_together_fill_whole_batches() -> None:
    assert 0 == FILES_AT_ONCE % EVAL_BATCH


# ------------------------------------------------------------------------------------------ lists


def standard_input(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(content))))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "content",
    [b"a.png\nb c.png\n", b"\xef\xbb\xbfa.png\r\n\r\n   \r\nb c.png", b"a.png\0b c.png\0", b"a.png\0b c.png"],
)
def test_a_list_has_a_path_a_line(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    expected = [Path("first.png"), Path("a.png"), Path("b c.png")]
    assert expected == list(asked([Path("first.png")], tmp_path / "list.txt"))
    standard_input(content, monkeypatch)
    assert expected == list(asked([Path("first.png"), Path("-")], None))


def test_any_name_can_be_listed(tmp_path: Path) -> None:
    name = b"a\nb\xff.png"
    (tmp_path / "list").write_bytes(name + b"\0" + b"x" * 100_000 + b"\0")
    first, second = asked([], tmp_path / "list")
    assert (name, 100_000) == (os.fsencode(first), len(str(second)))


def test_files_and_folders_of_a_list_are_predicted_beside_those_that_are_named(
    trained: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "b.png", "more/c.png"):
        picture(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more" / "list.txt").write_text("b.png\n")
    standard_input(b"more\n", monkeypatch)
    assert 3 == main(["predict", trained, "a.png", "-", "--list", "more/list.txt"])
    said = capsys.readouterr()
    assert ["a.png", "more/c.png", "b.png"] == [line.split("\t")[0] for line in said.out.splitlines()]
    assert said.err.startswith("more/list.txt: not a JPEG")


def test_a_list_is_read_as_far_as_it_is_needed(tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"some/path/of/an/image.png\n" * 200_000)
    paths = files_of(asked([], tmp_path / "list"))
    assert Path("some/path/of/an/image.png") == next(paths)
    paths.close()  # type: ignore[attr-defined]


def test_the_paths_of_a_regular_list_are_counted_and_a_pipe_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"a.png\nb.png\n")
    assert 3 == number_of([Path("first.png")], tmp_path / "list")
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[b"a.png\nb.png\n"], daemon=True)
    writer.start()
    listed = asked([], tmp_path / "pipe")
    assert number_of([], tmp_path / "pipe") is None
    assert [Path("a.png"), Path("b.png")] == list(listed)
    writer.join(10)


def test_a_dash_opens_the_paths_to_no_unknown_option(
    trained: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 2 == main(["predict", trained, "a.png", "--jsonn"])
    assert "upcycle: unknown option: --jsonn. Did you mean --json?\n" == capsys.readouterr().err
    assert 2 == main(["predict", trained, "a.png", "-q"])
    assert "upcycle: unknown option: -q.\n" == capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "-q")
    assert 0 == main(["predict", trained, "--json", "--", "-q"])


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "the list {} cannot be read (No such file or directory)"),
        ("a.png".encode("utf-16"), "{} is not in UTF-8: save the list as UTF-8, one path a line"),
        (b"\n", "no images in {}"),
    ],
)
def test_a_list_that_lists_nothing_is_one_line(
    content: bytes | None, text: str, trained: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "list.txt"
    if content is not None:
        path.write_bytes(content)
    assert 3 == main(["predict", trained, "--list", str(path)])
    assert f"upcycle: {text.format(path)}\n" == capsys.readouterr().err
