"""One table of several series of benchmarks/throughput.py on the same images, batch, size and threads.

    python benchmarks/throughput_together.py FOLDER

FOLDER/*.json are the throughput.json of the series; FOLDER/throughput.md is the table of all their readings.
"""

import sys
from pathlib import Path
from typing import Any

import throughput

from upcycle.rundir import read_json

FACTS = ("processor", "model", "gpu", "threads", "images", "batch", "size")


def together(series: list[dict[str, Any]]) -> dict[throughput.Cell, list[dict[str, Any]]]:
    """All readings of every cell; SystemExit where the series are not of one kind."""
    facts = [{name: one.get(name) for name in FACTS} for one in series]
    if any(one != facts[0] for one in facts):
        raise SystemExit(f"the series are not of one kind: {facts}")
    readings: dict[throughput.Cell, list[dict[str, Any]]] = {}
    for i, whole in enumerate(series):
        for row in whole["cells"]:
            cell = throughput.Cell(row["tool"], row["setting"], row["precision"], row["bn"])
            rounds = [{**one, "round": (i, one.get("round", at))} for at, one in enumerate(row["readings"])]
            readings.setdefault(cell, []).extend(rounds)
    return readings


def main() -> None:
    folder = Path(sys.argv[1])
    series = [read_json(file) for file in sorted(folder.glob("*.json"))]
    readings = together(series)
    table = throughput.table([throughput.summary(cell, some) for cell, some in readings.items()])
    facts = {name: series[0].get(name) for name in FACTS}
    (folder / "throughput.md").write_text(f"{len(series)} series, {facts}\n\n{table}")
    print(table)


if __name__ == "__main__":
    main()
