"""What every page shares: escaped templates, figures as elements of the page, thumbnails as data.

A page holds its style, figures and thumbnails itself, runs no script and asks for nothing: it can be mailed. Names of
files and classes are anyone's, so every value is escaped where it is written and the page's own policy forbids
scripts and remote content.
"""

import base64
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from upcycle.reporting import names
from upcycle.reporting.curves import phase_name
from upcycle.reporting.names import printable
from upcycle.reporting.style import PALETTE, Drawing, save, svg

LARGEST_THUMBNAIL = 128 * 1024
"""Bytes; what is larger is no thumbnail, and would make the page heavy."""
_TEMPLATES = Path(__file__).parent / "templates"
_SHA256 = re.compile(r"[0-9a-f]{64}")


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
        "three": names.three,
        "percent": names.percent,
        "clock": names.clock,
        "cost": names.cost,
        "sentence": names.sentence,
        "rate": names.rate_text,
        "counted": names.counted,
        "short": names.short,
        "phase": phase_name,
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


# ----------------------------------------------------------------------------------------- settings


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


# ------------------------------------------------------------------------------------------ figures


@dataclass(frozen=True)
class Inline:
    """A figure as an element of a page, and its own width in inches."""

    element: Markup
    inches: float


def save_figures(figures: Mapping[str, Drawing], folder: Path) -> None:
    """Write every figure into `folder` as NAME.svg and NAME.png; StorageError when that fails."""
    for name, figure in figures.items():
        save(figure, folder / name)


def inlined(figures: Mapping[str, Drawing]) -> dict[str, Inline]:
    """Each figure as an element that scales with the page and takes its colors and font."""
    return {name: Inline(_inline(figure, name), round(figure.get_figwidth(), 2)) for name, figure in figures.items()}


def _inline(figure: Drawing, prefix: str) -> Markup:
    """The figure's SVG with ids of its own, the style sheet's colors, and without namespaces."""
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
