"""Runs that are killed with SIGKILL at a chosen moment of a named phase, and gone on with until they are finished.

    python -m tests.endtoend.kills DATA WEIGHTS FOLDER RECIPE PHASE:COUNT [PHASE:COUNT ...] [--seed 0]

Everything heavy is imported once, then every session is a forked process of its own. A first run is never killed; it
also counts how often each phase's function is called. Then each trial takes a fresh cache and run directory, is killed
at a call drawn at random, before it, after it, or at a random moment within it, and goes on; every other trial is
killed once more. A trial passes when weights, history, predictions, metrics and the other results are those of the
first run, byte for byte. The network has dropout, drop path and BatchNorm that learns. Prints one line per trial, and
at the end JSON: kills by phase.
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
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm

import upcycle
import upcycle.jobs.api
import upcycle.jobs.session
import upcycle.reporting.run_page
from upcycle.reporting.progress import Silent

PHASES = {
    "decoding": ["upcycle.data.frames:decoded"],
    "cache": ["upcycle.data.frames:_write"],
    "features": ["upcycle.evaluation.forward:_part", "upcycle.evaluation.forward:_write"],
    "probe": ["upcycle.training.logistic:minimize"],
    "step": ["upcycle.training.loop:train_step"],
    "checkpoint": ["upcycle.model.checkpoint:save_file", "upcycle.model.checkpoint:save_tensors"],
    "record": ["upcycle.rundir:write_json", "upcycle.jobs.session:append_line", "upcycle.jobs.session:write_lines"],
    "evaluation": [
        "upcycle.jobs.finetune:predict_logits",
        "upcycle.jobs.stages:write_results",
        "upcycle.jobs.results:measure",
    ],
    "report": [
        "upcycle.reporting.run_page:_figures",
        "upcycle.reporting.run_page:_render",
        "upcycle.reporting.run_page:write_text",
    ],
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
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


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
    upcycle.jobs.session.MOST_OF_THE_TIME = 1e9  # a state after nearly every update
    epochs = {"default": 3, "classic": 6}[recipe]
    given = {**OPTIONS, "weights": str(weights), "recipe": recipe, "epochs": epochs, "cache": str(out.parent / "cache")}
    upcycle.train(data, out=out, resume=True, show=Silent(), **given)


def counted(data: Path, weights: Path, out: Path, recipe: str) -> dict[str, list[float]]:
    """Train a run without a kill; how many seconds each call of each target took."""
    calls: dict[str, list[float]] = collections.defaultdict(list)
    begun: dict[str, float] = {}
    file = out.parent / "calls.json"

    def watched(target: str) -> None:
        def before() -> None:
            begun[target] = time.perf_counter()

        def after() -> None:
            calls[target].append(time.perf_counter() - begun[target])

        patched(target, before, after)

    def work() -> None:
        for target in (target for targets in PHASES.values() for target in targets):
            watched(target)
        train(data, weights, out, recipe)
        file.write_text(json.dumps(calls))

    if session(work):
        raise SystemExit("the run that is not killed failed")
    return dict(json.loads(file.read_text()))


@dataclass(frozen=True)
class Kill:
    """A kill at the given call of the target: "before" it, "after" it, or "within", so many seconds from its start."""

    target: str
    call: int
    when: str
    seconds: float


def drawn(chance: random.Random, targets: list[str], calls: dict[str, list[float]]) -> Kill:
    """A kill at random; "within" ends by when the call ended in the run that was not killed."""
    target = chance.choice([target for target in targets if calls.get(target)])
    call = chance.randrange(len(calls[target]))
    return Kill(target, call + 1, chance.choice(("before", "after", "within")), chance.random() * calls[target][call])


def strike_after(seconds: float) -> None:
    """Have this process killed from outside after so long, whatever it is in."""
    doomed = os.getpid()
    if os.fork() == 0:
        os.closerange(3, 1024)  # the run's lock among them
        time.sleep(seconds)
        if os.getppid() == doomed:
            os.kill(doomed, signal.SIGKILL)
        os._exit(0)


def arm(kill: Kill) -> None:
    """Let this process be killed so."""
    seen = [0]

    def before() -> None:
        seen[0] += 1
        if seen[0] == kill.call and kill.when != "after":
            strike_after(kill.seconds) if kill.when == "within" else os.kill(os.getpid(), signal.SIGKILL)

    def after() -> None:
        if seen[0] == kill.call and kill.when == "after":
            os.kill(os.getpid(), signal.SIGKILL)

    patched(kill.target, before, after)


def trial(place: Path, once: Callable[[Path], None], kills: list[Kill]) -> int:
    """A run in `place` killed as often as there are `kills`; how many of them hit."""
    hit = 0
    for kill in kills:

        def doomed(kill: Kill = kill) -> None:
            arm(kill)
            once(place / "run")

        status = session(doomed)
        if status not in (0, -signal.SIGKILL):
            raise SystemExit(f"{kill}: the session ended with {status}")
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
    if not any(text.startswith("report:") for text in asked.phases):  # most of a tiny run's time
        upcycle.reporting.run_page.write_report = lambda run: run.report
    first = asked.folder / "whole"
    first.mkdir(parents=True)
    calls = counted(asked.data, asked.weights, first / "run", asked.recipe)
    expected, done = results(first / "run"), collections.Counter[str]()
    for phase, count in ((text.split(":")[0], int(text.split(":")[1])) for text in asked.phases):
        for i in range(count):
            kills = [drawn(chance, PHASES[phase], calls) for _ in range(1 + i % 2)]
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
