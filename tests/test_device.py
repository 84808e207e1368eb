import math
import platform
import subprocess
import sys
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from upcycle.device import (
    Hardware,
    apply,
    autocast,
    choose_precision,
    crowded,
    detect,
    environment,
    keep_freed_memory,
    out_of_memory,
    seed_for,
)
from upcycle.errors import ConfigError

GLIBC = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's system files")


def machine(**changed):
    facts = {"device": "cpu", "precision": "fp32", "threads": 1, "cores": 2, "processor": "A", "flags": ()}
    return Hardware(**({**facts, "gpu": None, "memory_gb": 8.0} | changed))


@pytest.mark.parametrize(
    ("device", "threads", "cores", "expected"),
    [
        ("cpu", 1, 1, 0),
        ("cpu", 4, 4, 0),
        ("cpu", 5, 5, 1),
        ("cuda", 1, 1, 1),
        ("cuda", 2, 2, 1),
        ("cuda", 1, 8, 2),
        ("mps", 8, 8, 0),
    ],
)
def test_threads_feed_an_accelerator_and_no_thread_a_few_cores(device, threads, cores, expected):
    assert expected == machine(device=device, threads=threads, cores=cores).feeders


@pytest.mark.parametrize("workers", [0, 3])
def test_workers_that_are_asked_for_are_taken(workers):
    assert workers == machine(device="cuda", workers=workers).feeders
    assert workers == detect(device="cpu", workers=workers).feeders


@pytest.fixture
def restored():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


