import io
import struct
import zlib
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data.malformed import picture, stored
from upcycle.data import decode, formats
from upcycle.data.preprocessing import Decoding
from upcycle.errors import DecodeError

tifffile = pytest.importorskip("tifffile")
RAMP = np.tile(np.linspace(0, 1, 16), (16, 1))
EXPECTED = np.rint(RAMP * 255).astype(int)


def media(major: bytes, *others: bytes) -> bytes:
    body = b"ftyp" + major + bytes(4) + b"".join(others)
    return (4 + len(body)).to_bytes(4, "big") + body + b"\0\0\0\x08free"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (media(b"isom", b"mp41"), "an MP4 film, which is not supported: extract frames first"),
        (media(b"qt  "), "a QuickTime film, which is not supported: extract frames first"),
        (b"\xff\x0a\x00", "a JPEG XL image, which is not supported: convert it to JPEG or PNG"),
        (b"<svg xmlns=''/>", "an SVG image, which is not supported: convert it to JPEG or PNG"),
        (b"<?xml version='1.0'?>\n<svg/>", "an SVG image, which is not supported: convert it to JPEG or PNG"),
        (b"\n<!DOCTYPE html><p>404", "an HTML page, which is not supported: fetch the image itself"),
        (b"%PDF-1.7\n", "a PDF document, which is not supported: extract its images"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "a Git LFS pointer, which is not supported: fetch the file itself with git lfs pull",
        ),
        (b"PK\x03\x04\0\0", "a ZIP archive, which is not supported: unpack it"),
        (b"\x93NUMPY\x01\0", "a NumPy array, which is not supported: store it as PNG"),
        (bytes(128) + b"DICM", "a DICOM image, which is not supported: store it as PNG"),
    ],
)
def test_what_is_not_read_is_named_by_its_content(data: bytes, message: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode.header(data)
    assert str(caught.value) == message


@pytest.mark.skipif(find_spec("pillow_heif") is not None, reason="HEIC is read here")
@pytest.mark.parametrize("data", [media(b"heic", b"mif1"), media(b"mif1", b"miaf")])
def test_heic_without_its_extra_is_one_line_that_names_it(data: bytes) -> None:
    with pytest.raises(DecodeError, match=r"^a HEIC image: install what reads it with pip install 'upcycle\[heif\]'$"):
        decode.header(data)


@pytest.mark.skipif(find_spec("pillow_heif") is None, reason="needs the extra heif")
def test_heic_is_read_with_its_extra() -> None:
    formats.openers(media(b"heic"))
    exif = Image.Exif()
    exif[0x0112] = 6
    data = stored(picture(40, 30), "HEIF", exif=exif.tobytes())
    assert (30, 40, "HEIC") == decode.header(data)
    assert (32, 24, 3) == decode.load_image(data, Decoding(24, "bilinear")).shape


def test_avif_without_a_brand_of_its_own_is_read() -> None:
    data = stored(picture(40, 30), "AVIF").replace(b"ftypavif", b"ftypmif1", 1)
    assert (40, 30, "AVIF") == decode.header(data)


def test_a_gray_map_of_16_bits_says_what_is_white() -> None:
    data = b"P5\n2 1\n4095\n" + (4095).to_bytes(2, "big") + (0).to_bytes(2, "big")
    assert [[255, 255, 255], [0, 0, 0]] == decode.load_image(data, Decoding(1, "nearest"))[0].tolist()


@pytest.mark.parametrize("data", [b"text", b"\0\0\0\x14ftypzzzz", b"<?xml version='1.0'?><x/>"])
def test_what_is_of_no_known_kind_is_not_named(data: bytes) -> None:
    with pytest.raises(
        DecodeError, match="^not a JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF, JPEG 2000, PNM or HEIC image$"
    ):
        decode.header(data)


# ---------------------------------------------------------------------- numbers in 8 bits


def load(source: decode.ImageSource, scale: float | None = None) -> np.ndarray:
    return decode.load_image(source, Decoding(16, "nearest", scale)).astype(int)


def off(source: decode.ImageSource, scale: float | None = None) -> int:
    """The largest difference to a ramp from black to white."""
    return int(np.abs(load(source, scale) - EXPECTED[:, :, None]).max())


def tiff(pixels: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def png(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits, with as many channels as the array has: Pillow writes gray alone."""
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def to(kind: str, top: float) -> np.ndarray:
    values = RAMP * top
    return (values if kind[0] == "f" else np.rint(values)).astype(kind)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    ("kind", "top"), [("u1", 255), ("<u2", 65535), (">u2", 65535), ("f4", 1), ("f8", 1), ("f2", 1)]
)
def test_arrays_of_the_types_that_say_what_is_white_are_taken(kind: str, top: float, channels: int) -> None:
    gray = to(kind, top)
    assert off(gray) <= 1
    stacked = np.dstack([gray] * min(channels, 3) + [np.full_like(gray, top)] * (channels == 4))
    assert off(stacked) <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_truth_is_black_and_white(channels: int) -> None:
    assert load(np.dstack([RAMP > 0.5] * channels))[0, ::15].tolist() == [[0] * 3, [255] * 3]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("kind", "top", "message"),
    [
        ("i4", 255, "an array of int32 is no image: give uint8 of 0 to 255, uint16 of 0 to 65535, or float of 0 to 1"),
        ("i8", 255, "an array of int64 is no image: "),
        ("u4", 255, "an array of uint32 is no image: "),
        ("i1", 127, "an array of int8 is no image: "),
        ("c8", 1, "an array of complex64 is no image: "),
        ("u2", 255, "an array of uint16 has values from 0 to 255, which looks like 8 bits in 16: give it as uint8"),
        ("u2", 4095, "an array of uint16 has values from 0 to 4095: 12 bits in 16?"),
        ("f4", 255, "an array of float32 has values from 0 to 255, not 0 to 1: divide by 255"),
        ("f8", 65535, "an array of float64 has values from 0 to 65535, not 0 to 1: divide by 65535"),
        ("f4", -1, "an array of float32 has values from -1 to -0, not 0 to 1: bring them into that range"),
        ("f4", np.nan, "an array of float32 holds values that are not finite"),
    ],
)
def test_arrays_whose_white_would_be_guessed_are_refused(kind: str, top: float, message: str, channels: int) -> None:
    with pytest.raises(DecodeError) as caught:
        load(np.dstack([to(kind, top)] * channels))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("kind", ["u2", "f4"])
def test_black_arrays_are_black(kind: str) -> None:
    assert load(np.zeros((16, 16), kind)).max() == 0


def test_a_picture_made_of_numbers_is_taken_as_the_numbers_are() -> None:
    assert off(Image.fromarray(to("u2", 65535))) <= 1
    with pytest.raises(DecodeError, match="^a picture of uint16 has values from 0 to 255, which looks like 8 bits"):
        load(Image.fromarray(to("u2", 255)))


def test_arrays_are_scaled_by_the_white_that_is_given() -> None:
    assert off(to("u2", 4095), 4095) <= 1
    assert off(to("f4", 4095), 4095) <= 1
    assert off(to("u1", 255), 4095) == 0
    with pytest.raises(DecodeError, match="and white is 4095 in this run: multiply by 4095$"):
        load(to("f4", 1), 4095)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_tiffs_of_any_order_of_bytes_are_read_alike(byteorder: str, compression: str | None) -> None:
    options: dict[str, Any] = {"byteorder": byteorder, "compression": compression, "photometric": "minisblack"}
    assert off(tiff(to("u2", 65535), **options)) <= 1
    assert off(tiff(to("f4", 1), **options)) <= 1
    assert off(tiff(to("i4", 65535), **options)) <= 1
    assert off(tiff(to("i2", 4095), **options), 4095) <= 1
    colors = np.dstack([to("u2", 4095)] * 3)
    assert off(tiff(colors, **options | {"photometric": "rgb"}), 4095) <= 1


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_16_bits_of_which_0_is_white_are_no_negative(compression: str | None) -> None:
    options: dict[str, Any] = {"photometric": "miniswhite", "compression": compression}
    assert off(tiff(65535 - to("u2", 65535), **options)) <= 1
    assert off(tiff(4095 - to("u2", 4095), **options), 4095) <= 1


@pytest.mark.parametrize(
    ("kind", "top", "options", "message"),
    [
        ("i1", 127, {}, r"^holds integers with a sign \(int8\), so what is black and white is not known: convert it"),
        ("i2", 32767, {}, r"^holds integers with a sign \(int16\)"),
        (
            "u4",
            2**32 - 1,
            {},
            r"^holds values from 0 to 4294967295, more than 16 bits: give the value of white",
        ),
        ("i4", -5, {}, r"^holds values from -5 to 0, and 0 is black"),
        ("f4", -1, {}, r"^holds values from -1 to -0, and 0 is black"),
        ("f4", 1, {"photometric": "miniswhite"}, r"^holds floats of which 0 is white, which is not read"),
    ],
)
def test_tiffs_whose_numbers_do_not_say_what_is_white_are_refused(
    kind: str, top: float, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DecodeError, match=message):
        load(tiff(to(kind, top), **options))


def test_channels_of_16_bits_stored_apart_are_refused() -> None:
    stored = tiff(np.stack([to("u2", 65535)] * 3), photometric="rgb", planarconfig="separate")
    with pytest.raises(DecodeError, match="^stores channels of 16 bits apart, which is not read"):
        load(stored)


def test_12_bits_are_white_at_4095() -> None:
    values = to("u2", 4095).ravel()
    packed = bytearray()
    for one, other in values.reshape(-1, 2).tolist():
        packed += bytes([one >> 4, (one & 15) << 4 | other >> 8, other & 255])
    entries = [(256, 4, 16), (257, 4, 16), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8), (278, 4, 16)]
    entries.append((279, 4, len(packed)))
    table = struct.pack("<H", len(entries))
    table += b"".join(
        struct.pack("<HHI", tag, kind, 1) + struct.pack("<I" if kind == 4 else "<Hxx", value)
        for tag, kind, value in entries
    )
    stored = b"II*\0" + struct.pack("<I", 8 + len(packed)) + bytes(packed) + table + bytes(4)
    assert off(stored) <= 1


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_png_of_12_bits_in_16_is_scaled_by_the_white_that_is_given(channels: int) -> None:
    values = to("u2", 4095)
    pixels = np.dstack([values] * min(channels, 3) + [np.full_like(values, 65535)] * (channels == 4))
    assert off(png(pixels), 4095) <= 1


def test_the_peak_is_of_what_is_stored() -> None:
    assert decode.whole(png(to("u2", 4095)[:, :, None]))[2] == 4095
    assert decode.whole(png(np.dstack([to("u2", 4095)] * 3)))[2] == 4095
    assert decode.whole(png(np.dstack([to("u2", 4095)] * 3)), 4095)[2] == 0
    assert decode.whole(tiff(to("u1", 255), photometric="minisblack"))[2] == 0


@pytest.mark.parametrize(
    ("peak", "bits"), [(0, None), (255, 8), (1000, 10), (1023, 10), (4095, 12), (4096, 14), (16384, None)]
)
def test_depths_of_cameras(peak: float, bits: int | None) -> None:
    assert formats.bits_of(peak) == bits


def test_a_jpeg_that_is_open_has_the_pixels_of_its_file() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8))
    buffer = io.BytesIO()
    noise.save(buffer, "JPEG")
    picture = Image.open(io.BytesIO(buffer.getvalue()))
    assert (load(picture) == load(buffer.getvalue())).all()
    assert picture.size == (300, 200)
    whole = Image.open(io.BytesIO(buffer.getvalue()))
    assert (np.asarray(picture) == np.asarray(whole)).all()


def test_a_jpeg_that_is_asked_for_smaller_is_taken_as_it_is() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (400, 400), "red").save(buffer, "JPEG")
    picture = Image.open(io.BytesIO(buffer.getvalue()))
    picture.draft("RGB", (100, 100))
    assert load(picture).shape == (16, 16, 3)
    assert picture.size == (100, 100)


@pytest.mark.parametrize("source", [to("u2", 65535), png(to("u2", 65535)[:, :, None]), to("f4", 65535)])
def test_what_would_be_white_by_and_large_is_refused(source: decode.ImageSource) -> None:
    with pytest.raises(DecodeError, match="^holds values from 0 to 65535, most of them above 4095, which is white by"):
        load(source, 4095)
