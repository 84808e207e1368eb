"""Device, precision, threads, memory settings and seeds, decided from static facts only.

Nothing here is timed: the same machine always gives the same answer, so the same seed gives the
same bits. Importing this module imports no torch and changes nothing; `apply` does the changing.
"""

import contextlib
import ctypes
import hashlib
import importlib.metadata
import math
import operator
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from upcycle.errors import ConfigError, UpcycleError
from upcycle.hardware import GIB, processor_facts, usable_cores, usable_memory

if TYPE_CHECKING:
    import torch

Device = Literal["cpu", "cuda", "mps"]
Precision = Literal["fp32", "bf16"]

BF16_FLAGS = frozenset({"amx_bf16", "avx512_bf16"})
GLIBC_SETTINGS = ("trim_threshold", "mmap_threshold", "mmap_max")
_POOL = {"here": False, "parent": False}
"""Whether this process, and the one it was forked from, have computed in several threads, which no fork survives."""
FEW_CORES = 4
"""Measured at 2 (docs/decisions/0012-batches-on-demand.md); with many cores one of them is not missed."""


@dataclass(frozen=True)
class Hardware:
    """What a run computes on.

    `threads`: for arithmetic on the processor; `cores`: physical cores this process may use;
    `flags`: the processor's features that matter here; `gpu`: its name, None on the CPU;
    `memory_gb`: of the processor, in 2**30 bytes, a container's limit respected, NaN if unknown;
    `fold_bn`: whether BatchNorm with fixed statistics is computed inside the convolution before it;
    `workers`: threads that were asked for to make batches ahead, None where nobody said.
    """

    device: Device
    precision: Precision
    threads: int
    cores: int
    processor: str
    flags: tuple[str, ...]
    gpu: str | None
    memory_gb: float
    fold_bn: bool = True
    workers: int | None = None

    @property
    def feeders(self) -> int:
        """Threads that make batches of decoded images ahead of the arithmetic; 0 for on demand.

        `workers` where it is given. A thread hides the one or two hundredths of a step that a batch takes. On a few
        cores its parallel loops take them from the network's threads, which wait for each other by spinning, and more
        is lost than won. A CUDA GPU may take images faster than one core crops them, at 0.3 ms each: it has two. MPS is
        not used from several threads at once (pytorch issue 197805).
        """
        if self.workers is not None:
            return self.workers
        if self.device == "mps":
            return 0
        if self.device == "cpu":
            return 0 if self.threads <= FEW_CORES else 1
        return max(1, min(2, self.cores - 1))


def detect(
    *,
    precision: str = "auto",
    threads: int = 0,
    device: str = "auto",
    fold_bn: bool = True,
    workers: int | None = None,
) -> Hardware:
    """Say what to compute on, from the processor's flags, the GPU's capability and cgroup limits.

    "auto" takes CUDA, then MPS, then the CPU, and bf16 where the processor (AMX or AVX-512 BF16)
    or the CUDA GPU computes it natively, else fp32. On the CPU bf16 may be asked for anywhere:
    slow without those flags, but correct. `threads` 0 means $OMP_NUM_THREADS, else the cores.
    Raises ConfigError for a device that is absent and a precision that it cannot compute.
    """
    root = Path("/")
    chosen = _device(device)
    processor, flags = processor_facts(root)
    cores = usable_cores(root)
    return Hardware(
        device=chosen,
        precision=choose_precision(precision, chosen, flags),
        threads=threads_for(threads, cores),
        cores=cores,
        processor=processor,
        flags=flags,
        gpu=_gpu_name(chosen),
        memory_gb=usable_memory(root) / GIB,
        fold_bn=fold_bn and chosen != "cuda",  # not measured there
        workers=workers,
    )


