"""What tests on a Ray cluster share: killing a node, and comparisons without their clock values."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from upcycle.reporting.progress import Silent

CLOCKS = ("seconds", "tuning_seconds", "minutes", "created", "command", "path")
"""Values of comparison.json that tell of clocks, and of its own place."""


class Listening(Silent):
    """Keeps the lines that are told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.lines.append(f"warning: {text}")


@contextlib.contextmanager
def killing(nodes: tuple[Any, list[Any]], when: Callable[[], bool]) -> Iterator[list[float]]:
    """Kill one of the nodes as soon as `when` holds; when that was."""
    killed: list[float] = []
    over = threading.Event()

    def wait() -> None:
        while not over.is_set():
            if when():
                nodes[0].remove_node(nodes[1][0], allow_graceful=False)
                killed.append(time.time())
                return
            time.sleep(0.02)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join(30)


def plain(value: Any, *, without: Path) -> Any:
    """A comparison without clock values and its own place."""
    if isinstance(value, dict):
        return {name: plain(one, without=without) for name, one in value.items() if name not in CLOCKS}
    if isinstance(value, list):
        return [plain(one, without=without) for one in value]
    return value.replace(str(without), "OUT") if isinstance(value, str) else value
