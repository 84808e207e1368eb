"""Checksums of a run's files."""

from pathlib import Path

import pytest

from upcycle import manifest
from upcycle.errors import RunError
from upcycle.manifest import check, seal, unseal, write_sealed, write_sealed_lines
from upcycle.rundir import RunDir, read_json, write_json, write_lines


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = RunDir(tmp_path / "run")
    write_sealed(made, made.config, {"epochs": 3})
    write_json(made.evaluation, {"test": 0.9})
    return made


def test_what_is_as_it_was_written_passes(run: RunDir) -> None:
    check(run)
    seal(run)
    check(run)
    assert ["config.json", "evaluation.json"] == list(read_json(run.manifest))


@pytest.mark.parametrize("name", ["config.json", "evaluation.json"])
def test_a_changed_file_is_named(run: RunDir, name: str) -> None:
    seal(run)
    path = run.root / name
    path.write_text(path.read_text().replace("3", "8").replace("9", "8"))
    with pytest.raises(RunError, match=rf"{name} is damaged or was changed"):
        check(run)


def test_a_missing_file_is_named(run: RunDir) -> None:
    run.config.unlink()
    with pytest.raises(RunError, match=r"config.json is missing"):
        check(run)


def test_results_are_not_judged_while_a_run_is_at_work_again(run: RunDir) -> None:
    seal(run)
    unseal(run)
    write_json(run.evaluation, {"test": 0.8})
    check(run)
    assert ["config.json"] == list(read_json(run.manifest))


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_file_whose_replacement_was_cut_off_passes(run: RunDir, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(path: Path, text: str) -> None:
        if place == "after":
            path.write_text(text)
        raise KeyboardInterrupt

    monkeypatch.setattr("upcycle.manifest.write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        write_sealed(run, run.config, {"epochs": 5})
    assert {"before": 3, "after": 5}[place] == read_json(run.config)["epochs"]
    check(run)
    assert 2 == len(read_json(run.manifest)["config.json"])


@pytest.mark.parametrize("value", [[], {"config.json": "ab"}, {"../other.json": ["ab"]}, {"/etc/passwd": ["ab"]}])
def test_a_manifest_of_another_kind_is_one_error(run: RunDir, value: object) -> None:
    write_json(run.manifest, value)
    with pytest.raises(RunError, match=r"manifest.json does not hold the checksums of a run"):
        check(run)


@pytest.mark.parametrize("there", [True, False])
def test_a_first_sealed_write_that_is_cut_off_leaves_a_run_that_is_whole(
    run: RunDir, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    if there:  # of a version that did not seal it
        write_lines(run.events, [{"event": "at-once"}])
    for name in ("write_text", "write_json"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(manifest, name, cut_off)
            write_sealed_lines(run, run.events, [{"event": "retry"}])
        check(run)


def test_a_run_from_before_there_were_manifests_is_not_judged(run: RunDir) -> None:
    run.manifest.unlink()
    check(run)