def apply(machine: Hardware, seed: int | None = None) -> None:
    """Set torch's threads, seed (if given) and deterministic algorithms, and keep freed memory, for this process.

    With these the same seed on the same CPU and thread count gives the same bits. On a GPU only
    what is chosen by a stopwatch (cuDNN's benchmark) is switched off, and fp32 is fp32, not TF32.
    UpcycleError in a process forked from one that has computed in several threads: it would wait for them for ever.
    """
    import torch

    if machine.threads > 1:
        if _POOL["parent"] and not _POOL["here"]:
            raise UpcycleError(
                "this process was forked after its parent had computed in several threads, which a fork loses: "
                "fork first and predict then, start processes by spawn, or load the run with threads=1 in the parent"
            )
        _POOL["here"] = True
    keep_freed_memory()
    torch.set_num_threads(machine.threads)
    if seed is not None:
        torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = False
    if machine.device == "cuda":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.use_deterministic_algorithms(machine.device == "cpu")
    # deterministic mode would otherwise also write NaN over every fresh tensor
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _forked() -> None:
    """In a forked process: the threads are the parent's."""
    _POOL.update(here=False, parent=_POOL["here"] or _POOL["parent"])


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


@contextmanager
def alone() -> Iterator[None]:
    """Compute in this thread alone, so that no pool of threads is started: a process that is forked has none."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def restored() -> Iterator[None]:
    """Give torch's settings of this process that `apply` changes back at the end, but for the seed and the memory."""
    import torch

    threads, cudnn, matmul = torch.get_num_threads(), torch.backends.cudnn, torch.backends.cuda.matmul
    benchmark, name = cudnn.benchmark, "allow_tf32"
    try:
        precisions = [(place, getattr(place, name)) for place in (cudnn, matmul)]
    except RuntimeError:  # set by torch's newer words, and then the older ones may not be read
        name = "fp32_precision"
        precisions = [(place, getattr(place, name)) for place in (cudnn.conv, cudnn.rnn, matmul)]  # type: ignore[attr-defined]
    deterministic, lenient = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cudnn.benchmark = benchmark
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # else nothing has touched them
            for place, precision in precisions:
                setattr(place, name, precision)
        torch.use_deterministic_algorithms(deterministic, warn_only=lenient)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to keep what is freed, and say whether it agreed; elsewhere do nothing.

    By default it hands every large block back to the system, and the next step faults the same
    pages in again one by one: that was more than half the time of an fp32 forward pass. Where glibc's own
    variables set one of these ($MALLOC_TRIM_THRESHOLD_ and its like, $GLIBC_TUNABLES), they are left in force.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if any(f"MALLOC_{name.upper()}_" in os.environ or f"malloc.{name}=" in tunables for name in GLIBC_SETTINGS):
        return False
    trim_threshold, mmap_threshold, mmap_max = -1, -3, -4
    mallopt = ctypes.CDLL(None).mallopt
    # before glibc 2.35 a threshold above 32 MiB is refused; no blocks by mmap does the same there
    kept = mallopt(mmap_threshold, 2**31 - 1) or mallopt(mmap_max, 0)
    return bool(kept and mallopt(trim_threshold, -1))


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an accelerator has run out of memory, which not all of its libraries say by torch's own error."""
    import torch

    text = str(error)
    told = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "unable to find an engine")  # cuDNN: pytorch issue 108645
    return isinstance(error, torch.OutOfMemoryError) or any(words in text for words in told)


