"""One table of several series of lab/throughput.py on the same images, batch, size and threads.

    python lab/throughput_together.py FOLDER

FOLDER/*.json are the throughput.json of the series; FOLDER/throughput.md is the table of all their readings.
"""

import json
import sys
from pathlib import Path
from typing import Any

import throughput

from upcycle.rundir import read_json

FACTS = ("processor", "model", "gpu", "threads", "images", "batch", "size")


def together(series: list[dict[str, Any]]) -> dict[throughput.Cell, list[dict[str, Any]]]:
    """All readings of every cell; SystemExit where the series are not of one kind, as far as they tell it."""
    facts = {name: {json.dumps(one[name]) for one in series if name in one} for name in FACTS}
    other = {name: sorted(values) for name, values in facts.items() if len(values) > 1}
    if other:
        raise SystemExit(f"the series are not of one kind: {other}")
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
    facts = {name: one[name] for name in FACTS for one in series if name in one}
    (folder / "throughput.md").write_text(f"{len(series)} series, {facts}\n\n{table}")
    print(table)


if __name__ == "__main__":
    main()
