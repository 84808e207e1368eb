"""The inside of a process that decodes images for `decoders`: requests on standard input, replies on standard output.

A request is a line of JSON, {"task", "options", "bytes", "seconds"}, and that many bytes of an image file. A reply is a
line of JSON, {"values"} or {"failed", "kind"} with the reason, and "bytes", and that many bytes. Nothing is unpickled.
"""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple

from upcycle.data import decode
from upcycle.errors import DecodeError

try:
    import resource
except ImportError:  # not on Windows: there the time limit is the only one
    resource = None  # type: ignore[assignment]


READY = "ready to decode"
"""The first reply. What Python prints as it starts may come before it."""


class Result(NamedTuple):
    """What a task found: plain values, and bytes."""

    values: Any
    content: bytes | memoryview = b""


def _header(data: bytes) -> Result:
    return Result(list(decode.header(data)))


def _load(data: bytes, **options: Any) -> Result:
    pixels = decode.load(data, **options)
    return Result(list(pixels.shape), pixels.data.cast("B"))


def _peak(data: bytes) -> Result:
    return Result(decode.peak(data))


def _look(data: bytes, **options: Any) -> Result:
    from upcycle.data.look import look  # its hashing takes half a second to import, and few need it

    seen = look(data, **options)
    values = [list(seen.header), seen.pixels, seen.perceptual, seen.contrast, seen.color, seen.peak]
    return Result(values, seen.small)


TASKS: Mapping[str, Callable[..., Result]] = {"header": _header, "load": _load, "look": _look, "peak": _peak}


def _confine(memory: int) -> None:
    """Bound the address space of this process, and let it write no file and leave no core."""
    if resource is None:
        return
    for name, bound in (("RLIMIT_AS", memory), ("RLIMIT_FSIZE", 0), ("RLIMIT_CORE", 0)):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # a system that has not this one
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


def _do(request: Mapping[str, Any], data: bytes, memory: int) -> tuple[dict[str, Any], bytes | memoryview]:
    try:
        values, content = TASKS[request["task"]](data, **request["options"])
        return {"values": values}, content
    except (DecodeError, MemoryError) as error:
        # decoding turns what Pillow raises into a DecodeError
        if isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError):
            return {"failed": f"decoding it takes more than {memory / 2**30:.2g} GiB of memory", "kind": "limit"}, b""
        return {"failed": str(error), "kind": error.kind}, b""


def serve(requests: BinaryIO, replies: BinaryIO, memory: int) -> None:
    """Answer requests until there are no more, within `memory` bytes of address space."""

    def send(reply: dict[str, Any], content: bytes | memoryview = b"") -> None:
        replies.write(json.dumps({**reply, "bytes": len(content)}).encode() + b"\n")
        replies.write(content)
        replies.flush()

    send({"values": READY})
    more = True
    while more and (line := requests.readline()):
        request = json.loads(line)
        data = requests.read(request["bytes"])
        more = _allow(request["seconds"])  # else the next file has a process of its own
        reply, content = _do(request, data, memory)
        del data
        send(reply, content)


def main(memory: int) -> None:
    """Serve this process's own standard input and output; what else is printed goes nowhere."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the one who asked decides
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _confine(memory)
    with contextlib.suppress(BrokenPipeError):
        serve(sys.stdin.buffer, replies, memory)