def computed_in(machine: Hardware) -> "torch.dtype":
    """The type of numbers that convolutions and matrix products are computed in."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16}[machine.precision]


def autocast(machine: Hardware) -> AbstractContextManager[Any]:
    """Return the context to run a forward pass in: mixed precision, or nothing for fp32."""
    if machine.precision == "fp32":
        return contextlib.nullcontext()
    import torch

    return torch.autocast(machine.device, dtype=computed_in(machine))


def seed_for(*parts: int | str) -> int:
    """Return a 63-bit seed that depends on all `parts`, their kinds and their order, and nothing else."""
    # plain ints, so that numpy's integers give the same seed
    plain = tuple(part if isinstance(part, str) else operator.index(part) for part in parts)
    digest = hashlib.sha256(repr(plain).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def environment(machine: Hardware) -> dict[str, object]:
    """Describe the machine and the versions in plain values for JSON; a missing package is None."""
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "processor": machine.processor,
        "flags": list(machine.flags),
        "cores": machine.cores,
        "threads": machine.threads,
        "device": machine.device,
        "precision": machine.precision,
        "fold_bn": machine.fold_bn,
        "gpu": machine.gpu,
        "memory_gb": None if math.isnan(machine.memory_gb) else round(machine.memory_gb, 1),
    }


def versions() -> dict[str, str | None]:
    """The versions of Python and of what a run's results depend on; None for a missing package."""
    packages = ("upcycle", "torch", "timm", "numpy", "Pillow", "scikit-learn")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def version(package: str) -> str | None:
    """That of an installed package; None for one that is missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _device(asked: str) -> Device:
    if asked not in ("auto", *get_args(Device)):
        raise ConfigError(f"unknown device {asked!r}: use auto, cpu, cuda or mps")
    if asked == "cpu":
        return "cpu"
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if asked != "auto" and not present[asked]:
        raise ConfigError(f"device {asked} was asked for but torch sees none here: use --device auto or cpu")
    if asked == "cuda" or (asked == "auto" and present["cuda"]):
        reason = _unable()
        if not reason:
            return "cuda"
        if asked == "cuda":
            raise ConfigError(f"the GPU cannot be used by this torch ({reason}): use --device cpu, or another torch")
    return "mps" if asked == "mps" or present["mps"] else "cpu"


def _unable() -> str:
    """Why the CUDA GPU that is here computes nothing, as one that this torch was not built for; "" where it does."""
    import torch

    try:
        torch.zeros(1, device="cuda").add_(1).item()
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        if "no kernel image" in reason or "not compatible" in reason:  # torch has warned of it
            return reason
        raise ConfigError(f"the GPU cannot be used now ({reason}): free it, or use --device cpu") from error
    return ""


def choose_precision(asked: str, device: Device, flags: tuple[str, ...]) -> Precision:
    """Resolve "auto" from the processor's `flags` or the GPU's capability; ConfigError where impossible."""
    if asked not in ("auto", *get_args(Precision)):
        raise ConfigError(f"unknown precision {asked!r}: use auto, fp32 or bf16")
    possible = _precisions(device)
    if asked == "auto":
        native = bool(BF16_FLAGS & set(flags)) if device == "cpu" else "bf16" in possible
        return "bf16" if native else "fp32"
    if asked not in possible:
        raise ConfigError(f"precision {asked} is not available on {device} here: use {' or '.join(possible)}")
    return asked


def _precisions(device: Device) -> tuple[Precision, ...]:
    if device == "cpu":
        return ("fp32", "bf16")
    if device == "mps":
        return ("fp32",)
    import torch

    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return ("fp32", "bf16") if native else ("fp32",)


def _gpu_name(device: Device) -> str | None:
    if device == "cpu":
        return None
    if device == "mps":
        return f"Apple GPU ({platform.machine()})"
    import torch

    return torch.cuda.get_device_name()


def threads_for(asked: int, cores: int) -> int:
    """`asked`, or for 0 what $OMP_NUM_THREADS says, or one for each of the `cores`; ConfigError for nonsense."""
    if asked < 0:
        raise ConfigError(f"threads {asked} is out of range: use 1 or more, or 0 for one for each core")
    if asked:
        return asked
    wish = os.environ.get("OMP_NUM_THREADS", "")
    if not wish:
        return cores
    first = wish.split(",")[0].strip()  # OpenMP allows a list, one number for each nesting level
    if not (first.isascii() and first.isdigit() and int(first)):
        raise ConfigError(f"OMP_NUM_THREADS={wish!r} is not a number of threads: unset it or use 1 or more")
    return int(first)


def crowded(asked: int) -> str:
    """That the threads of `threads_for` are more than the cores here, and what to do; "" where they are not."""
    cores = usable_cores(Path("/"))
    threads = threads_for(asked, cores)
    if threads <= cores:
        return ""
    return f"{threads} threads share {cores} core{'s' * (cores > 1)}, which is slower: give --threads {cores}"
