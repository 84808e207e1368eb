"""What an image file is: its format, by ending and first bytes, and its numbers as 8 bits.

Images of other numbers than 8 bits are converted where it is known what is black and what is white, and refused where
that is open.
"""

import functools
import importlib
import re
import sys
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

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


# ---------------------------------------------------------------------- numbers in 8 bits

_FULL = 65535
"""White of 16 bits."""
_DARK = (8, 10, 12, 14)
"""Bits of cameras whose values are often stored in 16."""
_SLACK = 1e-6
"""How far a float may be outside its range, as arithmetic leaves it."""
_BITS, _PHOTOMETRIC, _PLANAR, _FORMAT = 258, 262, 284, 339
_UNSIGNED, _SIGNED = 1, 2
_WHITE_IS_ZERO, _APART = 0, 2
# Pillow's rawmodes of big-endian numbers, and those of numbers in the machine's own order
_TURNED = {"F;32BF": "F;32NF", "I;32BS": "I;32NS", "I;16BS": "I;16NS"}

_Values = npt.NDArray[Any]


def bits_of(peak: float) -> int | None:
    """The depth of a camera that values up to `peak` look like, of those in `_DARK`; None for others and for none."""
    return next((bits for bits in _DARK if 0 < peak < 2**bits), None)


def _span(values: _Values) -> str:
    ends = (values.min(), values.max())
    low, high = (f"{float(value):.7g}" if values.dtype.kind == "f" else str(value) for value in ends)
    return f"from {low} to {high}"


def _bytes(values: _Values, white: float) -> npt.NDArray[np.uint8]:
    """Map 0..white to 0..255, rounded; what lies outside is clipped."""
    return np.rint(np.clip(values.astype(np.float64) / white, 0, 1) * 255).astype(np.uint8)


# ------------------------------------------------------------------------------------------ arrays


