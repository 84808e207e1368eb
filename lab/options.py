"""Prints src/upcycle/options.py, the typed keyword arguments, as `Config` has them.

python lab/options.py > src/upcycle/options.py
"""

import types
import typing

from upcycle.config import PATHS, Config

HEAD = '''"""Keyword arguments of `train`, `compare`, `scan` and `plan`, typed. Made by lab/options.py from `Config`.

`schedule`, `loss` and `augment` are arguments of their own, as Python passes values and functions for them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypedDict


class TrainOptions(TypedDict, total=False):
    """Options by name; `upcycle train --help` says what each means."""
'''
APART = ("schedule", "loss", "augment")
WIDER = {
    "moms": "Sequence[float]",
    "class_weights": "str | Sequence[float] | Mapping[str, float]",
    "classes_at": "int | None",
} | dict.fromkeys(PATHS, "str | Path")
"""Where Python takes more than the command line."""


def written(annotation: object) -> str:
    """A type as source."""
    if typing.get_origin(annotation) is typing.Literal:
        values = ", ".join(f'"{value}"' for value in typing.get_args(annotation))
        return f"Literal[{values}]"
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return " | ".join(written(part) for part in typing.get_args(annotation))
    return "None" if annotation is type(None) else annotation.__name__  # type: ignore[attr-defined]


def source() -> str:
    """The module's text."""
    lines = [HEAD]
    for name, field in Config.model_fields.items():
        if name not in APART:
            wide = WIDER.get(name, written(field.annotation))
            none = " | None" if field.default is None and "None" not in wide else ""
            lines.append(f"    {name}: {wide}{none}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(source(), end="")
