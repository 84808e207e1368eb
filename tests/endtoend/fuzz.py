"""Damaged image files without end, opened and decoded in processes of their own.

    python -m tests.endtoend.fuzz [--inputs 50000] [--seed 0]

hypothesis makes each: one of the well-formed files of every kind, changed in up to eight places (bits, numbers, parts
cut out, repeated or taken from another file; half of the changes in its first bytes, PNG's checksums mended half of
the time, so that what lies behind them is reached). `header`, `load` and `statistics` must give an image of the right
shape or one line that says why not; none may crash, take 10 s of processor time, or 5 GiB of memory. What fails is made
smaller and printed. Ends with JSON: inputs by kind and outcome, the slowest, the most memory a process held.
"""

import argparse
import collections
import json
import struct
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.data.malformed import FORMATS, odd, picture, stored
from upcycle.data import decode
from upcycle.data.isolation import Decoders, Limits
from upcycle.data.preprocessing import Decoding
from upcycle.errors import DecodeError

FATAL = ("ends the process", "takes more than", "had not ended", "died")
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def seeds() -> list[tuple[str, bytes]]:
    """Well-formed files: each kind and mode, orientations, animations, progressive, tiled and compressed ones."""
    found = [(name.split()[0].rstrip(","), data) for name, data in odd() if len(data) < 20_000]
    image = picture(64, 48)
    found.append(("JPEG", stored(image, "JPEG", progressive=True)))
    found.append(("JPEG", stored(image, "JPEG", subsampling=0, restart_marker_blocks=2)))
    found.append(("WEBP", stored(image, "WEBP", lossless=True)))
    found += [
        ("TIFF", stored(image, "TIFF", compression=how)) for how in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg")
    ]
    found += [("BMP", stored(picture(33, 9, mode), "BMP")) for mode in ("1", "L", "P", "RGB")]
    found.append(("AVIF", stored(image, "AVIF", subsampling="4:4:4")))
    found.append(("JPEG2000", stored(image, "JPEG2000", no_jp2=True)))
    return sorted((kind, data) for kind, data in found if kind in FORMATS)


SEEDS = seeds()


def mended(data: bytes) -> bytes:
    """A PNG with the checksums that its parts should have, as far as they can be told apart."""
    made, at = data[:8], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        if at + 12 + length > len(data):
            break
        body = data[at + 4 : at + 8 + length]
        made += data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return made + data[at:]


def edit(data: bytes, how: str, at: int, number: int, length: int, other: bytes) -> bytes:
    """`data` changed at one place."""
    if how == "flip":
        return data[:at] + bytes([data[at] ^ (1 << number % 8)]) + data[at + 1 :] if data else data
    if how == "number":
        packed = struct.pack(
            "<>"[number % 2] + "BHI"[length % 3], NUMBERS[number % 12] & (0xFF, 0xFFFF, 2**32 - 1)[length % 3]
        )
        return data[:at] + packed + data[at + len(packed) :]
    if how == "cut":
        return data[:at]
    if how == "remove":
        return data[:at] + data[at + length :]
    if how == "repeat":
        return data[:at] + data[at : at + length] * (number % 50) + data[at + length :]
    begin = at % max(1, len(other))
    return data[:at] + other[begin : begin + length] + data[at + length :]


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, bytes]:
    """The kind of file it was, and what has become of it."""
    kind, data = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 2, 3, 5, 8)))):
        how = draw(st.sampled_from(("flip", "number", "number", "cut", "remove", "repeat", "other")))
        place = draw(st.integers(0, 2**16 - 1))
        early = draw(st.booleans())
        other = draw(st.sampled_from(SEEDS))[1] if how == "other" else b""
        last = min(len(data), 80) if early else len(data)
        data = edit(data, how, place % max(1, last), draw(st.integers(0, 255)), draw(st.integers(0, 63)), other)
    return kind, mended(data) if kind == "PNG" and draw(st.booleans()) else data


@dataclass
class Tally:
    """What has been seen: inputs by kind and outcome, reasons by their first words, seconds, kB."""

    inputs: int = 0
    outcomes: collections.Counter[str] = field(default_factory=collections.Counter)
    reasons: collections.Counter[str] = field(default_factory=collections.Counter)
    slowest_seconds: float = 0.0
    most_memory_kb: int = 0


def attempt(question: Callable[[], object]) -> str:
    """ "decoded", or the reason it was refused: one line, and none that tells of a process ended."""
    try:
        question()
    except DecodeError as error:
        reason = str(error)
        assert not any(words in reason for words in FATAL), reason
        assert 1 == len(reason.splitlines()), reason
        assert len(reason) < 500, reason
        return reason
    return "decoded"


def check(pool: Decoders, data: bytes) -> str:
    """AssertionError for anything but an image or a reason; what `load` said."""

    def whole() -> None:
        _, (width, height, _) = pool.header(data)
        pixels = pool.load(data, Decoding(32, "bilinear"))
        assert (*decode.target_size(width, height, 32)[::-1], 3) == pixels.shape
        assert pixels.dtype == np.uint8

    found = attempt(whole)
    attempt(lambda: pool.statistics(data))
    return found


def memory(pool: Decoders) -> int:
    """The most memory that a process has held, in kB; 0 where the system does not say."""
    file = Path(f"/proc/{pool._workers[0].process.pid}/status")
    lines = file.read_text().splitlines() if file.exists() else []
    return max((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), default=0)


def fuzz(inputs: int, first: int, *, say: bool = False) -> Tally:
    """Try so many inputs; AssertionError, with the smallest that shows it, for one that is not dealt with."""
    pool, tally = Decoders(Limits(seconds=10)), Tally()

    @seed(first)
    @settings(
        max_examples=inputs,
        deadline=None,
        derandomize=False,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    @given(damaged())
    def one(made: tuple[str, bytes]) -> None:
        kind, data = made
        began = time.perf_counter()
        found = check(pool, data)
        tally.inputs += 1
        tally.slowest_seconds = max(tally.slowest_seconds, time.perf_counter() - began)
        tally.most_memory_kb = max(tally.most_memory_kb, memory(pool))
        tally.outcomes[f"{kind}, {'decoded' if found == 'decoded' else 'refused'}"] += 1
        tally.reasons[" ".join(found.split()[:6])] += 1
        if say and tally.inputs % 1000 == 0:
            print(f"{tally.inputs} inputs, slowest {tally.slowest_seconds:.2f} s", file=sys.stderr, flush=True)

    try:
        one()
    finally:
        pool.close()
    return tally


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    given_ = parser.parse_args()
    tally = fuzz(given_.inputs, given_.seed, say=True)
    print(json.dumps({**vars(tally), "reasons": dict(tally.reasons.most_common(30))}, indent=1))


if __name__ == "__main__":
    main()
