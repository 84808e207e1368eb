"""What the system says of this computer: processor, cores and memory, a container's limits respected.

Read from files below `root`, "/" except in tests; what the system does not say is left open. No torch.
"""

import math
import os
import platform
from pathlib import Path

from upcycle.errors import ConfigError

FLAGS = ("amx_bf16", "amx_tile", "avx512_bf16", "avx512_vnni", "avx512f", "avx2", "bf16", "asimd")
"""The processor's features that matter here."""
GIB = 2**30
MOST_THREADS = 1024
"""More than this nothing computes with."""


def checked_threads(asked: int) -> None:
    """ConfigError for a number of threads that no machine has; 0 stands for as many as are usual."""
    if not isinstance(asked, int) or isinstance(asked, bool):
        raise ConfigError(f"threads = {asked!r} is not a whole number")
    if not 0 <= asked <= MOST_THREADS:
        raise ConfigError(f"threads {asked} is out of range: use 1 to {MOST_THREADS}, or 0 for the usual number")


def processor_facts(root: Path) -> tuple[str, tuple[str, ...]]:
    """Return the processor's name and those of `FLAGS` that it has (none known outside Linux)."""
    fields: dict[str, str] = {}
    for line in _read(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip().lower(), value.strip())
    name = fields.get("model name") or platform.processor() or platform.machine()
    present = set((fields.get("flags") or fields.get("features", "")).split())
    return name, tuple(flag for flag in FLAGS if flag in present)


def usable_cores(root: Path) -> int:
    """Return how many physical cores this process may keep busy: affinity and cgroup quota respected."""
    # macOS and Windows know no affinity
    everywhere = set(range(os.cpu_count() or 1))
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else everywhere
    cores = {
        _read(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").strip() or str(cpu)
        for cpu in cpus
    }
    return max(1, min(len(cores), int(_cgroup_cpus(root))))


def usable_memory(root: Path) -> float:
    """Return the bytes of memory this process may use, NaN where the system does not say."""
    try:
        total = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return math.nan
    limits = [*_cgroup_values(root, "memory.max"), *_cgroup_values(root, "memory.limit_in_bytes", "memory")]
    return min([total, *(float(text) for text in limits if text.isdigit())])


def free_memory(root: Path) -> float:
    """Return the bytes this process can still take before the system ends it, NaN where that is unknown.

    A group's memory that is no file's counts as taken; what files are cached in is given back when it is needed.
    """
    fields = dict(line.split(":", 1) for line in _read(root / "proc/meminfo").splitlines() if ":" in line)
    available = fields.get("MemAvailable", "").removesuffix("kB").strip()
    left = [float(available) * 1024] if available.isdigit() else []
    for limits, taken in (("memory.max", "anon"), ("memory.limit_in_bytes", "total_rss")):
        controller = "" if limits == "memory.max" else "memory"
        for folder in _cgroup_folders(root, controller):
            limit, statistics = _read(folder / limits).strip(), _read(folder / "memory.stat").splitlines()
            used = dict(line.split(" ", 1) for line in statistics if " " in line).get(taken, "0")
            left += [float(limit) - float(used)] if limit.isdigit() and used.isdigit() else []
    return min(left, default=math.nan)


def _cgroup_cpus(root: Path) -> float:
    """Return the smallest processor quota, in CPUs, of this process's control groups (v2 and v1)."""
    pairs = [text.split() for text in _cgroup_values(root, "cpu.max")]
    quotas = _cgroup_values(root, "cpu.cfs_quota_us", "cpu")
    periods = _cgroup_values(root, "cpu.cfs_period_us", "cpu")
    pairs += [list(pair) for pair in zip(quotas, periods, strict=False)]
    limits = [int(quota) / int(period) for quota, period in pairs if quota.isdigit() and period.isdigit()]
    return min(limits, default=2.0**31)


def _cgroup_values(root: Path, name: str, controller: str = "") -> list[str]:
    """Return the texts of file `name` in this process's group and all groups above it."""
    texts = (_read(folder / name).strip() for folder in _cgroup_folders(root, controller))
    return [text for text in texts if text]


def _cgroup_folders(root: Path, controller: str) -> list[Path]:
    """Return the folders of this process's group and all groups above it."""
    found: list[Path] = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / controller
        group = mount / path.lstrip("/")
        found += [folder for folder in (group, *group.parents) if folder.is_relative_to(mount)]
    return found


def _read(path: Path) -> str:
    """Return a system file's text, or nothing where it is absent or may not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
