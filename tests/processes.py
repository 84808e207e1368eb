"""Commands that run in several processes together, as torchrun starts them."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUN = "from upcycle.cli import run; import sys; sys.exit(run())"


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def several(
    size: int,
    words: Sequence[object],
    *,
    code: Mapping[int, str] | None = None,
    environment: Mapping[int, Mapping[str, str]] | None = None,
    timeout: float = 120,
) -> list[subprocess.CompletedProcess[str]]:
    """The same command in so many processes on this machine, each of one thread; what each has said.

    `code`: by rank, what is run before the command; `environment`: the same of variables.
    """
    port, running = free_port(), []
    for rank in range(size):
        place = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size}
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        given = {name: str(value) for name, value in {**place, **meeting, "OMP_NUM_THREADS": 1}.items()}
        script = f"{(code or {}).get(rank, '')}\n{RUN}"
        running.append(
            subprocess.Popen(
                [sys.executable, "-c", script, *map(str, words)],
                env={**os.environ, **given, **(environment or {}).get(rank, {})},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        said = [process.communicate(timeout=timeout) for process in running]
    finally:
        for process in running:
            process.kill()
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *texts)
        for process, texts in zip(running, said, strict=True)
    ]


def scripts(script: str, size: int, *words: str, codes: Sequence[int] = ()) -> list[str]:
    """What each of so many processes that run `script` prints."""
    port, running = free_port(), []
    for rank in range(size):
        place = {"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        given = {name: str(value) for name, value in {**place, "OMP_NUM_THREADS": 1}.items()}
        command = [sys.executable, "-c", script, *words]
        running.append(
            subprocess.Popen(command, cwd=ROOT, env={**os.environ, **given}, stdout=subprocess.PIPE, text=True)
        )
    said = [process.communicate(timeout=120)[0] for process in running]
    assert list(codes or [0] * size) == [process.returncode for process in running]
    return said


def torchrun(size: int, *options: str) -> list[str]:
    """The words that start a command in so many processes on this machine."""
    starts = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={size}", f"--master-port={free_port()}"]
    return [*starts, *options, "-m", "upcycle"]


def results(run: Path) -> dict[str, bytes]:
    """The files of a run that hold its results, and neither clock values nor its own place."""
    kept = ("history.jsonl", "plan.json", "splits.csv", "evaluation.json", "novelty.safetensors")
    files = [run / name for name in kept] + sorted(run.glob("predictions/*.csv")) + sorted(run.glob("checkpoints/*.s*"))
    return {str(file.relative_to(run)): file.read_bytes() for file in files if file.exists()}
