"""What pages and notebooks share: escaped templates, figures as elements of the page, thumbnails as data.

A page holds its style, figures and thumbnails itself, runs no script and asks for nothing: it can be mailed. Names of
files and classes are anyone's, so every value is escaped where it is written and the page's own policy forbids
scripts and remote content.
"""

import base64
import functools
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from upcycle.audit.findings import Audit
from upcycle.errors import counted
from upcycle.evaluation.results import RunEvaluation
from upcycle.history import History
from upcycle.reporting.figures import curves_figure
from upcycle.reporting.style import PALETTE, svg
from upcycle.reporting.text import (
    Cut,
    clock,
    cut,
    loss_text,
    metric_texts,
    percent,
    printable,
    rate_text,
    sentence,
    short,
    three,
)

CLASSES = 50
"""Classes that a table shows."""
LARGEST_THUMBNAIL = 128 * 1024
"""Bytes; what is larger is no thumbnail, and would make the page heavy."""
_TEMPLATES = Path(__file__).parent / "templates"
_SHA256 = re.compile(r"[0-9a-f]{64}")


def render(template: str, **values: Any) -> str:
    """A page from the template of that name: every text in `values` is escaped and made printable."""
    style = Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8"))
    return _environment().get_template(template).render(style=style, **values)


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "three": three,
        "percent": percent,
        "clock": clock,
        "cost": loss_text,
        "sentence": sentence,
        "rate": rate_text,
        "counted": counted,
        "short": short,
        "from_home": from_home,
        "breakable": _breakable,
    }
    return environment


def _finalize(value: Any) -> Any:
    """Make every text that is written into the page printable; markup of ours stays as it is."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _breakable(path: str) -> Markup:
    """A path that may be broken after each of its parts rather than inside a word."""
    folders = re.split(r"(?<=/)", printable(path))  # each by itself: names that run from right to left change no order
    broken = (Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[_.-])", name)) for name in folders)
    return Markup("<wbr>").join(Markup("<bdi>{}</bdi>").format(name) for name in broken if name)


def command(text: str | None) -> Markup | None:
    """A command to be copied: a line break inside quotes is part of it."""
    return escape(printable(text, keep="\n\t")) if text else None


# ------------------------------------------------------------------------------- tiles and settings


@dataclass(frozen=True)
class Strip:
    """Where an interval and its value lie between `floor` and 1, in percent."""

    floor: str
    left: float
    width: float
    dot: float


@dataclass(frozen=True)
class Tile:
    """A headline number."""

    name: str
    value: str
    note: str
    strip: Strip | None = None


def settings(values: Mapping[str, object]) -> list[tuple[str, str]]:
    """Settings as names and texts, nested ones under both names, long texts cut at 300 characters."""
    rows = []
    for name, value in values.items():
        if isinstance(value, dict):
            rows += [(f"{name} {inner}", text) for inner, text in settings(value)]
        elif value not in (None, "", []):
            rows.append((name, setting(value)))
    return rows


def setting(value: object) -> str:
    """A setting as text: yes and no, numbers without needless digits."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    text = ", ".join(map(setting, value)) if isinstance(value, list) else from_home(str(value))
    return text if len(text) <= 300 else f"{text[:300]}… ({len(text) - 300:,} characters more)"


def from_home(path: str) -> str:
    """A path below the home of whoever makes the page, from there: pages are mailed."""
    try:
        home = str(Path.home())
    except RuntimeError:  # nobody's
        return path
    return f"~{path[len(home) :]}" if path.startswith(f"{home}/") and len(home) > 1 else path


# ------------------------------------------------------------------------------------------- splits


@dataclass(frozen=True)
class SplitTable:
    """Images of each class in each split: (class, images by split, all images) per row, and the sums."""

    splits: Sequence[str]
    rows: Cut[tuple[str, Sequence[int], int]]
    totals: Sequence[int]
    total: int
    largest: int


def split_table(audit: Audit) -> SplitTable:
    """Images of each class in each split; of more than 50 classes the largest."""
    empty = {"test"} if audit.without_test else set()
    names = [name for name in ("train", "val", "test") if name in audit.splits and name not in empty]
    classes = list(audit.classes.items())
    if len(classes) > CLASSES:
        classes.sort(key=lambda item: -item[1])
    rows = [(label, [audit.splits[name].get(label, 0) for name in names], images) for label, images in classes]
    totals = [sum(audit.splits[name].values()) for name in names]
    return SplitTable(names, cut(rows, CLASSES), totals, audit.images, max((total for _, _, total in rows), default=1))


