"""The inside of a process that reads and decodes images for `isolation`: requests on standard input, replies on output.

A request is a line of JSON, {"task", "options", "seconds"}, and either the "path" of a file, with the "sha256" it must
have where there is one, or "bytes" and that many bytes of it. A reply is a line of JSON, the fields of `Reply`, and
its bytes. Nothing is unpickled.
"""

import contextlib
import hashlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageStat

from upcycle.data import decode, formats
from upcycle.data.preprocessing import Decoding
from upcycle.errors import DecodeError

try:
    import resource
except ImportError:  # not on Windows: there the time limit is the only one
    resource = None  # type: ignore[assignment]


SMALL = 16
"""Side of the small gray image that near duplicates are compared by."""
_CELLS = 32
_HASHED = 8
"""Frequencies of each axis in a perceptual hash, of an image of four times as many pixels."""


class ImageStatistics(NamedTuple):
    """What one image file holds.

    `pixels`: hash in hex of the upright 8-bit RGB pixels and their shape; `perceptual`: 64-bit perceptual hash (DCT);
    `contrast`: standard deviation of its gray levels, 0 to 127.5; `color`: largest difference between two channels in
    any cell of 1/32 of the sides, 0 to 255; `small`: 16 x 16 gray levels; `peak`: the greatest value of an image of
    more than 8 bits whose white is not known, else 0.
    """

    header: decode.Header
    pixels: str
    perceptual: int
    contrast: float
    color: float
    small: bytes
    peak: float = 0.0


def image_statistics(data: bytes, scale: float | None = None) -> ImageStatistics:
    """What the bytes of an image file hold, `scale` being white in more than 8 bits; DecodeError with the reason."""
    image, header, peak = decode.whole(data, scale)
    gray = image.convert("L")
    cells = np.asarray(image.resize((_CELLS, _CELLS), Image.Resampling.BOX)).astype(np.int16)
    digest = hashlib.blake2b(b"%d %d " % image.size, digest_size=16)
    digest.update(image.tobytes())
    bits = formats.bits_of(peak)
    if bits is not None:  # dark as they are, different images have equal pixels
        digest.update(decode.whole(data, 2**bits - 1)[0].tobytes())
    return ImageStatistics(
        header=header,
        pixels=digest.hexdigest(),
        perceptual=perceptual_hash(gray),
        contrast=ImageStat.Stat(gray).stddev[0],
        color=float((cells.max(axis=2) - cells.min(axis=2)).max()),
        small=gray.resize((SMALL, SMALL), Image.Resampling.BOX).tobytes(),
        peak=peak,
    )


def perceptual_hash(gray: Image.Image) -> int:
    """The 64 lowest frequencies of the cosine transform, each a bit: whether it is above their median."""
    from scipy.fft import dct  # takes a tenth of a second to import, and few tasks need it

    side = 4 * _HASHED
    pixels = np.asarray(gray.resize((side, side), Image.Resampling.LANCZOS), np.float64)
    lowest = dct(dct(pixels, axis=0), axis=1)[:_HASHED, :_HASHED]
    return int.from_bytes(np.packbits(lowest > np.median(lowest)).tobytes())


# ------------------------------------------------------------------------------------------- tasks


class Reply(NamedTuple):
    """What a task found: plain values, bytes, and the sha256 of the file where it has read one.

    `problem`: why there is nothing: a kind of `FileProblem`; "changed" for a file that is not the one with the sha256
    asked for; "system" where the system cannot read it (`code` is its errno). `reason` is in words.
    """

    values: Any = None
    content: bytes | memoryview = b""
    sha256: str = ""
    problem: str = ""
    reason: str = ""
    code: int | None = None

    def line(self) -> bytes:
        """All but the content as a line of JSON."""
        return json.dumps({**self._asdict(), "content": len(self.content)}).encode() + b"\n"


READY = Reply("ready to decode").line()
"""The first reply. What Python prints as it starts may come before it."""


def _found(task: str, data: bytes, options: Mapping[str, Any]) -> Reply:
    if task == "header":
        return Reply(list(decode.header(data)))
    if task == "peak":
        return Reply(decode.peak(data))
    if task == "load":
        pixels = decode.load_image(data, Decoding(**options))
        return Reply(list(pixels.shape), pixels.data.cast("B"))
    found = image_statistics(data, options["scale"])
    return Reply([*found[:5], found.peak], found.small)


def _do(request: Mapping[str, Any], data: bytes, memory: int) -> Reply:
    expected, digest = request.get("sha256"), ""
    try:
        if "path" in request:
            data = decode.read_file(Path(os.fsdecode(bytes.fromhex(request["path"]))))
            digest = hashlib.sha256(data).hexdigest()
            if expected and expected != digest:
                return Reply(problem="changed", reason="changed since it was scanned")
        return _found(request["task"], data, request["options"])._replace(sha256=digest)
    except (OSError, ValueError) as error:  # of reading: decoding turns what Pillow raises into a DecodeError
        reason = getattr(error, "strerror", None) or str(error)
        if expected:
            return Reply(problem="changed", reason=f"cannot be read any more ({reason})")
        return Reply(problem="system", reason=reason, code=getattr(error, "errno", None))
    except (DecodeError, MemoryError) as error:
        if isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError):
            return Reply(problem="limit", reason=f"decoding it takes more than {memory / 2**30:.2g} GiB of memory")
        if expected and not digest:
            return Reply(problem="changed", reason=f"cannot be read any more ({error})")
        return Reply(problem=error.kind, reason=str(error))


# ----------------------------------------------------------------------------------------- process


def _confine(memory: int) -> None:
    """Bound the address space of this process, and let it write no file and leave no core."""
    if resource is None:
        return
    for name, bound in (("RLIMIT_AS", memory), ("RLIMIT_FSIZE", 0), ("RLIMIT_CORE", 0)):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # a system that does not have it
            limit = getattr(resource, name)
            hard = resource.getrlimit(limit)[1]
            bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
            resource.setrlimit(limit, (bound, bound))


def _allow(seconds: int) -> bool:
    """End this process (SIGXCPU) once it has used that much more processor time; whether it may have that much."""
    if resource is None:
        return True
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + 1 + seconds
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    bounded = hard != resource.RLIM_INFINITY and soft > hard
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CPU, (hard if bounded else soft, hard))
    return not bounded


def serve(requests: BinaryIO, replies: BinaryIO, memory: int) -> None:
    """Answer requests until there are no more, within `memory` bytes of address space."""

    def send(line: bytes, content: bytes | memoryview = b"") -> None:
        replies.write(line)
        replies.write(content)
        replies.flush()

    send(READY)
    more = True
    while more and (line := requests.readline()):
        request = json.loads(line)
        data = requests.read(request.get("bytes", 0))
        more = _allow(request["seconds"])  # else the next file has a process of its own
        reply = _do(request, data, memory)
        del data
        send(reply.line(), reply.content)


def main(memory: int) -> None:
    """Serve this process's own standard input and output; what else is printed goes nowhere."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the one who asked decides
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _confine(memory)
    with contextlib.suppress(BrokenPipeError):
        serve(sys.stdin.buffer, replies, memory)
