"""Pages as a browser would find them, and pictures to put into them."""

import io
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from upcycle.reporting.style import svg

SVG = "{http://www.w3.org/2000/svg}"


def words(figure: Figure) -> list[str]:
    """Every text of the figure, as its SVG has it."""
    return ["".join(node.itertext()) for node in ET.fromstring(svg(figure)).iter(f"{SVG}text")]


def picture(seed: int, side: int = 160) -> bytes:
    """A thumbnail-sized JPEG: smooth blobs, another one for every seed."""
    small = np.random.default_rng(seed).integers(30, 230, (5, 5, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


class Page(HTMLParser):
    """What a browser would find in the page: elements, attributes, visible text."""

    VOID = frozenset({"meta", "link", "img", "br", "wbr", "hr", "input"})

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.pieces: list[str] = []
        self.styles: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in {"wbr", "b", "bdi", "span", "i"}:
            self.pieces.append(" ")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        (self.styles if "style" in self.open else self.pieces).append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.pieces).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def values(self, *names: str) -> list[str]:
        return [value for _, found in self.elements for name, value in found.items() if name in names]
