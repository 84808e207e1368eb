"""What an audit looks for in one image, all of it decoded."""

import hashlib
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageStat

from upcycle.data import decode, depth

SMALL = 16
"""Side of the small grey picture that near duplicates are compared by."""
_CELLS = 32


class Look(NamedTuple):
    """What one image file holds.

    `pixels`: hash in hex of the upright 8-bit RGB pixels and their shape; `perceptual`: 64-bit perceptual hash (DCT,
    imagehash's `phash`); `contrast`: standard deviation of its grey levels, 0 to 127.5; `color`: largest difference
    between two channels in any cell of 1/32 of the sides, 0 to 255; `small`: 16 x 16 grey levels; `peak`: the greatest
    value of an image of more than 8 bits whose white is not known, else 0.
    """

    header: decode.Header
    pixels: str
    perceptual: int
    contrast: float
    color: float
    small: bytes
    peak: float = 0.0


def look(data: bytes, scale: float | None = None) -> Look:
    """What the bytes of an image file hold, `scale` being white in more than 8 bits; DecodeError with the reason."""
    import imagehash  # brings scipy along

    image, header, peak = decode.whole(data, scale)
    grey = image.convert("L")
    cells = np.asarray(image.resize((_CELLS, _CELLS), Image.Resampling.BOX)).astype(np.int16)
    digest = hashlib.blake2b(b"%d %d " % image.size, digest_size=16)
    digest.update(image.tobytes())
    bits = depth.bits_of(peak)
    if bits is not None:  # dark as they are, different pictures have equal pixels
        digest.update(decode.whole(data, 2**bits - 1)[0].tobytes())
    return Look(
        header=header,
        pixels=digest.hexdigest(),
        perceptual=int.from_bytes(np.packbits(imagehash.phash(grey).hash).tobytes()),
        contrast=ImageStat.Stat(grey).stddev[0],
        color=float((cells.max(axis=2) - cells.min(axis=2)).max()),
        small=grey.resize((SMALL, SMALL), Image.Resampling.BOX).tobytes(),
        peak=peak,
    )
