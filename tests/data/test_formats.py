from importlib.util import find_spec

import pytest
from PIL import Image

from tests.data.malformed import picture, stored
from upcycle.data import decode, formats
from upcycle.data.preprocessing import Decoding
from upcycle.errors import DecodeError


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
