"""Formats of image files: those that are read, by their endings and first bytes, and what other files are."""

import functools
import importlib
import re
from typing import Any, NamedTuple

from upcycle.errors import DecodeError


class Format(NamedTuple):
    """`name`: four letters at most, as an index has it; `pillow`: Pillow's names; `plugin`: imported when it is met."""

    name: str
    endings: tuple[str, ...]
    pillow: tuple[str, ...]
    beginning: "re.Pattern[bytes]"
    plugin: str = ""


_BOX = rb"(?s:....)ftyp"
FORMATS = (
    Format("JPEG", (".jpg", ".jpeg", ".jpe", ".jif", ".jfif"), ("JPEG",), re.compile(rb"\xff\xd8\xff")),
    Format("PNG", (".png",), ("PNG",), re.compile(rb"\x89PNG")),
    Format("WEBP", (".webp",), ("WEBP",), re.compile(rb"(?s:RIFF....WEBP)")),
    Format("BMP", (".bmp", ".dib"), ("BMP", "DIB"), re.compile(rb"(?s:BM....\0\0\0\0)")),
    Format("TIFF", (".tif", ".tiff"), ("TIFF",), re.compile(rb"II\*\0|MM\0\*")),
    Format("GIF", (".gif",), ("GIF",), re.compile(rb"GIF8")),
    Format("AVIF", (".avif",), ("AVIF",), re.compile(_BOX + rb"(avif|avis|mif1|msf1)"), "PIL.AvifImagePlugin"),
    Format(
        "JP2",
        (".jp2", ".j2k", ".jpx", ".jpf", ".jpc", ".j2c"),
        ("JPEG2000",),
        re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
        "PIL.Jpeg2KImagePlugin",
    ),
    Format(
        "PNM", (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"), ("PPM",), re.compile(rb"P[1-6f]\s+[#\d]"), "PIL.PpmImagePlugin"
    ),
    Format("HEIC", (".heic", ".heif"), ("HEIF",), re.compile(_BOX + rb"(hei[cxms]|hev[cx]|mif1|msf1)"), "pillow_heif"),
)
ENDINGS = tuple(ending for format in FORMATS for ending in format.endings)
_SUPPORTED = "JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF, JPEG 2000, PNM or HEIC"
_NAMES = {name: format.name for format in FORMATS for name in format.pillow} | {"MPO": "JPEG"}
"""By Pillow's names; an MPO is a JPEG that holds several images."""


def of_pillow(name: str | None) -> str:
    """Our name of a format that Pillow calls `name`."""
    return _NAMES.get(str(name), str(name))


def begins(data: bytes) -> list[Format]:
    """The formats that a file with these first bytes may be of."""
    return [format for format in FORMATS if format.beginning.match(data)]


def openers(data: bytes) -> tuple[str, ...]:
    """Pillow's names of the formats that `data` may be of, their plugins loaded."""
    names = [name for format in FORMATS if not format.plugin for name in format.pillow]
    for format in begins(data):
        if format.plugin and _load(format.plugin):
            names += format.pillow
    return tuple(names)


@functools.cache
def _load(plugin: str) -> bool:
    """Whether a plugin is there: that of HEIC is an extra. One thread decodes, as others decode other files."""
    try:
        module: Any = importlib.import_module(plugin)
    except ImportError:
        return False
    if plugin == "PIL.AvifImagePlugin":
        module.DEFAULT_MAX_THREADS = 1
    elif plugin == "pillow_heif":
        module.options.DECODE_THREADS = 1
        module.options.THUMBNAILS = False
        module.register_heif_opener()
    return True


_CONVERT, _UNPACK, _FRAMES = "convert it to JPEG or PNG", "unpack it", "extract frames first"
_MARKUP = rb"(?is)(\xef\xbb\xbf)?\s*((<\?xml|<!--).*)?"
_OTHERS = tuple(
    (re.compile(pattern), kind, advice)
    for pattern, kind, advice in (
        (rb"(?s:....)(ftypqt  |moov|mdat|wide)", "a QuickTime film", _FRAMES),
        (_BOX + rb"(mp4|iso|avc1|M4V|m4v|3gp|3g2|dash|MSNV)", "an MP4 film", _FRAMES),
        (rb"\x1aE\xdf\xa3", "a Matroska or WebM film", _FRAMES),
        (_BOX + rb"crx ", "a CR3 raw image", _CONVERT),
        (rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image", _CONVERT),
        (rb"8BPS", "a Photoshop image", _CONVERT),
        (rb"v/1\x01", "an OpenEXR image", _CONVERT),
        (_MARKUP + rb"<(!doctype )?svg", "an SVG image", _CONVERT),
        (_MARKUP + rb"<(!doctype html|html|head|body)", "an HTML page", "fetch the image itself"),
        (rb"version https://git-lfs", "a Git LFS pointer", "fetch the file itself with git lfs pull"),
        (rb"%PDF-", "a PDF document", "extract its images"),
        (rb"PK(\x03\x04|\x05\x06)", "a ZIP archive", _UNPACK),
        (rb"\x1f\x8b", "a gzip archive", _UNPACK),
        (rb"\x93NUMPY", "a NumPy array", "store it as PNG"),
        (rb"\x89HDF\r\n\x1a\n", "an HDF5 file", "store its images as PNG"),
        (rb"(?s:.{128})DICM", "a DICOM image", "store it as PNG"),
    )
)
"""First bytes of files that people take for images, what they are, and what to do."""


def unidentified(data: bytes) -> DecodeError:
    """Why Pillow does not know what `data` is."""
    possible = begins(data)
    if any(format.name == "HEIC" for format in possible) and b"avif" not in data[:64] and not _load("pillow_heif"):
        return DecodeError("a HEIC image: install what reads it with pip install 'upcycle[heif]'", "unsupported")
    if possible:
        return DecodeError("its header cannot be read: damaged, cut short or of an unknown kind")
    for pattern, kind, advice in _OTHERS:
        if pattern.match(data[:1024]):
            return DecodeError(f"{kind}, which is not supported: {advice}", "unsupported")
    return DecodeError(f"not a {_SUPPORTED} image")
