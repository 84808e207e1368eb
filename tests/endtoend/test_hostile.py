"""Run directories from strangers: any value in any place of any file."""

import copy
import json
import random
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import upcycle
from tests.conftest import TINY
from upcycle.comparison.runs import read_run
from upcycle.errors import RunError, UpcycleError, WeightsError
from upcycle.reporting.progress import Silent
from upcycle.reporting.run_page import write_report
from upcycle.rundir import RunDir

DEEP = "[" * 100_000 + "]" * 100_000
VALUES: tuple[Any, ...] = (
    *(
        None,
        -1,
        0,
        1e308,
        2**70,
        1e-320,
        10**9,
        True,
        "",
        "nan",
        "\x00",
        "x" * 100_000,
        [],
        {},
        [[[]]],
        {"a": {"b": 1}},
    ),
    *("../../../../etc/passwd", "/etc/passwd", "<script>alert(1)</script>", [None] * 5),
)
FILES = ("config.json", "environment.json", "model.json", "plan.json", "audit.json", "status.json", "evaluation.json")
LINES = ("history.jsonl", "timings.jsonl")


@pytest.fixture(scope="module")
def run(photos: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hostile") / "run"
    options: dict[str, Any] = {"arch": TINY, "image_size": 32, "threads": 1, "precision": "fp32", "device": "cpu"}
    options |= {"show": Silent()}
    upcycle.train(photos, out=out, weights=str(tiny_weights), epochs=1, **options)
    (out / "manifest.json").unlink()  # a stranger's fits the files
    return out


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a JSON value, at most three items a list."""
    yield path
    for key, inner in value.items() if isinstance(value, dict) else []:
        yield from places(inner, (*path, key))
    for at, inner in enumerate(value[:3] if isinstance(value, list) else []):
        yield from places(inner, (*path, at))


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """`value` with `new` in one place."""
    if not path:
        return new
    made = inner = copy.deepcopy(value)
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return made


def hostile(run: Path, chance: random.Random) -> tuple[str, str]:
    """A file's name and what a stranger has made of it."""
    name = chance.choice((*FILES, *LINES))
    text = (run / name).read_text()
    if chance.random() < 0.03:
        return name, DEEP
    rows = text.splitlines() if name in LINES else [text]
    at = chance.randrange(len(rows))
    value = json.loads(rows[at])
    rows[at] = json.dumps(put(value, chance.choice(list(places(value))), chance.choice(VALUES)))
    return name, "\n".join(rows) + "\n"


def survive(run: Path, tries: int, readers: dict[str, Any], folder: Path) -> int:
    """Try so many hostile directories on each reader; how many were refused. Anything but one line is raised."""
    chance, refused = random.Random(0), 0
    shutil.copytree(run, folder)
    for _ in range(tries):
        name, text = hostile(run, chance)
        (folder / name).write_text(text, errors="surrogatepass")
        for reader in readers.values():
            try:
                reader(folder)
            except UpcycleError as error:
                refused += 1
                lines = str(error).splitlines()
                if len(lines) != 1:
                    raise
        shutil.copy(run / name, folder / name)
    return refused


READERS = {"compare": read_run, "load": upcycle.load}


def test_a_run_from_a_stranger_is_read_or_refused_in_one_line(run: Path, tmp_path: Path) -> None:
    assert survive(run, 200, READERS, tmp_path / "run") > 20
    survive(run, 3, {"report": lambda folder: write_report(RunDir(folder))}, tmp_path / "report")
    assert (tmp_path / "report" / "report.html").exists()


@pytest.mark.parametrize("name", ["figures", "predictions", "checkpoints", "history.jsonl", ".lock"])
def test_a_run_whose_links_lead_elsewhere_is_refused_and_nothing_written_there(
    name: str, run: Path, tmp_path: Path
) -> None:
    folder, victim = tmp_path / "run", tmp_path / "victim"
    shutil.copytree(run, folder)
    inside = folder / name
    if inside.exists():
        inside.rename(victim)
    else:
        victim.write_text("precious")
    inside.symlink_to(victim)
    before = {path: path.read_bytes() for path in [victim, *victim.rglob("*")] if path.is_file()}
    calls = (
        *(lambda: write_report(RunDir(folder)), lambda: upcycle.load(folder), lambda: read_run(folder)),
        lambda: upcycle.train(out=folder, resume=True, epochs=2, show=Silent()),
    )
    for call in calls:
        with pytest.raises(RunError, match=f"{name} is a link, which upcycle never makes in a run: remove it"):
            call()
    after = {path: path.read_bytes() for path in [victim, *victim.rglob("*")] if path.is_file()}
    assert before == after


def test_a_model_that_a_stranger_names_takes_no_memory_before_it_fits(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    facts = json.loads((run / "model.json").read_text())
    (tmp_path / "run" / "model.json").write_text(json.dumps({**facts, "arch": "eva_giant_patch14_224"}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WeightsError, match=r"does not fit eva_giant_patch14_224.*: \d+ tensors missing") as caught:
        upcycle.load(tmp_path / "run")
    assert len(str(caught.value)) < 500
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB; its weights have 4 GB


@pytest.mark.slow
def test_a_thousand_runs_from_strangers_are_read_or_refused_in_one_line(run: Path, tmp_path: Path) -> None:
    assert survive(run, 1000, READERS, tmp_path / "run") > 100
    assert survive(run, 100, {"report": lambda folder: write_report(RunDir(folder))}, tmp_path / "report") > 5
