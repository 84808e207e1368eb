"""Processor, cores and memory as files of the system show them, made up for each test."""

import math
import os
import sys

import pytest

from upcycle.errors import ConfigError
from upcycle.hardware import MOST_THREADS, checked_threads, free_memory, processor_facts, usable_cores, usable_memory

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's system files")


def tree(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_processors_name_and_relevant_flags_are_read(tmp_path):
    text = "processor\t: 0\nmodel name\t: Fast One\nflags\t\t: fpu avx2 avx512f amx_bf16\n\nprocessor\t: 1\n"
    root = tree(tmp_path, {"proc/cpuinfo": text})
    assert processor_facts(root) == ("Fast One", ("amx_bf16", "avx512f", "avx2"))


def test_an_arm_processors_features_are_its_flags(tmp_path):
    root = tree(tmp_path, {"proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd bf16\n"})
    assert processor_facts(root)[1] == ("bf16", "asimd")


def test_a_system_without_cpuinfo_has_a_name_and_no_flags(tmp_path):
    name, flags = processor_facts(tmp_path)
    assert name
    assert flags == ()


@LINUX
def test_two_threads_of_one_core_count_once(tmp_path):
    cpus = os.sched_getaffinity(0)
    siblings = {f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": "0-1\n" for cpu in cpus}
    assert usable_cores(tree(tmp_path, siblings)) == 1


@LINUX
def test_without_a_topology_every_cpu_is_a_core(tmp_path):
    assert len(os.sched_getaffinity(0)) == usable_cores(tmp_path)


@LINUX
@pytest.mark.parametrize(
    "files",
    [
        {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "150000 100000\n"},
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "20000 100000\n"},
        {
            "proc/self/cgroup": "5:memory:/x\n2:cpu,cpuacct:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    ],
)
def test_a_containers_processor_quota_limits_the_cores(tmp_path, files):
    assert usable_cores(tree(tmp_path, files)) == 1


@LINUX
@pytest.mark.parametrize(
    "files",
    [
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"},
        {
            "proc/self/cgroup": "2:cpu:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    ],
)
def test_no_quota_leaves_every_core(tmp_path, files):
    assert len(os.sched_getaffinity(0)) == usable_cores(tree(tmp_path, files))


@LINUX
@pytest.mark.parametrize(
    "files",
    [
        {"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "1048576\n"},
        {"proc/self/cgroup": "0::/gone\n", "sys/fs/cgroup/memory.max": "1048576\n"},
        {"proc/self/cgroup": "4:memory:/x\n", "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "1048576\n"},
    ],
)
def test_a_containers_memory_limit_is_respected(tmp_path, files):
    assert usable_memory(tree(tmp_path, files)) == 1048576.0


@LINUX
def test_without_a_limit_all_memory_is_usable(tmp_path):
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}
    assert os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") == usable_memory(tree(tmp_path, files))


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:   2048 kB\n"}, 2048 * 1024.0),
        (
            {
                "proc/meminfo": "MemAvailable:   2048 kB\n",
                "proc/self/cgroup": "0::/a\n",
                "sys/fs/cgroup/a/memory.max": "1000000\n",
                "sys/fs/cgroup/a/memory.stat": "anon 300000\nfile 600000\n",
            },
            700000.0,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/x\n",
                "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "1000\n",
                "sys/fs/cgroup/memory/x/memory.stat": "cache 5\ntotal_rss 400\n",
            },
            600.0,
        ),
    ],
)
def test_free_memory_is_the_least_that_any_limit_leaves(tmp_path, files, free):
    assert free == free_memory(tree(tmp_path, files))


def test_free_memory_is_unknown_where_the_system_does_not_say(tmp_path):
    assert math.isnan(free_memory(tmp_path))


def test_a_number_of_threads_that_no_machine_has_is_refused():
    for number in (0, 1, MOST_THREADS):
        checked_threads(number)
    for number in (-1, MOST_THREADS + 1):
        with pytest.raises(ConfigError, match=f"threads {number} is out of range: use 1 to {MOST_THREADS}, or 0"):
            checked_threads(number)
    for number in ("2", 2.0, True):
        with pytest.raises(ConfigError, match="is not a whole number"):
            checked_threads(number)
