"""An index of made-up images, for tests that need no files."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa

from upcycle.data.index import Index


def made(
    labels: str,
    *,
    contents: list[int] | None = None,
    groups: list[str] | None = None,
    declared: list[str] | None = None,
) -> Index:
    """An index of one image a letter; equal `contents` mean equal bytes."""
    n = len(labels)
    classes = tuple(sorted(set(labels)))
    ids = range(n) if contents is None else contents
    return Index(
        root=Path("data"),
        classes=classes,
        paths=pa.array([f"{label}/{i:04}.jpg" for i, label in enumerate(labels)], pa.string()),
        labels=np.array([classes.index(label) for label in labels], np.int32),
        declared=np.array([""] * n if declared is None else declared, "U5"),
        groups=pa.array([""] * n if groups is None else groups, pa.string()),
        hashes=np.array([hashlib.sha256(str(i).encode()).hexdigest() for i in ids], "S64"),
        widths=np.full(n, 64, np.int32),
        heights=np.full(n, 64, np.int32),
        formats=np.full(n, b"JPEG"),
    )
