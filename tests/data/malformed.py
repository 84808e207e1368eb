"""A corpus of image files that are damaged, lie about themselves or are merely odd, made from nothing."""

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM")
MODES = (
    ("CMYK", "JPEG"),
    ("L", "JPEG"),
    ("1", "PNG"),
    ("I;16", "PNG"),
    ("LA", "PNG"),
    ("RGBA", "PNG"),
    ("P", "GIF"),
    ("CMYK", "TIFF"),
    ("F", "TIFF"),
    ("RGBA", "WEBP"),
    ("RGBA", "AVIF"),
    ("L", "AVIF"),
    ("RGBA", "JPEG2000"),
    ("I;16", "JPEG2000"),
    ("1", "PPM"),
    ("L", "PPM"),
    ("I;16", "PPM"),
)


def picture(width: int = 40, height: int = 30, mode: str = "RGB") -> Image.Image:
    """Noise of a mode, the same each time."""
    random = np.random.default_rng(width * height)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)


def stored(image: Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def cut() -> Iterator[tuple[str, bytes]]:
    """Every format, cut short at many lengths."""
    for kind in FORMATS:
        whole = stored(picture(), kind)
        lengths = sorted({0, 1, 2, 4, 8, 12, 16, 24, 32, *(len(whole) * part // 24 for part in range(1, 24))})
        for length in lengths:
            yield f"{kind} cut at {length} of {len(whole)}", whole[:length]


def flipped() -> Iterator[tuple[str, bytes]]:
    """Every format, a byte of its header changed."""
    for kind in FORMATS:
        whole = stored(picture(), kind)
        for place in range(0, 64, 4):
            yield f"{kind} changed at {place}", whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]


def chunk(kind: bytes, body: bytes) -> bytes:
    """A part of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, color: int, pixels: bytes) -> bytes:
    """A PNG with a header of one's choice."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def lying() -> Iterator[tuple[str, bytes]]:
    """Headers that claim another size than the pixels have: too large, too small, none, a bomb."""
    for width, height in ((0, 0), (0, 9), (2**31 - 1, 2**31 - 1), (100_000, 100_000), (60_000, 3_000), (9_000, 9_000)):
        yield f"PNG says {width} x {height}", png(width, height, 8, 2, b"\0" * 100)
        bmp = bytearray(stored(picture(), "BMP"))
        bmp[18:26] = struct.pack("<ii", width if width < 2**31 else -1, height)
        yield f"BMP says {width} x {height}", bytes(bmp)
        gif = bytearray(stored(picture(), "GIF"))
        gif[6:10] = struct.pack("<HH", width % 65536, height % 65536)
        yield f"GIF says {width % 65536} x {height % 65536}", bytes(gif)
        yield f"PPM says {width} x {height}", b"P6\n%d %d\n255\n" % (width, height)
        jp2 = bytearray(stored(picture(), "JPEG2000"))
        at = jp2.index(b"ihdr") + 4
        jp2[at : at + 8] = struct.pack(">II", height, width)
        at = jp2.index(b"\xff\x51") + 6
        jp2[at : at + 8] = struct.pack(">II", width, height)
        yield f"JPEG2000 says {width} x {height}", bytes(jp2)
        avif = bytearray(stored(picture(), "AVIF"))
        at = avif.index(b"ispe") + 8
        avif[at : at + 8] = struct.pack(">II", width, height)
        yield f"AVIF says {width} x {height}", bytes(avif)
        jpeg = bytearray(stored(picture(), "JPEG"))
        at = jpeg.index(b"\xff\xc0") + 5
        jpeg[at : at + 4] = struct.pack(">HH", height % 65536, width % 65536)
        yield f"JPEG says {width % 65536} x {height % 65536}", bytes(jpeg)
    yield "PNG of zeros that unpack to 200 MB", png(8_000, 8_000, 8, 2, b"\0" * 200_000_000)


def odd() -> Iterator[tuple[str, bytes]]:
    """Images that are whole, and not what a network sees every day."""
    for mode, kind in MODES:
        image = picture(mode="I").convert("I;16") if mode == "I;16" else picture(mode=mode)
        yield f"{kind} in {mode}", stored(image, kind)
    for width, height in ((1, 1), (1, 50_000), (50_000, 1), (2, 3)):
        yield f"PNG of {width} x {height}", stored(picture(width, height), "PNG")
    yield "GIF, animated", stored(picture(), "GIF", save_all=True, append_images=[picture(mode="L")] * 3)
    yield "WebP, animated", stored(picture(), "WEBP", save_all=True, append_images=[picture(mode="L").convert("RGB")])
    yield "PNG, palette with transparency", stored(picture().quantize(8), "PNG", transparency=3)
    for junk in (b"", b"\0", b"no profile", b"\xff" * 5_000):
        yield f"JPEG with {len(junk)} bytes of ICC junk", stored(picture(), "JPEG", icc_profile=junk)
        yield f"PNG with {len(junk)} bytes of ICC junk", stored(picture(), "PNG", icc_profile=junk or b"x")
    for orientation in range(10):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
            yield f"{kind}, EXIF orientation {orientation}", stored(picture(), kind, exif=exif.tobytes())
    embedded = stored(picture(), "JPEG")
    yield "JPEG with another behind it", embedded + embedded
    yield "JPEG with a thumbnail in its EXIF", stored(picture(), "JPEG", exif=thumbnail_exif(embedded))
    yield "JPEG with half a thumbnail in its EXIF", stored(picture(), "JPEG", exif=thumbnail_exif(embedded)[:-200])
    yield "JPEG with a JPEG inside its comment", stored(picture(), "JPEG", comment=embedded)
    yield (
        "AVIF, EXIF orientation 6",
        stored(picture(), "AVIF", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"),
    )
    yield "JPEG2000, lossless and tiled", stored(picture(), "JPEG2000", irreversible=False, tile_size=(16, 16))
    for plain in (b"P1\n4 2\n1 0 1 0 0 1 0 1\n", b"P2 # gray\n2 2\n9\n0 3 6 9\n", b"Pf\n1 1\n-1.0\n\0\0\0\x3f"):
        yield f"PPM in plain text or floats ({plain[:2].decode()})", plain
    yield "text", b"no picture at all\n" * 100
    yield "HTML of an error page", b"<!DOCTYPE html><html><title>404</title></html>"
    yield "SVG", b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>"
    yield "ZIP", b"PK\x03\x04" + b"\0" * 200


def thumbnail_exif(thumbnail: bytes) -> bytes:
    """EXIF whose second directory holds a thumbnail, as cameras write it."""
    entries = ((0x0103, 3, 6), (0x0201, 4, 56), (0x0202, 4, len(thumbnail)))
    first = struct.pack("<HI", 0, 14)
    second = struct.pack("<H", 3) + b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + first + second + struct.pack("<I", 0) + thumbnail


def corpus() -> list[tuple[str, bytes]]:
    """Every file of the corpus with what is the matter with it."""
    return [*cut(), *flipped(), *lying(), *odd()]
