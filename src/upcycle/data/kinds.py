"""What a file is that is no readable picture, by its first bytes."""

_CONVERT = "convert it to JPEG or PNG"
_BRANDS = (
    (("avif", "avis"), "an AVIF picture"),
    (("heic", "heix", "hevc", "hevx", "heim", "heis"), "a HEIC picture"),
    (("mif1", "msf1", "heif"), "a HEIF picture"),
    (("crx ",), "a CR3 raw picture"),
    (("qt  ",), "a QuickTime film"),
    (("mp4", "isom", "iso", "avc1", "M4V", "m4v", "3gp", "3g2", "dash", "MSNV"), "an MP4 film"),
)
"""Brands of ISO base media files (ISO 14496-12, `ftyp`), by how they begin."""
_FILM = "take pictures from it first"
_MAGIC = (
    (0, b"\xff\x0a", "a JPEG XL picture", _CONVERT),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture", _CONVERT),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 picture", _CONVERT),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 picture", _CONVERT),
    (0, b"8BPS", "a Photoshop picture", _CONVERT),
    (0, b"v/1\x01", "an OpenEXR picture", _CONVERT),
    (0, b"%PDF-", "a PDF document", "take the pictures out of it"),
    (0, b"version https://git-lfs", "a Git LFS pointer", "fetch the file itself with git lfs pull"),
    (0, b"PK\x03\x04", "a ZIP archive", "unpack it"),
    (0, b"PK\x05\x06", "a ZIP archive", "unpack it"),
    (0, b"\x1f\x8b", "a gzip archive", "unpack it"),
    (0, b"\x93NUMPY", "a NumPy array", "store it as PNG"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file", "store its pictures as PNG"),
    (0, b"\x1aE\xdf\xa3", "a Matroska or WebM film", _FILM),
    (128, b"DICM", "a DICOM picture", "store it as PNG"),
)
_TEXTS = (
    (("<!doctype html", "<html", "<head", "<body"), "an HTML page", "fetch the picture itself"),
    (("<svg", "<!doctype svg"), "an SVG picture", _CONVERT),
)


def named(data: bytes) -> str:
    """A file that is not read, by the name of its kind, and what to do with it; "" where it is of no known kind."""
    kind, advice = _media(data) or _fixed(data) or _text(data) or ("", "")
    return f"{kind}, which is not read: {advice}" if kind else ""


def _media(data: bytes) -> tuple[str, str] | None:
    if data[4:8] != b"ftyp":
        return ("a QuickTime film", _FILM) if data[4:8] in (b"moov", b"mdat", b"wide") else None
    size = min(int.from_bytes(data[:4], "big"), 256)
    brands = [data[at : at + 4].decode("latin-1") for at in (8, *range(16, size - 3, 4))]
    for beginnings, kind in _BRANDS:
        if any(brand.startswith(beginnings) for brand in brands):
            return kind, _CONVERT if kind.endswith("picture") else _FILM
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
