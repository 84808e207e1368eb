"""Formats of image files: which are read, by which endings and first bytes they are known, and what others are."""

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
HEIC_EXTRA = "pip install 'upcycle[heif]'"
NAMES = "JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF, JPEG 2000, PNM or HEIC"
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


def unidentified(data: bytes) -> DecodeError:
    """Why Pillow does not know what `data` is."""
    kind, advice = _media(data) or _fixed(data) or _text(data) or ("", "")
    if kind == _HEIC_IMAGE and not _load("pillow_heif"):
        return DecodeError(f"a HEIC image: install what reads it with {HEIC_EXTRA}", "unsupported")
    if begins(data):
        return DecodeError("its header cannot be read: damaged, cut short or of an unknown kind")
    if kind:
        return DecodeError(f"{kind}, which is not supported: {advice}", "unsupported")
    return DecodeError(f"not a {NAMES} image")


# ------------------------------------------------------------------------------- what is not read

_CONVERT = "convert it to JPEG or PNG"
_HEIC_IMAGE = "a HEIC image"
_HEIC = ("heic", "heix", "hevc", "hevx", "heim", "heis", "mif1", "msf1", "heif")
_BRANDS = (
    (("avif", "avis"), "an AVIF image"),
    (_HEIC, _HEIC_IMAGE),
    (("crx ",), "a CR3 raw image"),
    (("qt  ",), "a QuickTime film"),
    (("mp4", "isom", "iso", "avc1", "M4V", "m4v", "3gp", "3g2", "dash", "MSNV"), "an MP4 film"),
)
"""Brands of ISO base media files (ISO 14496-12, `ftyp`), by how they begin."""
_FILM = "extract frames first"
_MAGIC = (
    (0, b"\xff\x0a", "a JPEG XL image", _CONVERT),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image", _CONVERT),
    (0, b"8BPS", "a Photoshop image", _CONVERT),
    (0, b"v/1\x01", "an OpenEXR image", _CONVERT),
    (0, b"%PDF-", "a PDF document", "extract its images"),
    (0, b"version https://git-lfs", "a Git LFS pointer", "fetch the file itself with git lfs pull"),
    (0, b"PK\x03\x04", "a ZIP archive", "unpack it"),
    (0, b"PK\x05\x06", "a ZIP archive", "unpack it"),
    (0, b"\x1f\x8b", "a gzip archive", "unpack it"),
    (0, b"\x93NUMPY", "a NumPy array", "store it as PNG"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file", "store its images as PNG"),
    (0, b"\x1aE\xdf\xa3", "a Matroska or WebM film", _FILM),
    (128, b"DICM", "a DICOM image", "store it as PNG"),
)
_TEXTS = (
    (("<!doctype html", "<html", "<head", "<body"), "an HTML page", "fetch the image itself"),
    (("<svg", "<!doctype svg"), "an SVG image", _CONVERT),
)


def _media(data: bytes) -> tuple[str, str] | None:
    if data[4:8] != b"ftyp":
        return ("a QuickTime film", _FILM) if data[4:8] in (b"moov", b"mdat", b"wide") else None
    size = min(int.from_bytes(data[:4], "big"), 256)
    brands = [data[at : at + 4].decode("latin-1") for at in (8, *range(16, size - 3, 4))]
    for beginnings, kind in _BRANDS:
        if any(brand.startswith(beginnings) for brand in brands):
            return kind, _CONVERT if kind.endswith("image") else _FILM
    return None


def _fixed(data: bytes) -> tuple[str, str] | None:
    return next(((kind, advice) for at, magic, kind, advice in _MAGIC if data[at : at + len(magic)] == magic), None)


def _text(data: bytes) -> tuple[str, str] | None:
    start = data[:1024].removeprefix(b"\xef\xbb\xbf").decode("latin-1").lstrip().lower()
    for beginnings, kind, advice in _TEXTS:
        declared = start.startswith(("<?xml", "<!--")) and any(word in start for word in beginnings)
        if start.startswith(beginnings) or declared:
            return kind, advice
    return None