def of_array(values: _Values, scale: float | None, noun: str = "an array") -> npt.NDArray[np.uint8]:
    """An array in 8 bits: uint8 as it is, bool as 0 and 255, uint16 of 0 to 65535 and floats of 0 to 1, or to `scale`.

    DecodeError for other types, and for values that do not look as if they had this range.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255
    kind = f"{noun} of {values.dtype.name}"
    if values.dtype.kind == "f":
        _check_floats(values, scale, kind)
        _check_white(values, scale)
        return _bytes(values, scale or 1)
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        if scale is None:
            _check_words(values, kind)
        _check_white(values, scale)
        return _bytes(values, scale or _FULL)
    raise DecodeError(f"{kind} is no image: give uint8 of 0 to 255, uint16 of 0 to 65535, or float of 0 to 1")


def _check_floats(values: _Values, scale: float | None, kind: str) -> None:
    if not np.isfinite(values).all():
        raise DecodeError(f"{kind} holds values that are not finite: give values from 0 to {scale or 1:g}")
    low, high = float(values.min()), float(values.max())
    if low < -_SLACK:
        raise DecodeError(f"{kind} has values {_span(values)}, not 0 to {scale or 1:g}: bring them into that range")
    if scale is None and high > 1 + _SLACK:
        white = 255 if high <= 255 else _FULL
        raise DecodeError(f"{kind} has values {_span(values)}, not 0 to 1: divide by {white}, or by what is white")
    if scale is not None and scale > 1 and 0 < high <= 1:
        raise DecodeError(
            f"{kind} has values {_span(values)}, and white is {scale:g} in this run: multiply by {scale:g}"
        )


def _check_white(values: _Values, scale: float | None) -> None:
    """DecodeError for what would come out white by and large."""
    if scale is not None and (values > scale).mean() > 0.5:
        raise DecodeError(f"holds values {_span(values)}, most of them above {scale:g}, which is white by --scale")


def _check_words(values: _Values, kind: str) -> None:
    peak = int(values[..., :3].max() if values.ndim == 3 else values.max())
    if 0 < peak <= 255:
        raise DecodeError(f"{kind} has values {_span(values)}, which looks like 8 bits in 16: give it as uint8")
    if 0 < peak <= 4095:
        raise DecodeError(
            f"{kind} has values {_span(values)}: 12 bits in 16? Multiply them so that white is 65535, "
            "or train with --scale 4095"
        )


# ------------------------------------------------------------------------------------------- files


class _Samples(NamedTuple):
    """How a TIFF stores its numbers; for other formats what holds for all of them."""

    bits: int
    format: int
    white_is_zero: bool
    apart: bool


def _samples(image: Image.Image) -> _Samples:
    tags: Any = getattr(image, "tag_v2", None) if image.format == "TIFF" else None
    if not tags:
        return _Samples(16 if image.mode.startswith("I;16") else 32, 0, white_is_zero=False, apart=False)
    bits, formats = tags.get(_BITS, (1,)), tags.get(_FORMAT, (_UNSIGNED,))
    white_is_zero, apart = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO, len(bits) > 1 and tags.get(_PLANAR) == _APART
    return _Samples(max(bits), max(formats), white_is_zero, apart)


def is_deep(image: Image.Image) -> bool:
    """Whether an image has to go through `to_gray`: more than 8 bits of gray, floats, or bytes with a sign."""
    return image.mode == "F" or image.mode.startswith("I") or _samples(image).format == _SIGNED


def in_byte_order(image: Any) -> None:
    """Let an image just opened be decoded in the order of its bytes: libtiff turns them, Pillow once more."""
    if any(tile.codec_name == "libtiff" and tile.args[0] in _TURNED for tile in image.tile):
        image.tile = [tile._replace(args=(_TURNED[tile.args[0]], *tile.args[1:])) for tile in image.tile]


def check_readable(image: Image.Image) -> None:
    """DecodeError for a TIFF that Pillow would misread."""
    samples = _samples(image)
    if samples.apart and samples.bits > 8:
        raise DecodeError(f"stores channels of {samples.bits} bits apart, which is not read: store them pixel by pixel")


def to_gray(image: Image.Image, scale: float | None) -> Image.Image:
    """Deep gray as 8-bit gray, `scale` being white, else the file's own; DecodeError where the file leaves it open.

    Of 16 bits 65535 is white, of a TIFF of 12 bits 4095. Integers of 32 bits: as 16-bit where all values fit. Floats:
    the smallest of 1, 255 and 65535 that no value exceeds is white.
    """
    samples, values = _samples(image), _values(image)
    if samples.format == _SIGNED and samples.bits <= 16 and scale is None:
        raise DecodeError(
            f"holds integers with a sign (int{samples.bits}), so what is black and white is not known: "
            "convert it to uint8 or uint16, or give the value of white with --scale"
        )
    if not np.isfinite(values).all():
        raise DecodeError("holds values that are not finite")
    if values.min() < -_SLACK:
        raise DecodeError(f"holds values {_span(values)}, and 0 is black: bring them into 0 to 65535")
    _check_white(values, scale)
    white = scale if scale is not None else _white(image, samples, values)
    if samples.white_is_zero:
        if image.mode == "F":
            raise DecodeError("holds floats of which 0 is white, which is not read: store it with 0 as black")
        values = white - values.astype(np.float64)
    return Image.fromarray(_bytes(values, white))


def _values(image: Image.Image) -> _Values:
    """The numbers as the file means them: Pillow takes some types for another of as many bytes."""
    samples, values = _samples(image), np.asarray(image)
    if samples.format == _SIGNED and samples.bits == 8:
        return values.view(np.int8)
    if samples.format == _UNSIGNED and image.mode == "I":
        return values.view(np.uint32)
    return values


def _white(image: Image.Image, samples: _Samples, values: _Values) -> float:
    if image.mode.startswith("I;16"):
        return 2**samples.bits - 1 if 8 < samples.bits < 16 else _FULL
    whites = (1, 255, _FULL) if image.mode == "F" else (_FULL,)
    top = float(values.max())
    if top > whites[-1]:
        raise DecodeError(f"holds values {_span(values)}, more than 16 bits: give the value of white with --scale")
    return next(white for white in whites if top <= white)


def peak_of(image: Image.Image, rawmode: str) -> float:
    """The greatest value of an image of more than 8 bits an entry, 0 for others and where its depth is known.

    `image` is loaded, and `rawmode` is what it had before: of colors Pillow keeps the upper byte.
    """
    if image.mode.startswith("I"):
        return 0.0 if 8 < _samples(image).bits < 16 else float(_values(image).max())
    if ";16" not in rawmode or image.mode not in ("RGB", "RGBA"):
        return 0.0
    return float(np.asarray(image)[..., :3].max()) * 256 + 255


# ------------------------------------------------------------------------------------------ colors


def rawmode(image: Any) -> str:
    """How the pixels of an image just opened are stored, in Pillow's words; "" once they are decoded."""
    args = image.tile[0].args if getattr(image, "tile", None) else ""
    named = args[0] if isinstance(args, tuple) and args else args
    return named if isinstance(named, str) else ""


def low_bytes(mode: str) -> str | None:
    """The rawmode by which Pillow keeps the lower byte of each color, where `mode` makes it keep the upper one."""
    kind, _, order = mode.partition(";16")
    if kind not in ("RGB", "RGBA") or order not in ("L", "B", "N"):
        return None
    little = order == "L" or (order == "N" and sys.byteorder == "little")
    return f"{kind};16{'B' if little else 'L'}"
