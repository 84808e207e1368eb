"""How long until something happens: --help, imports, and a warm run's first update above torch's own import.

    python lab/startup.py DATA --weights FILE [--out FOLDER] [--rounds 5] [--recipes classic,default]

Each reading is a new process; the kinds of process alternate, round by round. "To the first update" ends when an
optimizer's first step has been made, with decoded images and features in the cache from a run before (not counted);
"to its beginning", for a recipe that begins with the whole network, when the first batch enters that.
"above torch" is its difference to `python -c "import torch"` in the same round. "probe, after its last line" is the
time between the last line of a whole command and the end of its process, and "as Python ends" the same where the
interpreter takes its modules apart.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PYTHON = sys.executable
UNTIL_STEP = """
import os, sys
from torch.optim.optimizer import register_optimizer_step_post_hook
register_optimizer_step_post_hook(lambda *_: os._exit(0))
from upcycle.cli import main
sys.exit(main(sys.argv[1:]) or 9)
"""
UNTIL_BATCH = """
import os, sys
import upcycle.cli, torch
from torch.nn.modules.module import register_module_forward_pre_hook
register_module_forward_pre_hook(lambda module, _: os._exit(0) if module.training and torch.is_grad_enabled() else None)
sys.exit(upcycle.cli.main(sys.argv[1:]) or 9)
"""
AS_PYTHON_ENDS = "import sys, upcycle.cli; sys.exit(upcycle.cli.main(sys.argv[1:]))"
BARE = "import timm, torch; p = torch.nn.Parameter(torch.ones(1)); p.grad = p.data; torch.optim.AdamW([p]).step()"
"""What any program pays that trains a timm model."""


def seconds(command: list[str]) -> float:
    """Of one new process; CalledProcessError where it fails or never gets there."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def to_its_end(command: list[str]) -> float:
    """Seconds from the last line of a new process to its end; CalledProcessError where it fails."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        spoke, lines = time.perf_counter(), []
        while line := process.stdout.readline():
            spoke = time.perf_counter()
            lines.append(line)
        code = process.wait()
        taken = time.perf_counter() - spoke
    if code:
        sys.stderr.buffer.write(b"".join(lines))
        raise subprocess.CalledProcessError(code, command)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--recipes", default="classic,default")
    parser.add_argument("--image-size", default="224")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        common = ["--weights", asked.weights, "--cache", f"{temporary}/cache", "--image-size", asked.image_size]
        kinds = {
            "python": [PYTHON, "-c", ""],
            "import torch": [PYTHON, "-c", "import torch"],
            "timm, one optimizer step": [PYTHON, "-c", BARE],
            "import upcycle": [PYTHON, "-c", "import upcycle"],
            "upcycle --help": [PYTHON, "-m", "upcycle", "--help"],
        }
        for recipe in asked.recipes.split(","):
            run = ["train", str(asked.data), "--recipe", recipe, "--out", f"{temporary}/{recipe}", *common]
            kinds[f"{recipe}, to the first update"] = [PYTHON, "-c", UNTIL_STEP, *run]
            if recipe == "classic":
                kinds[f"{recipe}, to its beginning"] = [PYTHON, "-c", UNTIL_BATCH, *run]
        run = ["train", str(asked.data), "--recipe", "probe", "--out", f"{temporary}/probe", *common]
        endings = {
            "probe, after its last line": [PYTHON, "-m", "upcycle", *run],
            "the same, as Python ends": [PYTHON, "-c", AS_PYTHON_ENDS, *run],
        }
        kinds |= endings
        readings: dict[str, list[float]] = {name: [] for name in kinds}
        for i in range(asked.rounds + 1):
            for name, command in kinds.items():
                for recipe in ("probe", *asked.recipes.split(",")):
                    shutil.rmtree(f"{temporary}/{recipe}", ignore_errors=True)
                taken = to_its_end(command) if name in endings else seconds(command)
                if i:  # the first round fills the caches
                    readings[name].append(taken)
    found: dict[str, Any] = {}
    for name, values in readings.items():
        found[name] = {"median_s": statistics.median(values), "readings_s": values}
        text = f"{name:32} {found[name]['median_s']:6.2f} s"
        if name not in endings:
            above = [value - torch for value, torch in zip(values, readings["import torch"], strict=True)]
            found[name]["above_torch_s"] = statistics.median(above)
            text += f"  above torch {found[name]['above_torch_s']:+6.2f} s"
        print(text)
    if asked.out:
        asked.out.mkdir(parents=True, exist_ok=True)
        (asked.out / "startup.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
