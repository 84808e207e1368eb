"""Runs that are killed with SIGKILL at a chosen moment of a named phase, and gone on with until they are finished.

    python -m tests.endtoend.kills DATA WEIGHTS FOLDER RECIPE PHASE:COUNT [PHASE:COUNT ...] [--seed 0]

Everything heavy is imported once, then every session is a forked process of its own. A first run is never killed; it
also counts how often each phase's function is called. Then each trial takes a fresh cache and run directory, is killed
at a call drawn at random, before it or after it, and goes on; every other trial is killed once more. A trial
passes when weights, history, predictions, metrics and the other results are those of the first run, byte for byte
(of safetensors files the tensors and metadata: the library writes metadata in any order). The network has dropout, drop
path and BatchNorm that learns. Prints a line a trial, and at the end JSON: kills by phase.
"""

import argparse
import collections
import importlib
import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
from safetensors import safe_open
from safetensors.numpy import load_file

import upcycle
import upcycle.job.api
import upcycle.job.keep
import upcycle.output.report
from upcycle.output.show import Silent

PHASES = {
    "decoding": ["upcycle.data.cache:decoded"],
    "cache": ["upcycle.data.cache:_write"],
    "features": ["upcycle.training.features:_features", "upcycle.training.features:_write"],
    "head": ["upcycle.training.probe:_epoch_batches"],
    "step": ["upcycle.training.loop:train_step"],
    "checkpoint": ["upcycle.model.checkpoint:save_file", "upcycle.model.checkpoint:save_tensors"],
    "record": ["upcycle.rundir:write_json", "upcycle.job.keep:append_line", "upcycle.job.keep:write_lines"],
    "evaluation": ["upcycle.job.stages:predict", "upcycle.job.stages:write_results", "upcycle.job.finish:evaluate"],
    "report": ["upcycle.output.report:_draw", "upcycle.output.report:_render", "upcycle.output.report:write_text"],
}
CLOCKS = {"status.json", "timings.jsonl", "environment.json", "report.html", "config.json", "manifest.json", ".lock"}
"""Files that hold clock values or the run's own place, outside the promise."""
OPTIONS: dict[str, Any] = {
    "arch": "test_resnet",
    "image_size": 32,
    "precision": "fp32",
    "threads": 1,
    "batch_size": 8,
    "freeze": "none",
    "bn": "train",
    "checkpoint_every": 0.001,
}


def results(run: Path) -> dict[str, bytes]:
    """Every file of a run that a kill may not change."""
    files = (path for path in sorted(run.rglob("*")) if path.is_file() and path.name not in CLOCKS)
    return {str(path.relative_to(run)): content(path) for path in files}


def content(file: Path) -> bytes:
    """A file's bytes; those of the tensors and metadata of a safetensors file."""
    if file.suffix != ".safetensors":
        return file.read_bytes()
    with safe_open(file, framework="np") as opened:
        metadata = json.dumps(opened.metadata(), sort_keys=True).encode()
    tensors = load_file(file)
    return metadata + b"".join(name.encode() + tensors[name].tobytes() for name in sorted(tensors))


def session(work: Callable[[], None]) -> int:
    """Do `work` in a process of its own; its exit status, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(9)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def patched(target: str, before: Callable[[], None], after: Callable[[], None]) -> None:
    """Call `before` and `after` around every call of "module:function", in this process."""
    module, name = target.split(":")
    home = importlib.import_module(module)
    plain = getattr(home, name)

    def called(*given: Any, **named: Any) -> Any:
        before()
        value = plain(*given, **named)
        after()
        return value

    setattr(home, name, called)


def train(data: Path, weights: Path, out: Path, recipe: str) -> None:
    """A run, or the rest of it."""
    create = timm.create_model
    timm.create_model = lambda arch, **given: create(arch, **{**given, "drop_rate": 0.2, "drop_path_rate": 0.2})
    upcycle.job.keep.MOST_OF_THE_TIME = 1e9  # a state after nearly every update
    epochs = {"default": 3, "classic": 6}[recipe]
    given = {**OPTIONS, "weights": str(weights), "recipe": recipe, "epochs": epochs, "cache": str(out.parent / "cache")}
    upcycle.train(data, out=out, resume=True, show=Silent(), **given)


def counted(data: Path, weights: Path, out: Path, recipe: str) -> dict[str, int]:
    """Train a run without a kill; how often each target was called."""
    calls: collections.Counter[str] = collections.Counter()
    file = out.parent / "calls.json"

    def work() -> None:
        for target in (target for targets in PHASES.values() for target in targets):
            patched(target, lambda target=target: calls.update([target]), lambda: None)  # type: ignore[misc]
        train(data, weights, out, recipe)
        file.write_text(json.dumps(calls))

    if session(work):
        raise SystemExit("the run that is not killed failed")
    return dict(json.loads(file.read_text()))


def kill_at(target: str, call: int, late: bool) -> None:
    """Let this process be killed at the given call of the target, before it or right after it."""
    seen = [0]

    def before() -> None:
        seen[0] += 1
        if not late and seen[0] == call:
            os.kill(os.getpid(), signal.SIGKILL)

    def after() -> None:
        if late and seen[0] == call:
            os.kill(os.getpid(), signal.SIGKILL)

    patched(target, before, after)


def trial(place: Path, once: Callable[[Path], None], kills: list[tuple[str, int, bool]]) -> int:
    """A run in `place` killed as often as there are `kills`; how many of them hit."""
    hit = 0
    for target, call, late in kills:

        def doomed(target: str = target, call: int = call, late: bool = late) -> None:
            kill_at(target, call, late)
            once(place / "run")

        status = session(doomed)
        if status not in (0, -signal.SIGKILL):
            raise SystemExit(f"{target}, call {call}: the session ended with {status}")
        hit += status == -signal.SIGKILL
    if session(lambda: once(place / "run")):
        raise SystemExit(f"{kills}: the run did not go on")
    return hit


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("data", "weights", "folder"):
        parser.add_argument(name, type=Path)
    parser.add_argument("recipe")
    parser.add_argument("phases", nargs="+")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    chance = random.Random(f"{asked.seed} {asked.recipe}")
    first = asked.folder / "whole"
    first.mkdir(parents=True)
    calls = counted(asked.data, asked.weights, first / "run", asked.recipe)
    expected, done = results(first / "run"), collections.Counter[str]()
    for phase, count in ((text.split(":")[0], int(text.split(":")[1])) for text in asked.phases):
        for i in range(count):
            kills = []
            for _ in range(1 + i % 2):
                target = chance.choice([target for target in PHASES[phase] if calls.get(target)])
                kills.append((target, chance.randint(1, calls[target]), chance.random() < 0.5))
            place = asked.folder / f"{phase}-{i}"
            place.mkdir()
            hit = trial(place, lambda out: train(asked.data, asked.weights, out, asked.recipe), kills)
            found = results(place / "run")
            different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
            if different:
                raise SystemExit(f"{phase}, {kills}: other bytes in {', '.join(different)}")
            shutil.rmtree(place)
            done[phase] += hit
            print(f"{phase} {i}: {kills}, {hit} killed", flush=True)
    print(json.dumps(done))


if __name__ == "__main__":
    main()
