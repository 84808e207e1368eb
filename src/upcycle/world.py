"""The processes that train one network together, and what they tell each other.

torchrun, `accelerate launch` and srun start one command several times. Rank 0 does the job: it alone reads the
request, decides, prints and writes. The others hold the same images and weights and compute what it asks for
(`upcycle.jobs.follow`). What goes between them is JSON and tensors; nothing is pickled.
"""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from upcycle.errors import LostError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

_FRAME = 1024
"""Bytes of the first part of a message, nearly always the only one; 8 of them tell its length."""
_MOST_BYTES = 2**32


@dataclass(frozen=True)
class Part:
    """The images `start` to `stop` of a batch of `whole`."""

    start: int
    stop: int
    whole: int

    @property
    def rows(self) -> slice:
        """Where they are in the batch."""
        return slice(self.start, self.stop)

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Place:
    """Which of the processes this one is: `rank` of `size` over all nodes, and of those on this node."""

    rank: int
    size: int
    local_rank: int
    local_size: int


@dataclass(frozen=True, eq=False)
class World:
    """All processes of a training; by itself a process is rank 0 of one.

    Each method but `part` and `rows` is called by all of them at the same moment, except that one side tells and the
    other hears. LostError where one of them has gone.
    """

    place: Place = Place(0, 1, 0, 1)
    orders: Any = None
    """torch's group of all processes for messages, which may be long in coming."""

    @property
    def size(self) -> int:
        """How many processes there are."""
        return self.place.size

    @property
    def alone(self) -> bool:
        """Whether this is the only one."""
        return self.size == 1

    @property
    def follows(self) -> bool:
        """Whether another one decides."""
        return self.place.rank > 0

    # ------------------------------------------------------------ shares

    def part(self, images: int, *, shard: int = 0, shards: int = 0) -> Part:
        """This process's images of a batch of so many.

        With `shards` whole shards of `shard` images each, the last one with what is left: their number is that of all
        processes together, and a power of two times that of the processes.
        """
        rank, size = self.place.rank, self.size
        if not shards:
            return Part(rank * images // size, (rank + 1) * images // size, images)
        each = shards // size * shard
        stop = images if rank == size - 1 else min(images, (rank + 1) * each)
        return Part(min(images, rank * each), stop, images)

    def rows(self, total: int, multiple: int) -> list[slice]:
        """The share of each process in `total` rows: whole multiples, the first processes one more than the last."""
        blocks = math.ceil(total / multiple)
        ends = [multiple * (blocks // self.size * at + min(at, blocks % self.size)) for at in range(self.size + 1)]
        return [slice(min(start, total), min(stop, total)) for start, stop in pairwise(ends)]

    # ------------------------------------------------------------ messages

    def tell(self, order: str, **values: object) -> None:
        """Rank 0 sends the others an order with plain values."""
        self.send(json.dumps({"order": order, **values}).encode())

    def hear(self) -> Mapping[str, Any]:
        """The next order of rank 0."""
        message: Mapping[str, Any] = json.loads(self.receive())
        return message

    def send(self, body: bytes) -> None:
        """Rank 0 sends the others some bytes."""
        import torch

        head = len(body).to_bytes(8, "little") + body[: _FRAME - 8]
        self._broadcast(torch.frombuffer(bytearray(head.ljust(_FRAME, b"\0")), dtype=torch.uint8))
        if rest := body[_FRAME - 8 :]:
            self._broadcast(torch.frombuffer(bytearray(rest), dtype=torch.uint8))

    def receive(self) -> bytes:
        """What rank 0 sends."""
        import torch

        frame = torch.empty(_FRAME, dtype=torch.uint8)
        self._broadcast(frame)
        head = frame.numpy().tobytes()
        size = int.from_bytes(head[:8], "little")
        if size > _MOST_BYTES:
            raise LostError(f"a message of {size} bytes between processes is none of ours: start them again")
        body = head[8 : 8 + size]
        if len(body) < size:
            rest = torch.empty(size - len(body), dtype=torch.uint8)
            self._broadcast(rest)
            body += rest.numpy().tobytes()
        return body

    def _broadcast(self, message: "Tensor") -> None:
        import torch.distributed as dist

        with _reaching():
            dist.broadcast(message, 0, group=self.orders)

    def reports(self, text: str) -> list[str]:
        """What each process says, in order of their ranks; every one gets all."""
        import torch
        import torch.distributed as dist

        body = text.encode()
        with _reaching():
            sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
            dist.all_gather(sizes, torch.tensor([len(body)]), group=self.orders)
            longest = max(int(size) for size in sizes)
            bodies = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
            dist.all_gather(
                bodies, torch.frombuffer(bytearray(body.ljust(longest, b"\0")), dtype=torch.uint8), group=self.orders
            )
        return [
            one.numpy().tobytes()[: int(size)].decode("utf-8", "replace")
            for one, size in zip(bodies, sizes, strict=True)
        ]

    # ------------------------------------------------------------ tensors

    def sync(self, tensors: "Sequence[Tensor]") -> None:
        """Give `tensors`, the same ones in each process, the values that they have in rank 0."""
        import torch
        import torch.distributed as dist

        kinds = dict.fromkeys((tensor.device, tensor.dtype) for tensor in tensors)
        for device, dtype in kinds:
            some = [tensor for tensor in tensors if (tensor.device, tensor.dtype) == (device, dtype)]
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in some])
            with _reaching():
                dist.broadcast(flat, 0)
            if self.follows:
                with torch.no_grad():
                    for tensor, values in zip(some, torch.split(flat, [one.numel() for one in some]), strict=True):
                        tensor.copy_(values.view(tensor.shape))

    def gather(self, rows: "npt.NDArray[np.float32]", shares: Sequence[slice]) -> "npt.NDArray[np.float32]":
        """The `rows` [own, D] of all processes, in order, in rank 0; elsewhere one's own."""
        import numpy as np
        import torch
        import torch.distributed as dist

        with _reaching():
            if self.follows:
                if len(rows):
                    dist.send(torch.from_numpy(np.ascontiguousarray(rows)), 0)
                return rows
            parts = [rows]
            for rank, share in enumerate(shares[1:], 1):
                if share.stop > share.start:
                    other = torch.empty(share.stop - share.start, rows.shape[1])
                    dist.recv(other, rank)
                    parts.append(other.numpy())
        return np.concatenate(parts)

    def add(self, values: "Tensor", *, pairwise: bool) -> "Tensor":
        """The sum of what the processes have; with `pairwise` by one and the same tree, whatever their number.

        Each adds its neighbour's, then the next pair's, and so on: as a + b has the bits of b + a, all get the same.
        """
        import torch
        import torch.distributed as dist

        with _reaching():
            if not pairwise:
                if not self.alone:
                    dist.all_reduce(values)
                return values
            for distance in (2**level for level in range(int(math.log2(self.size)))):
                other, theirs = self.place.rank ^ distance, torch.empty_like(values)
                both = [dist.P2POp(dist.isend, values, other), dist.P2POp(dist.irecv, theirs, other)]
                for request in dist.batch_isend_irecv(both):
                    request.wait()
                values = values + theirs
        return values


ALONE = World()
"""One process."""


@contextlib.contextmanager
def _reaching() -> Iterator[None]:
    """LostError in place of what torch raises where another process does not answer."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LostError(
            f"another process of this training has gone ({reason[:200]}): run the same command again with --resume"
        ) from error
