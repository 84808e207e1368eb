"""Wall time from the command to a model that reaches a given test F1, upcycle beside its peers.

    python lab/time_to_accuracy.py FOLDER --data DATA --weights FILE --goals 0.97,0.985 --torch-python PYTHON
        --keras-python PYTHON [--size 224] [--seeds 3] [--tools "upcycle probe;upcycle default;fastai 1;..."]
        [--test-split val] [--split-by-seed]

Each reading is a new process with empty caches, timed from its start to its end: start-up, decoding, training,
validation and test. All tools see the same weights, files and split; a seed changes the order and whatever else is
random, and with --split-by-seed the split too. `fastai N` is fine_tune(N), "bf16" with channels_last, mixed precision
and one loader worker, "best" without the worker and with freed memory kept (peer_settings.py); `Keras article N` the
article's script for at most N epochs, `upcycle full N` N epochs of all layers without a probe; the other tools are
listed in COMMANDS. `@128` after a tool is its image size, where that is not --size. The readings alternate between the
tools of a command, seed by seed, and are kept as they come, with the time they ended: a run that is ended early goes on
where it was, and so does one with more seeds or tools.

A tool's time to a goal is that of its quickest setting whose mean *validation* F1 reaches it, given only where the mean
test F1 does so too; test scores choose nothing.
FOLDER/readings.jsonl holds every reading, FOLDER/time_to_accuracy.md the tables and .svg the figure.
"""

import argparse
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import throughput
import time_to_accuracy_figure

from upcycle import device
from upcycle.data.splits import read_splits
from upcycle.rundir import read_json, read_lines

PEERS = Path(__file__).parent / "peers"
COMMANDS: dict[str, list[str]] = {
    "upcycle probe": ["--recipe", "probe"],
    "upcycle default": ["--recipe", "default"],
    "upcycle classic": ["--recipe", "classic"],
    "timm + scikit-learn, guide": ["features_sklearn.py", "--setting", "guide"],
    "timm + scikit-learn, best": ["features_sklearn.py", "--setting", "best"],
}


def lay_out(asked: argparse.Namespace, folder: Path, seed: int) -> Path:
    """folder/SPLIT/CLASS with links to the images of the split that upcycle makes of DATA."""
    folder = folder / str(split_seed(asked, seed))
    if (folder / "peers").exists():
        return folder / "peers"
    folder.mkdir()
    run = folder / "split"
    words = ["train", str(asked.data), "--recipe", "probe", "--arch", "test_resnet", "--image-size", "16"]
    ran([sys.executable, "-m", "upcycle", *words, "--weights", str(tiny(folder)), *ours(asked, run, seed)], asked)
    root = asked.data.resolve()
    for row in read_splits(run / "splits.csv"):
        place = folder / "peers" / row.split / row.label
        place.mkdir(parents=True, exist_ok=True)
        (place / row.path.replace("/", "__")).symlink_to(root / row.path)
    return folder / "peers"


def split_seed(asked: argparse.Namespace, seed: int) -> int:
    """The seed that decides the split of a reading."""
    return seed if asked.split_by_seed else 0


def tiny(folder: Path) -> Path:
    """Weights of a network so small that the split costs nothing."""
    import timm
    from safetensors.torch import save_file

    file = folder / "tiny.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), file)
    return file


def ours(asked: argparse.Namespace, run: Path, seed: int) -> list[str]:
    """What every upcycle command of this benchmark has in common."""
    words = ["--seed", str(seed), "--split-seed", str(split_seed(asked, seed)), "--threads", str(asked.threads)]
    words += ["--test-split", asked.test_split] if asked.test_split else []
    return [*words, "--cache", str(run) + "-cache", "--out", str(run)]


def ran(command: list[str], asked: argparse.Namespace, **environment: str) -> tuple[str, float]:
    """What a command prints and its seconds; SystemExit with its last words where it fails.

    What it says on the way is in FOLDER/running.log, for who waits.
    """
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(asked.threads),
        "TOKENIZERS_PARALLELISM": "false",
        **environment,
    }
    log = asked.folder / "running.log"
    began = time.perf_counter()
    with log.open("w") as errors:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\nfailed:\n{log.read_text()[-2000:]}")
    log.unlink()
    return done.stdout, seconds


