"""What every page shares: escaped templates, figures as elements of the page, thumbnails as data.

A page holds its style, figures and thumbnails itself, runs no script and asks for nothing: it can
be mailed. Names of files and classes are anyone's, so every value is escaped where it is written
and the page's own policy forbids scripts and remote content.
"""

import base64
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from upcycle.reporting import drawing, page, plots
from upcycle.reporting.drawing import NARROW, PALETTE, Drawing, svg
from upcycle.reporting.names import cost, counted, printable, short

LARGEST_THUMBNAIL = 128 * 1024
"""Bytes; what is larger is no thumbnail, and would make the page heavy."""
_TEMPLATES = Path(__file__).parent / "templates"
_SHA256 = re.compile(r"[0-9a-f]{64}")

Values = dict[str, Any]
Draw = Callable[[float | None], Drawing]
"""Draws a figure at a width in inches, or at its own."""


def render(template: str, **values: Any) -> str:
    """A page from the template of that name: every text in `values` is escaped and made printable."""
    style = Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8"))
    return _environment().get_template(template).render(style=style, **values)


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
        "three": page.three,
        "percent": page.percent,
        "clock": page.clock,
        "from_home": page.from_home,
        "cost": cost,
        "sentence": page.sentence,
        "rate": plots.rate_text,
        "phase": plots.phase_name,
        "counted": counted,
        "breakable": _breakable,
        "short": short,
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


# ------------------------------------------------------------------------------------------ figures


def drawn(figure: Callable[..., Drawing], data: Any) -> Draw:
    """What draws `figure` of `data` at any width."""
    return lambda width: figure(data) if width is None else figure(data, width=width)


def save(drawings: Mapping[str, Draw], folder: Path) -> None:
    """Write every figure into `folder` as NAME.svg and NAME.png; StorageError when that fails."""
    for name, draw in drawings.items():
        drawing.save(draw(None), folder / name)


def figures(drawings: Mapping[str, Draw]) -> dict[str, Values]:
    """Each figure in the page's own width and, where it differs, a phone's."""
    return {name: _figure(name, draw) for name, draw in drawings.items()}


def _figure(name: str, draw: Draw) -> Values:
    wide = draw(None)
    inches = float(wide.get_figwidth())
    # a large matrix cannot be made narrow: it scrolls
    narrow = draw(NARROW) if inches > NARROW else None
    if narrow is not None and narrow.get_figwidth() > NARROW + 0.01:
        narrow = None
    return {
        "wide": _inline(wide, name),
        "narrow": None if narrow is None else _inline(narrow, f"{name}-narrow"),
        "inches": round(inches, 2),
        "scrolls": narrow is None and inches > NARROW,
    }


def _inline(figure: Drawing, prefix: str) -> Markup:
    """The figure as an element of the page: its own ids, the page's colours and font, no namespaces."""
    root = ET.fromstring(svg(figure))
    for parent in list(root.iter()):
        parent.tag = parent.tag.rpartition("}")[2]
        for child in [child for child in parent if child.tag.rpartition("}")[2] in {"metadata", "style", "title"}]:
            parent.remove(child)
        attributes = {name.rpartition("}")[2]: value for name, value in parent.attrib.items()}
        parent.attrib.clear()
        parent.attrib.update({name: _adapted(name, value, prefix) for name, value in attributes.items()})
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib.update({"role": "img", "aria-label": printable(figure.summary)})
    return Markup(ET.tostring(root, encoding="unicode", short_empty_elements=False))


def _adapted(name: str, value: str, prefix: str) -> str:
    """One attribute with the page's colours for the palette's, and ids that no other figure has."""
    if name == "id":
        return f"{prefix}-{value}"
    if name == "href":
        return value.replace("#", f"#{prefix}-", 1)
    if name == "clip-path":
        return value.replace("url(#", f"url(#{prefix}-")
    for colour, code in PALETTE.items():
        value = value.replace(code, f"var(--{colour})") if name == "style" else value
    return value


# --------------------------------------------------------------------------------------- thumbnails


def thumbnail(folders: Sequence[Path], sha256: str) -> str | None:
    """A thumbnail as a data address, from the first folder that has it; None where the name is no content hash."""
    files = [folder / f"{sha256}.jpg" for folder in folders if _SHA256.fullmatch(sha256)]
    for file in files:
        # a link in somebody's run directory could name any file, and pages are mailed
        if file.is_file() and not file.is_symlink() and file.stat().st_size <= LARGEST_THUMBNAIL:
            return address(file.read_bytes())
    return None


def address(jpeg: bytes) -> str:
    """A JPEG as an address that holds it."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"
