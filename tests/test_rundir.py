"""The run directory: a file is either absent or whole."""

import json
import math
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import small_files
from upcycle.errors import NoRoomError, RunError, StorageError
from upcycle.rundir import (
    RunDir,
    append_line,
    locked,
    plain_json,
    read_json,
    read_lines,
    refuse_links,
    remove_abandoned,
    replacing,
    write_json,
    write_lines,
    write_text,
)


def test_a_write_that_fails_leaves_the_earlier_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "before")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert ["before"] == [path.read_text()]
    assert [path] == list(tmp_path.iterdir())


def test_what_killed_writes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (
        ".lock",
        "a.json",
        "checkpoints/best.safetensors",
        "checkpoints/.best.safetensors.x1y2_abc",
        "checkpoints/.tmpEUeylu",  # safetensors writes into a file of its own first
        ".tmpEUeylu",  # no weights lie here: the user's
        ".a.json.zz34abcd",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    remove_abandoned(tmp_path)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {".lock", ".tmpEUeylu", "a.json", "checkpoints/best.safetensors"} == left


def test_hidden_files_that_are_not_ours_stay(tmp_path: Path) -> None:
    names = {".gitignore", ".DS_Store", ".notes.backup01", "sub/.a.json", "sub/.env.local"}
    (tmp_path / "sub").mkdir()
    for name in names:
        (tmp_path / name).write_text("x")
    remove_abandoned(tmp_path)
    assert names == {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_full_disk_is_one_line() -> None:
    with pytest.raises(StorageError, match=r"cannot write /dev/full: No space left on device"):
        append_line(Path("/dev/full"), {"a": 1})


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write .*file/config.json"):
        write_json(tmp_path / "file" / "config.json", {})


def test_numbers_that_json_cannot_say_become_null(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": [math.nan, math.inf, 1.5], "b": {"c": -math.inf}})
    assert {"a": [None, None, 1.5], "b": {"c": None}} == json.loads((tmp_path / "a.json").read_text())


def test_a_last_line_cut_short_by_a_crash_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    append_line(path, {"a": 1})
    append_line(path, {"a": 2})
    path.write_text(path.read_text()[:-4])
    assert [{"a": 1}] == read_lines(path)


def test_a_file_that_is_written_whole_has_a_whole_last_line(tmp_path: Path) -> None:
    write_lines(tmp_path / "plan.jsonl", [{"event": "retry"}])
    (tmp_path / "plan.jsonl").write_text('{"event": "retry"\n', encoding="utf-8")
    assert [] == read_lines(tmp_path / "plan.jsonl")
    with pytest.raises(RunError, match="line 1 is damaged"):
        read_lines(tmp_path / "plan.jsonl", whole=True)


def test_a_pipe_in_a_run_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(RunError, match=r"config.json is no regular file"):
        refuse_links(tmp_path)


def test_a_damaged_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"a"\n{"a": 3}\n')
    with pytest.raises(RunError, match="line 2 is damaged"):
        read_lines(path)


def test_a_line_that_is_no_object_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n[null]\n')
    with pytest.raises(RunError, match="line 2 is damaged: it holds no JSON object"):
        read_lines(path)


def test_lines_are_written_and_read_back(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [{"a": 1}, {"b": "ä\n"}])
    assert [{"a": 1}, {"b": "ä\n"}] == read_lines(tmp_path / "a.jsonl")


def test_a_missing_file_says_that_this_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="status.json is missing: .* is not a run directory"):
        RunDir(tmp_path).status()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(RunError, match="a.json cannot be read"):
        read_json(tmp_path / "a.json")


def test_an_empty_folder_is_no_run_yet(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert not run.exists()
    run.set_status("running", seconds=1)
    assert run.exists()
    assert {"state": "running", "seconds": 1} == run.status()


def test_a_folder_that_another_process_writes_is_refused_until_that_has_ended(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from upcycle.rundir import locked\n"
    code += "with locked(Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", code, str(tmp_path / "run")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert "in\n" == other.stdout.readline()
        with (
            pytest.raises(RunError, match="another upcycle is at work in .*run: wait for it"),
            locked(tmp_path / "run"),
        ):
            raise AssertionError
        other.kill()
        other.wait()
    with locked(tmp_path / "run"):
        assert not RunDir(tmp_path / "run").exists()


def test_rows_of_whole_numbers_stand_on_a_line_each_and_text_stays_what_it_is() -> None:
    value = {"confusion": [[71, 4], [3, 82]], "name": "[ 1 ] [\n 2,\n 3\n]", "moms": [0.9, 0.8], "empty": []}
    text = plain_json(value)
    assert value == json.loads(text)
    assert "    [71, 4],\n    [3, 82]\n" in text
    assert len(plain_json([[0] * 1000] * 1000)) < 3.1e6  # three bytes a cell of a confusion matrix


def test_a_disk_that_fills_up_leaves_the_earlier_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "before")
    with pytest.raises(NoRoomError), small_files():
        write_text(path, "x" * 9000)
    assert ("before", [path]) == (path.read_text(), list(tmp_path.iterdir()))


@pytest.mark.skipif(sys.platform == "win32", reason="no permissions of this kind")
def test_files_have_the_permissions_that_others_of_the_user_have(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "x")
    finally:
        os.umask(before)
    assert 0o640 == stat.S_IMODE((tmp_path / "a.txt").stat().st_mode)
