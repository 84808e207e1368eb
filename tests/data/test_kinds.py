import pytest

from upcycle.data import decode
from upcycle.errors import DecodeError


def media(major: bytes, *others: bytes) -> bytes:
    body = b"ftyp" + major + bytes(4) + b"".join(others)
    return (4 + len(body)).to_bytes(4, "big") + body + b"\0\0\0\x08free"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (media(b"heic", b"mif1"), "a HEIC picture, which is not read: convert it to JPEG or PNG"),
        (media(b"mif1", b"miaf"), "a HEIF picture, which is not read: convert it to JPEG or PNG"),
        (media(b"avif", b"mif1"), "an AVIF picture, which is not read: convert it to JPEG or PNG"),
        (media(b"isom", b"mp41"), "an MP4 film, which is not read: take pictures from it first"),
        (media(b"qt  "), "a QuickTime film, which is not read: take pictures from it first"),
        (b"\xff\x0a\x00", "a JPEG XL picture, which is not read: convert it to JPEG or PNG"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 picture, which is not read: convert it to JPEG or PNG"),
        (b"<svg xmlns=''/>", "an SVG picture, which is not read: convert it to JPEG or PNG"),
        (b"<?xml version='1.0'?>\n<svg/>", "an SVG picture, which is not read: convert it to JPEG or PNG"),
        (b"\n<!DOCTYPE html><p>404", "an HTML page, which is not read: fetch the picture itself"),
        (b"%PDF-1.7\n", "a PDF document, which is not read: take the pictures out of it"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "a Git LFS pointer, which is not read: fetch the file itself with git lfs pull",
        ),
        (b"PK\x03\x04\0\0", "a ZIP archive, which is not read: unpack it"),
        (b"\x93NUMPY\x01\0", "a NumPy array, which is not read: store it as PNG"),
        (bytes(128) + b"DICM", "a DICOM picture, which is not read: store it as PNG"),
    ],
)
def test_what_is_not_read_is_named_by_its_content(data: bytes, message: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode.header(data)
    assert str(caught.value) == message


@pytest.mark.parametrize("data", [b"text", b"\0\0\0\x14ftypzzzz", b"<?xml version='1.0'?><x/>"])
def test_what_is_of_no_known_kind_is_not_named(data: bytes) -> None:
    with pytest.raises(DecodeError, match="^not a JPEG, PNG, WebP, BMP, TIFF or GIF image$"):
        decode.header(data)
