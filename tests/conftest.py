"""Small real things that tests share: a folder of images, weights for a tiny network, the assets if they are there."""

import contextlib
import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import timm
import torch
from hypothesis import settings
from PIL import Image
from safetensors.torch import save_file

settings.register_profile("steady", deadline=None, derandomize=True)  # other work on the machine fails no test
settings.load_profile("steady")

ASSETS = Path(__file__).resolve().parents[2] / "shared" / "assets"
TINY = "test_resnet"
"""timm's own small test network: 0.5 million parameters, with BatchNorm."""
CHROMIUM = Path("/usr/bin/chromium")


def pytest_collection_finish() -> None:
    """What is imported by now stays: a million objects that no garbage collection need look at again."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # bindings complain of what they find alive in the end


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test, nor a fixture of a module, reaches a network or the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UPCYCLE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> Iterator[None]:
    """Started in a shell's background or by nohup, the tests ignore signals, and what they test would too."""
    before = {signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler)}
    if hasattr(signal, "SIGHUP"):
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _quiet_machine() -> Iterator[None]:
    """No test leaves torch's process-wide settings changed."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def assets() -> Path:
    if not ASSETS.is_dir():
        pytest.skip(f"no assets at {ASSETS}")
    return ASSETS


def draw(kind: int, number: int, side: int = 48) -> Image.Image:
    """A picture whose class is plain to see: stripes one way, stripes the other, or a disc, in any color."""
    random = np.random.default_rng(1000 * kind + number)
    y, x = np.mgrid[0:side, 0:side]
    period = random.integers(6, 12)
    masks = (
        np.sin(2 * np.pi * x / period) > 0,
        np.sin(2 * np.pi * y / period) > 0,
        (x - side / 2) ** 2 + (y - side / 2) ** 2 < (side / 3) ** 2,
    )
    ink, paper = random.integers(0, 100, 3), random.integers(150, 256, 3)
    pixels = np.where(masks[kind][..., None], ink, paper) + random.normal(0, 12, (side, side, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def write_classes(folder: Path, counts: dict[str, int], *, start: int = 0) -> Path:
    """FOLDER/CLASS/NUMBER.png for each class, the kinds in the order of the names."""
    for kind, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(start, start + count):
            draw(kind, number).save(folder / name / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DATA/train|val|test/CLASS/* with 24, 12 and 20 images of two classes."""
    root = tmp_path_factory.mktemp("photos")
    write_classes(root / "train", {"across": 12, "down": 12})
    write_classes(root / "val", {"across": 6, "down": 6}, start=100)
    write_classes(root / "test", {"across": 10, "down": 10}, start=200)
    return root


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of weights, ImageNet-shaped head included, for the tiny network."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    model = timm.create_model(TINY)
    images = torch.stack([torch.from_numpy(np.array(draw(at % 3, at))) for at in range(24)])
    model.train()
    with torch.no_grad():  # running statistics as pretraining leaves them: those of images
        for _ in range(20):
            model((images.permute(0, 3, 1, 2).float() / 255 - 0.45) / 0.225)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    return path


@contextlib.contextmanager
def small_files() -> Iterator[None]:
    """Inside, no file may grow beyond 3,000 bytes, as on a disk that fills up; nor may pytest's own output."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def without_pages() -> Iterator[None]:
    """Inside, a run in this process ends without its report, whose figures take most of a tiny run's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("upcycle.reporting.run_page.write_report", lambda run: run.report)
        yield


@pytest.fixture
def no_page() -> Iterator[None]:
    with without_pages():
        yield


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's chromium, headless; skipped without it, unless $UPCYCLE_BROWSER says that it is required."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        no_browser("playwright is not installed")
    if not CHROMIUM.exists():
        no_browser(f"{CHROMIUM} is not installed")
    with sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield chromium
        chromium.close()


def no_browser(reason: str) -> NoReturn:
    if os.environ.get("UPCYCLE_BROWSER") == "required":
        pytest.fail(reason)
    pytest.skip(reason)
