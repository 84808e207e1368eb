"""Trainings and predictions on a Ray cluster of two nodes with a processor each, beside the local commands.

    python lab/ray_many.py compare DATA FOLDER [TURNS]     # 4 runs; seconds, and what differs in comparison.json
    python lab/ray_many.py predict BUNDLE FILES FOLDER [TURNS]   # images/s and core, local and Ray in turn, medians

Prints CSV. Both nodes are this machine's, started before the clock; `local` has one process of 1 thread for `compare`,
of as many threads as there are nodes for `predict`.
"""

import contextlib
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NODES = 2


@contextlib.contextmanager
def two_nodes() -> Iterator[None]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    room = {"object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **room})
    try:
        for _ in range(NODES):
            cluster.add_node(num_cpus=1, **room)
        cluster.wait_for_nodes()
        os.environ["RAY_ADDRESS"] = cluster.address
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


def timed(*words: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "upcycle", *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def differences(one: Any, two: Any, at: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The places where two values of JSON differ."""
    if isinstance(one, dict) and isinstance(two, dict) and one.keys() == two.keys():
        for name in one:
            yield from differences(one[name], two[name], f"{at}.{name}" if at else name)
    elif isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        for number, (first, second) in enumerate(zip(one, two, strict=True)):
            yield from differences(first, second, f"{at}[{number}]")
    elif one != two:
        yield at, one, two


def compare(data: str, folder: Path, turns: int) -> Iterator[dict[str, Any]]:
    options = [
        "--variants",
        "constant,default",
        "--seeds",
        "2",
        "--epochs",
        "3",
        "--image-size",
        "96",
        "--threads",
        "1",
    ]
    options += ["--arch", "tf_efficientnet_lite0"]
    for turn in range(turns):
        for where, more in (("local", []), ("ray", ["--on", "ray"])):
            out = folder / f"{where}-{turn}"
            cache = ["--cache", str(folder / f"cache-{where}-{turn}")]
            seconds = timed("compare", data, *options, *cache, "--out", str(out), *more)
            yield {"where": where, "turn": turn, "seconds": f"{seconds:.1f}", "place": "", "local": "", "ray": ""}
    one, two = (json.loads((folder / f"{where}-0" / "comparison.json").read_text()) for where in ("local", "ray"))
    for place, first, second in differences(one, two):
        yield {"where": "both", "turn": 0, "seconds": "", "place": place, "local": str(first), "ray": str(second)}


def predict(bundle: str, listed: str, folder: Path, turns: int) -> Iterator[dict[str, Any]]:
    files = sum(1 for line in Path(listed).read_text().splitlines() if line)
    rates: dict[str, list[float]] = {"local": [], "ray": []}
    places = {"local": ["--threads", str(NODES)], "ray": ["--threads", "1", "--on", "ray"]}
    for turn in range(turns):
        for where, more in places.items():
            out = folder / f"{where}-{turn}.parquet"
            seconds = timed("predict", bundle, "--list", listed, "--out", str(out), *more)
            rates[where].append(files / seconds / NODES)
            yield {"where": where, "turn": turn, "files": files, "seconds": f"{seconds:.1f}", "rate": rates[where][-1]}
    for where, found in rates.items():
        yield {"where": where, "turn": "median", "files": files, "seconds": "", "rate": statistics.median(found)}


def main(what: str, *words: str) -> None:
    job = {"compare": lambda: compare(words[0], Path(words[1]), int((*words, "2")[2]))}
    job["predict"] = lambda: predict(words[0], words[1], Path(words[2]), int((*words, "3")[3]))
    with two_nodes():
        writer = None
        for row in job[what]():
            if writer is None:
                writer = csv.DictWriter(sys.stdout, list(row))
                writer.writeheader()
            writer.writerow(row)
            sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
