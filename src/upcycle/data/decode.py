"""One image from whatever it is stored as to upright 8-bit RGB of a known size.

Everything that reaches a model was decoded here: the cache, prediction and evaluation call the
same `load_image`, so they see the same pixels.
"""

import contextlib
import io
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import (
    Image,
    PngImagePlugin,
    TiffImagePlugin,  # noqa: F401  importing registers the format, else Pillow imports all its plugins to find it
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from upcycle.data import formats
from upcycle.data.preprocessing import Decoding
from upcycle.errors import DecodeError, FileProblem, UpcycleError, shown
from upcycle.remote import Address, read

MAX_FILE_BYTES = 2**30
"""Bytes of the largest file that is read."""
MAX_PIXELS = 200_000_000
"""Images with more pixels are refused: decoded, this many take 600 MB."""
MAX_ASPECT = 4
"""The long side is cropped to at most this many times the short side."""

PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 2**26
"""Bytes of text and color profile that a PNG may unpack to: Pillow's 1 MiB is less than some programs write."""

_Number = TypeVar("_Number", int, float)
ImageSource = Path | bytes | Image.Image | npt.NDArray[Any]

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# EXIF 2.32, tag 0x0112: what undoes each orientation
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
_ORIENTATION = 0x0112
# Pillow's size limit and Python's warning filters belong to the process, so one thread at a time changes them
_process_settings = threading.Lock()


def _damaged(error: Exception) -> tuple[str, FileProblem]:
    """In one line and as a code why Pillow gave up: only its own words distinguish a file that ends early."""
    text = " ".join(str(error).split()) or type(error).__name__
    short = any(words in text.lower() for words in ("truncated", "unexpected end"))
    return f"damaged or cut short ({text})", "truncated" if short else "unreadable"


@contextlib.contextmanager
def naming(source: ImageSource) -> Iterator[None]:
    """Turn whatever decoding `source` raises into a DecodeError that names it when it has a path."""
    prefix = f"{shown(source)}: " if isinstance(source, Path) else ""
    try:
        yield
    except DecodeError as error:
        raise DecodeError(f"{prefix}{error}", error.kind) from error
    except UpcycleError:  # not this file's fault
        raise
    except Exception as error:  # plugins raise nearly anything on damaged bytes
        reason, kind = _damaged(error)
        raise DecodeError(f"{prefix}{reason}", kind) from error


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8; 1 when there is none or the EXIF block is damaged."""
    try:
        # Pillow turns a TIFF upright itself; and a PNG's own getexif decodes all pixels, see `_identified`
        value = 1 if image.format == "TIFF" else Image.Image.getexif(image).get(_ORIENTATION, 1)
        return value if value in _UPRIGHT else 1
    except Exception:  # a damaged block raises nearly anything; viewers then show the image as stored
        return 1


def _identified(data: bytes) -> tuple[Image.Image, int]:
    """The image, its pixels not decoded yet, and its orientation; may raise anything Pillow does."""
    image = Image.open(io.BytesIO(data), formats=formats.openers(data))
    _check_size(*image.size)
    if image.format == "TIFF":
        formats.in_byte_order(image)
    if image.format != "PNG" or "exif" in image.info or b"eXIf" not in data:
        return image, _orientation(image)
    # the EXIF block comes after the pixels: only decoding all of it, in a second copy, finds it
    whole = Image.open(io.BytesIO(data), formats=("PNG",))
    whole.load()
    return image, _orientation(whole)


def _open(data: bytes) -> tuple[Image.Image, int]:
    """Read the header: the image, its pixels not decoded yet, and its orientation; DecodeError otherwise."""
    if not data:
        raise DecodeError("empty file (zero bytes)", "empty")
    with _process_settings, warnings.catch_warnings(), naming(data):
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return _identified(data)
        except UnidentifiedImageError:
            raise formats.unidentified(data) from None
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise DecodeError(f"an image of {width} x {height} pixels has no content")
    if width * height > MAX_PIXELS:
        limit = f"the limit of {MAX_PIXELS // 10**6} million"
        raise DecodeError(f"{width} x {height} pixels are more than {limit}", "too-large")


def _from_array(array: npt.NDArray[Any], scale: float | None) -> Image.Image:
    """An array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] as an image."""
    try:
        if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 2, 3, 4)):
            raise ValueError
        _check_size(array.shape[1], array.shape[0])
        pixels = formats.of_array(array, scale)
        return Image.fromarray(pixels[:, :, 0] if pixels.shape[2:] == (1,) else pixels)
    except (TypeError, ValueError, KeyError):
        shape = " x ".join(map(str, array.shape))
        raise DecodeError(
            f"an array of shape {shape} and type {array.dtype} is no image: give uint8, H x W x 3"
        ) from None


def read_file(path: Path) -> bytes:
    """The bytes of an image file; DecodeError for anything but a regular file of at most 1 GiB."""
    if isinstance(path, Address):
        return read(path)
    size = path.stat().st_size
    if not path.is_file():
        raise DecodeError("is no regular file")
    if size > MAX_FILE_BYTES:
        raise DecodeError(f"is larger than {MAX_FILE_BYTES // 2**30} GiB", "too-large")
    return path.read_bytes()


def _stored(image: Image.Image) -> bytes | None:
    """The file behind a JPEG, or a picture of 16-bit colors, that is open and has not been decoded; None for others.

    Its first picture, and where nobody has asked for a reduced one. The file stays open where it was.
    """
    file: Any = getattr(image, "fp", None)
    wanted = image.format in ("JPEG", "MPO") or formats.low_bytes(formats.rawmode(image))
    if file is None or not wanted or not formats.rawmode(image) or getattr(image, "decoderconfig", None):
        return None
    try:
        if image.tell():
            return None
        place = file.tell()
        try:
            file.seek(0)
            data = file.read(MAX_FILE_BYTES + 1)
        finally:
            file.seek(place)
        same = isinstance(data, bytes) and len(data) <= MAX_FILE_BYTES and _open(data)[0].size == image.size
    except (OSError, ValueError, AttributeError, DecodeError):
        return None
    return data if same else None


def _opened(source: ImageSource, scale: float | None) -> tuple[Image.Image, int]:
    """Any source as an image and its orientation."""
    if isinstance(source, Path):
        try:
            source = read_file(source)
        except OSError as error:
            raise DecodeError(f"cannot be read ({error.strerror or error})") from error
    if isinstance(source, bytes):
        image, orientation = _open(source)
        return (image if scale is None else _whole_colors(source, image, scale)), orientation
    if isinstance(source, Image.Image):
        source.load()  # the orientation may come after the pixels
        if source.format is None and formats.is_deep(source):  # made from numbers, without a file that describes them
            _check_size(*source.size)
            return Image.fromarray(formats.of_array(np.asarray(source), scale, "a picture")), _orientation(source)
        return source, _orientation(source)
    if not isinstance(source, np.ndarray):
        kind = type(source).__name__
        raise DecodeError(f"a {kind} is no image: give a path, bytes, a PIL image, a uint8 array, or a list of them")
    return _from_array(source, scale), 1


def _whole_colors(data: bytes, image: Image.Image, scale: float) -> Image.Image:
    """Colors of 16 bits in 8, `scale` being white; any other image as it is. Pillow by itself keeps the upper bytes."""
    mode = formats.rawmode(image)
    lower = formats.low_bytes(mode)
    if lower is None:
        if ";16" in mode and not formats.is_deep(image):
            raise DecodeError("holds 16-bit values of a kind that --scale is not read for: store gray or RGB")
        return image
    formats.check_readable(image)
    other: Any = _open(data)[0]
    other.tile = [
        tile._replace(args=(lower, *tile.args[1:]) if isinstance(tile.args, tuple) else lower) for tile in other.tile
    ]
    words = np.asarray(image).astype(np.uint16) * 256 + np.asarray(other)  # the upper bytes, and the lower ones
    return Image.fromarray(formats.of_array(words, scale))


def _opaque(image: Image.Image) -> Image.Image:
    """Composite transparent parts on white."""
    layered = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")


def _rgb(image: Image.Image, orientation: int, scale: float | None = None) -> Image.Image:
    formats.check_readable(image)
    if formats.is_deep(image):
        image = formats.to_gray(image, scale).convert("RGB")
    elif image.has_transparency_data:
        image = _opaque(image)
    elif image.mode != "RGB":
        image = image.convert("RGB")
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


class Header(NamedTuple):
    """Width and height in pixels of the upright image, and its format by the name in `formats.FORMATS`."""

    width: int
    height: int
    format: str

    @classmethod
    def of(cls, image: Image.Image, orientation: int) -> "Header":
        """That of an image as it was opened."""
        return cls(*_turned(image.size, orientation), formats.of_pillow(image.format))


def header(data: bytes) -> Header:
    """The header of an image file; DecodeError with the reason."""
    return Header.of(*_open(data))


def whole(data: bytes, scale: float | None = None) -> tuple[Image.Image, Header, float]:
    """The first frame of a file, upright, as 8-bit RGB, its header, and its `peak_of`; DecodeError with the reason.

    Alpha is composited on white; gray, palette, CMYK, 16-bit and float images are converted, `scale` being white of
    more than 8 bits.
    """
    image, orientation = _open(data)
    head, mode = Header.of(image, orientation), formats.rawmode(image)
    with naming(data):
        if scale is not None:
            image = _whole_colors(data, image, scale)
        image.load()
        found = formats.peak_of(image, mode) if scale is None else 0.0
        return _rgb(image, orientation, scale), head, found


def peak(data: bytes) -> float:
    """The greatest value of an image of more than 8 bits whose white is not known, else 0; or DecodeError."""
    image, _ = _open(data)
    mode = formats.rawmode(image)
    if not image.mode.startswith("I") and formats.low_bytes(mode) is None:
        return 0.0
    with naming(data):
        image.load()
        return formats.peak_of(image, mode)


def target_size(width: int, height: int, side: int) -> tuple[int, int]:
    """Width and height that `load_image` gives an image of `width` x `height`: the short side is `side`.

    The long side keeps the aspect ratio, rounded half up, and is at most `MAX_ASPECT` times `side`.
    """
    short = min(width, height)
    long = (2 * max(width, height) * side + short) // (2 * short)
    long = min(long, MAX_ASPECT * side)
    return (side, long) if width < height else (long, side)


def _box(width: float, height: float) -> tuple[float, float, float, float]:
    """The middle of an image that is kept: all of it, unless the long side is cropped."""
    kept = MAX_ASPECT * min(width, height)
    across, down = max(0.0, width - kept) / 2, max(0.0, height - kept) / 2
    return across, down, width - across, height - down


def _turned(extent: tuple[_Number, _Number], orientation: int) -> tuple[_Number, _Number]:
    """Width and height of the upright image from those as stored, and the other way round."""
    return (extent[1], extent[0]) if orientation in _SIDEWAYS else extent


def _resized(
    source: ImageSource,
    target: Callable[[int, int], tuple[int, int]],
    resampling: Image.Resampling,
    scale: float | None = None,
) -> Image.Image:
    """The upright image, resampled from its `_box` to the size `target` gives."""
    if isinstance(source, Image.Image):
        source = _stored(source) or source
    image, orientation = _opened(source, scale)
    wanted = target(*_turned(image.size, orientation))
    extent: tuple[float, float] = image.size
    if isinstance(source, Path | bytes):
        # JPEG decodes at 1/2, 1/4 or 1/8 of its size for less than the full price, never below `wanted`;
        # draft gives the extent as a fraction, because the reduced size is rounded up
        drafted = image.draft(None, _turned(wanted, orientation))
        extent = drafted[1][2:] if drafted else extent
    return _rgb(image, orientation, scale).resize(wanted, resampling, box=_box(*_turned(extent, orientation)))


def load_image(source: ImageSource, decoding: Decoding) -> npt.NDArray[np.uint8]:
    """Pixels [H, W, 3], upright, the short side as `decoding` has it, aspect kept, the long side cropped to 4 times it.

    Resampling is antialiased (except nearest). A JPEG file at least twice as large is decoded at
    reduced scale, and so is one that PIL has opened and not decoded. An open PIL image gives its current frame. Raises
    DecodeError, one line with the reason (and the path, when `source` is one).
    """
    target, resampling = partial(target_size, side=decoding.side), _RESAMPLING[decoding.interpolation]
    with naming(source):
        return np.array(_resized(source, target, resampling, decoding.scale))


def _fitted(width: int, height: int, side: int) -> tuple[int, int]:
    """The size of the part that `_box` keeps, reduced so that its long side is `side` at most."""
    wide, high = min(width, MAX_ASPECT * height), min(height, MAX_ASPECT * width)
    scale = min(1.0, side / max(wide, high))
    return max(1, round(wide * scale)), max(1, round(high * scale))


def thumbnail_jpeg(source: ImageSource, side: int = 160, scale: float | None = None) -> bytes:
    """A JPEG of the upright image, its long side `side` pixels at most; never enlarged. `scale` is white."""
    buffer = io.BytesIO()
    with naming(source):
        small = _resized(source, partial(_fitted, side=side), Image.Resampling.BILINEAR, scale)
        small.save(buffer, "JPEG", quality=85, optimize=True)
    return buffer.getvalue()