# ------------------------------------------------------------------------------------------ figures


@dataclass(frozen=True)
class Inline:
    """A figure as an element of a page, and its own width in inches."""

    element: Markup
    inches: float


def inlined(documents: Mapping[str, str]) -> dict[str, Inline]:
    """Each SVG document as an element that scales with the page and takes its colors and font."""
    return {name: _inline(document, name) for name, document in documents.items()}


def _inline(document: str, prefix: str) -> Inline:
    """A figure's SVG with ids of its own, the style sheet's colors, and without namespaces."""
    root = ET.fromstring(document)
    summary, points = root.findtext("{*}title", ""), float(root.attrib["width"].removesuffix("pt"))
    for parent in list(root.iter()):
        parent.tag = parent.tag.rpartition("}")[2]
        for child in [child for child in parent if child.tag.rpartition("}")[2] in {"metadata", "style", "title"}]:
            parent.remove(child)
        attributes = {name.rpartition("}")[2]: value for name, value in parent.attrib.items()}
        parent.attrib.clear()
        parent.attrib.update({name: _adapted(name, value, prefix) for name, value in attributes.items()})
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib.update({"role": "img", "aria-label": printable(summary)})
    return Inline(Markup(ET.tostring(root, encoding="unicode", short_empty_elements=False)), round(points / 72, 2))


def _adapted(name: str, value: str, prefix: str) -> str:
    """One attribute with the page's colors for the palette's, and ids that no other figure has."""
    if name == "id":
        return f"{prefix}-{value}"
    if name == "href":
        return value.replace("#", f"#{prefix}-", 1)
    if name == "clip-path":
        return value.replace("url(#", f"url(#{prefix}-")
    for color, code in PALETTE.items():
        value = value.replace(code, f"var(--{color})") if name == "style" else value
    return value


# --------------------------------------------------------------------------------------- thumbnails


def thumbnail_address(folders: Sequence[Path], sha256: str) -> str | None:
    """A thumbnail as a data address, from the first folder that has it; None where the name is no content hash."""
    files = [folder / f"{sha256}.jpg" for folder in folders if _SHA256.fullmatch(sha256)]
    for file in files:
        # a link in somebody's run directory could name any file, and pages are mailed
        if file.is_file() and not file.is_symlink() and file.stat().st_size <= LARGEST_THUMBNAIL:
            return jpeg_address(file.read_bytes())
    return None


def jpeg_address(jpeg: bytes) -> str:
    """A JPEG as an address that holds it."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"


# ------------------------------------------------------------------------------------- in a notebook

# a notebook's own colors, in the dark too, wherever they are not part of the figure
_OF_THE_NOTEBOOK = {
    "paper": "transparent",
    "ink": "currentColor",
    "soft": "currentColor",
    "rule": "rgb(128 128 128 / .35)",
}
_STYLE = ";".join(f"--{name}:{color}" for name, color in (PALETTE | _OF_THE_NOTEBOOK).items())


def _fragment(kind: str, **values: Any) -> str:
    made = getattr(_environment().get_template("fragments.html").module, kind)(**values)
    return f'<div style="max-width:50rem;{_STYLE}">{made}</div>'


def run_fragment(name: str, history: History, evaluation: RunEvaluation | None) -> str:
    """The learning curves of a run, and its test metrics with their intervals once they are there."""
    figure = inlined({"curves": svg(curves_figure(history))})["curves"].element if len(history) else None
    split = "test" if evaluation and evaluation.test else "val"
    scores = evaluation.named.get(split) if evaluation else None
    caption = counted(scores.n, {"test": "test image", "val": "validation image"}[split]) if scores else ""
    rows = [(label, value, f"{low} to {high}") for label, value, low, high in metric_texts(scores)] if scores else []
    return _fragment("run", name=name, figure=figure, caption=caption, rows=rows)


def prediction_fragment(probabilities: Mapping[str, float]) -> str:
    """One bar per class, the most probable five."""
    return _fragment("prediction", classes=cut(sorted(probabilities.items(), key=lambda item: -item[1]), 5))


def scan_fragment(audit: Audit) -> str:
    """The findings of a scan: what was found, its effect, and what to do."""
    return _fragment("scan", audit=audit)