def fresh(code):
    """Run `code` in a process of its own and return what it prints."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return result.stdout.strip()


def test_importing_the_module_imports_no_torch():
    assert fresh("import sys, upcycle.device; print('torch' in sys.modules)") == "False"


def test_a_machine_is_detected_the_same_every_time():
    assert detect() == detect()


def test_a_cpu_asked_for_is_taken_with_the_threads_asked_for():
    found = detect(device="cpu", precision="fp32", threads=3)
    assert (found.device, found.precision, found.threads, found.gpu) == ("cpu", "fp32", 3, None)


@pytest.mark.parametrize(("text", "expected"), [("5", 5), ("4,2", 4), (" 3 ", 3)])
def test_the_openmp_variable_sets_the_threads(monkeypatch, text, expected):
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert expected == detect(device="cpu").threads


def test_threads_asked_for_win_over_the_openmp_variable(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert detect(device="cpu", threads=2).threads == 2


def test_threads_are_the_cores_when_nothing_else_is_said(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = detect(device="cpu")
    assert found.cores == found.threads


@pytest.mark.parametrize("text", ["many", "0", "-1", "2.5"])
def test_an_openmp_variable_that_is_no_number_is_refused(monkeypatch, text):
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    with pytest.raises(ConfigError, match="is not a number of threads: unset it or use 1 or more"):
        detect(device="cpu")


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"device": "tpu"}, "unknown device 'tpu': use auto, cpu, cuda or mps"),
        ({"device": "cpu", "precision": "fp8"}, "unknown precision 'fp8': use auto, fp32 or bf16"),
        ({"device": "cpu", "precision": "fp16"}, "unknown precision 'fp16': use auto, fp32 or bf16"),
        ({"device": "cpu", "threads": -2}, "threads -2 is out of range"),
    ],
)
def test_impossible_requests_are_refused_in_one_line(asked, says):
    with pytest.raises(ConfigError, match=says):
        detect(**asked)


def test_a_gpu_that_torch_was_not_built_for_is_not_taken(monkeypatch):
    def zeros(*size, device=None):
        if device == "cuda":
            raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore")
        return plain(*size, device=device)

    plain = torch.zeros
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", zeros)
    assert detect().device == "cpu"
    busy = RuntimeError("CUDA-capable device(s) is/are busy or unavailable")
    with (
        monkeypatch.context() as patch,
        pytest.raises(ConfigError, match=r"the GPU cannot be used now .*busy.*: free it"),
    ):
        patch.setattr(torch, "zeros", Mock(side_effect=busy))
        detect()
    with pytest.raises(
        ConfigError, match=r"the GPU cannot be used by this torch \(CUDA error: no kernel .*device\): use"
    ):
        detect(device="cuda")


def test_fp32_on_a_gpu_is_not_tf32():
    apply(replace(detect(device="cpu"), device="cuda"))
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (torch.OutOfMemoryError("x"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("GET was unable to find an engine to execute this computation"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_an_accelerator_out_of_memory_is_known_by_what_its_libraries_say(error, full):
    assert full == out_of_memory(error)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA GPU is here")
def test_cuda_is_refused_where_there_is_none():
    with pytest.raises(ConfigError, match="device cuda was asked for but torch sees none here"):
        detect(device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
def test_a_cuda_gpu_is_taken_and_named():
    found = detect()
    assert ("cuda", torch.cuda.get_device_name()) == (found.device, found.gpu)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [(("avx512_bf16", "avx2"), "bf16"), (("amx_bf16",), "bf16"), (("avx512f", "avx2"), "fp32"), ((), "fp32")],
)
def test_the_precision_follows_the_processors_flags(flags, expected):
    assert expected == choose_precision("auto", "cpu", flags)


def test_bf16_may_be_asked_for_on_any_processor():
    assert choose_precision("bf16", "cpu", ()) == "bf16"


def test_mps_computes_in_fp32_only():
    assert choose_precision("auto", "mps", ()) == "fp32"
    with pytest.raises(ConfigError, match="precision bf16 is not available on mps here: use fp32"):
        choose_precision("bf16", "mps", ())


def test_applying_sets_threads_seed_and_deterministic_algorithms(restored):
    apply(machine(threads=1), 5)
    first = torch.rand(3)
    apply(machine(threads=2), 5)
    assert torch.equal(first, torch.rand(3))
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == (2, True)


@pytest.mark.skipif(not GLIBC, reason="only glibc's allocator has these settings")
def test_freed_memory_is_kept_so_that_no_page_is_faulted_in_twice():
    faults = fresh(
        "import ctypes, resource, sys\n"
        "from upcycle.device import keep_freed_memory\n"
        "assert keep_freed_memory()\n"
        "libc = ctypes.CDLL(None); libc.malloc.restype = ctypes.c_void_p; size = 100 * 2**20\n"
        "def use():\n"
        "    block = ctypes.c_void_p(libc.malloc(size)); ctypes.memset(block, 1, size); libc.free(block)\n"
        "use(); before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "use(); use()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    assert int(faults) < 100  # 51,200 pages of 4 KiB otherwise


@pytest.mark.skipif(not GLIBC, reason="only glibc's allocator has these settings")
@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("MALLOC_TRIM_THRESHOLD_", "131072", "False"),
        ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=131072", "False"),
        ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=2", "True"),
    ],
)
def test_an_allocator_that_was_set_by_its_own_variables_is_left_as_it_is(monkeypatch, name, value, expected):
    monkeypatch.setenv(name, value)
    assert expected == fresh("from upcycle.device import keep_freed_memory; print(keep_freed_memory())")


@pytest.mark.skipif(GLIBC, reason="glibc is here")
def test_other_allocators_are_left_alone():
    assert keep_freed_memory() is False


@pytest.mark.parametrize(("precision", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_forward_pass_computes_in_the_machines_precision(precision, expected):
    layer = torch.nn.Linear(4, 2)
    with autocast(machine(precision=precision)):
        result = layer(torch.ones(1, 4))
    assert expected == result.dtype


def test_a_seed_is_a_function_of_its_parts_that_never_changes():
    # the first eight bytes of sha256("(7, 'batch', 3, 12)"), little-endian, halved
    assert seed_for(7, "batch", 3, 12) == 4261693802454045298


def test_numpys_integers_give_the_seed_of_plain_ones():
    assert seed_for(7, 3) == seed_for(np.int64(7), np.int32(3))


def test_other_parts_kinds_and_orders_give_other_seeds():
    parts = [(1, 2), (2, 1), (12,), ("1", 2), (1, "2"), (1, 2, 0), ()]
    assert len(parts) == len({seed_for(*some) for some in parts})


def test_a_part_that_is_no_whole_number_is_refused():
    with pytest.raises(TypeError):
        seed_for(0.5)


def test_seeds_fit_in_63_bits():
    seeds = [seed_for("range", i) for i in range(1000)]
    assert min(seeds) >= 0
    assert 2**62 < max(seeds) < 2**63


def test_the_environment_names_versions_and_hardware():
    described = environment(machine(flags=("avx2",), memory_gb=7.96))
    assert {"python", "upcycle", "torch", "timm", "numpy", "Pillow", "scikit-learn"} == set(described["versions"])
    assert platform.python_version() == described["versions"]["python"]
    assert tuple(
        described[key] for key in ("processor", "flags", "cores", "threads", "device", "precision", "gpu", "memory_gb")
    ) == ("A", ["avx2"], 2, 1, "cpu", "fp32", None, 8.0)


def test_memory_that_is_unknown_is_left_out_of_the_environment():
    assert environment(machine(memory_gb=math.nan))["memory_gb"] is None


@pytest.mark.parametrize(("asked", "wish", "says"), [(3, "", 3), (0, "4", 4), (2, "4", 0), (0, "", 0)])
def test_more_threads_than_cores_are_told(asked: int, wish: str, says: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upcycle.device.usable_cores", lambda _: 2)
    monkeypatch.setenv("OMP_NUM_THREADS", wish)
    expected = f"{says} threads share 2 cores, which is slower: give --threads 2" if says else ""
    assert expected == crowded(asked)