def upcycle(words: list[str], size: int, asked: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One run with an empty cache."""
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / "run"
        command = [sys.executable, "-m", "upcycle", "train", str(asked.data), *words, "--weights", str(asked.weights)]
        _, seconds = ran([*command, "--image-size", str(size), *ours(asked, run, seed)], asked)
        found = read_json(run / "evaluation.json")
        f1 = {split: found[split]["f1_macro"]["value"] for split in ("val", "test")}
        chosen = found.get("choice", {}).get("chosen")
        versions = read_json(run / "environment.json")["versions"]
        epochs = len(read_lines(run / "history.jsonl"))
        return {"seconds": seconds, "f1": f1, "kept": chosen, "epochs": epochs, "versions": versions}


def peer(
    words: list[str], size: int, asked: argparse.Namespace, seed: int, folder: Path, precision: str, *, kept: bool
) -> dict[str, Any]:
    """One run of a peer's script; freed memory is `kept` or given back."""
    python = asked.keras_python if words[0].startswith("keras") else asked.torch_python
    command = [python, str(PEERS / words[0]), str(folder), *words[1:], "--size", str(size)]
    command += ["--weights", str(asked.weights), "--seed", str(seed), "--threads", str(asked.threads)]
    command += ["--bf16"] if "best" in words and precision == "bf16" else []
    text, seconds = ran(command, asked, **(throughput.KEPT_MEMORY if kept else {}))
    return {**json.loads(text.splitlines()[-1]), "seconds": seconds}


def command(tool: str) -> tuple[list[str], int | None]:
    """The words of a tool's command and its own image size; SystemExit for a tool that is not known."""
    named, _, size = tool.partition(" @")
    pixels = int(size) if size else None
    if named in COMMANDS:
        return COMMANDS[named], pixels
    if found := re.fullmatch(r"fastai (\d+)(, best|, bf16)?", named):
        setting = ["--setting", "best" if found[2] else "guide", *(["--workers", "1"] if found[2] == ", bf16" else [])]
        return ["fastai_fine_tune.py", *setting, "--epochs", found[1]], pixels
    if found := re.fullmatch(r"Keras article (\d+)", named):
        return ["keras_article.py", "--epochs", found[1]], pixels
    if found := re.fullmatch(r"upcycle full (\d+)", named):
        return ["--recipe", "default", "--no-probe", "--freeze", "none", "--epochs", found[1]], pixels
    known = ", ".join([*COMMANDS, "upcycle full N", "fastai N", "fastai N, best", "fastai N, bf16", "Keras article N"])
    raise SystemExit(f"unknown tool {tool!r}: use {known}, each with @PIXELS or without")


def family(tool: str) -> str:
    """The tool whose settings are chosen between: each of upcycle's recipes is one of its own, at any image size."""
    plain = tool.split(" @")[0]
    return plain.rstrip(" 0123456789") if plain.startswith("upcycle") else plain.split(" ")[0]


def summary(readings: list[dict[str, Any]], tool: str) -> dict[str, Any]:
    """Means over the seeds of one tool, and the spread of its seconds."""
    some = [one for one in readings if one["tool"] == tool]
    seconds = [one["seconds"] for one in some]
    f1 = {split: statistics.mean(one["f1"][split] for one in some) for split in ("val", "test")}
    return {"tool": tool, "n": len(some), "f1": f1, "seconds": statistics.median(seconds), "of": seconds, "all": some}


def to_goal(some: list[dict[str, Any]], goal: float) -> str:
    """The time of a family's quickest setting that reaches the goal on validation, or what it came to."""
    reaching = [row for row in some if row["f1"]["val"] >= goal]
    row = min(reaching, key=lambda one: one["seconds"]) if reaching else max(some, key=lambda one: one["f1"]["val"])
    if row["f1"]["test"] < goal:
        return f"not reached: {row['f1']['test']:.4f} after {row['seconds']:.0f} s ({row['tool']})"
    return f"{row['seconds']:.0f} s ({row['tool']}, test F1 {row['f1']['test']:.4f})"


def tables(found: list[dict[str, Any]], goals: list[float]) -> str:
    """Markdown: every setting, the quickest first, then the time of every family to each goal."""
    lines = ["| setting | n | validation F1 | test F1 (each) | seconds (lowest to highest) |", "|---|---|---|---|---|"]
    for row in sorted(found, key=lambda row: row["seconds"]):
        tests, spread = f"{row['f1']['test']:.4f}", f"{row['seconds']:.0f}"
        if row["n"] > 1:
            each = [f"{one['f1']['test']:.4f}" for one in row["all"]]
            tests += f" ({', '.join(each)})"
            spread += f" ({min(row['of']):.0f} to {max(row['of']):.0f})"
        lines.append(f"| {row['tool']} | {row['n']} | {row['f1']['val']:.4f} | {tests} | {spread} |")
    families = list(dict.fromkeys(family(row["tool"]) for row in found))
    lines += ["", "| goal | " + " | ".join(families) + " |", "|---" * (1 + len(families)) + "|"]
    for goal in goals:
        cells = [to_goal([row for row in found if family(row["tool"]) == one], goal) for one in families]
        lines.append(f"| test F1 {goal:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def commit() -> str:
    """The commit of upcycle that these readings are of; "" outside a clone."""
    words = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()


def repeats(words: list[str], found: list[dict[str, Any]]) -> list[str]:
    """The command that makes all that was `found`, in however many commands that was."""
    said = {"--tools": ";".join(row["tool"] for row in found), "--seeds": str(max(row["n"] for row in found))}
    left = [word for at, word in enumerate(words) if word not in said and words[at - 1] not in said]
    return ["python", *left, *(shlex.quote(word) for pair in said.items() for word in pair)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--goals", default="0.97,0.985")
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--keras-python", default=sys.executable)
    parser.add_argument("--test-split")
    parser.add_argument("--split-by-seed", action="store_true")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--tools", default="upcycle probe;upcycle default;timm + scikit-learn, best;fastai 1")
    asked = parser.parse_args()
    machine = device.detect(threads=asked.threads, device="cpu")
    asked.threads = machine.threads
    asked.folder.mkdir(parents=True, exist_ok=True)
    tools = {tool: command(tool) for tool in asked.tools.split(";")}
    kept = asked.folder / "readings.jsonl"
    facts = {"data": str(asked.data.resolve()), "weights": str(asked.weights.resolve()), "split": asked.test_split}
    facts |= {"threads": asked.threads, "size": asked.size}
    facts |= {"splits": "by seed"} if asked.split_by_seed else {}
    here = {"processor": machine.processor, **throughput.processor_model(), "precision": machine.precision}
    readings = read_lines(kept) if kept.exists() else []
    for one in readings:
        if (one["of"], one.get("machine", here)) != (facts, here):
            held = {**one["of"], **one.get("machine", {})}
            raise SystemExit(f"{kept} holds readings of {held}, and these are of {facts | here}: use another FOLDER")
    with tempfile.TemporaryDirectory() as temporary:
        for seed in range(asked.seeds):
            folder = lay_out(asked, Path(temporary), seed)
            for tool, (words, own) in tools.items():
                size = own or asked.size
                if any((one["tool"], one["seed"]) == (tool, seed) for one in readings):
                    continue
                if tool.startswith("upcycle"):
                    made = upcycle(words, size, asked, seed)
                else:
                    made = peer(words, size, asked, seed, folder, machine.precision, kept=", best" in tool)
                now = time.strftime("%Y-%m-%d %H:%M:%S")
                known = {"ended": now, "commit": commit(), "machine": here, "of": facts}
                readings.append({**made, "tool": tool, "seed": seed, **known})
                with kept.open("a") as file:
                    file.write(json.dumps(readings[-1]) + "\n")
                print(f"{tool}, seed {seed}: test F1 {made['f1']['test']:.4f} in {made['seconds']:.0f} s", flush=True)
    found = [summary(readings, tool) for tool in dict.fromkeys(one["tool"] for one in readings)]
    where = f"{machine.processor}, {machine.threads} threads, {' '.join(machine.flags)}; {asked.size} px\n"
    goals = [float(goal) for goal in asked.goals.split(",")]
    text = f"    {' '.join(repeats(sys.argv, found))}\n\n{where}\n{tables(found, goals)}"
    (asked.folder / "time_to_accuracy.md").write_text(text)
    time_to_accuracy_figure.draw(readings, asked.folder)
    print(text)


if __name__ == "__main__":
    main()
