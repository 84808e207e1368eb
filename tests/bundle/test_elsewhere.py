"""An exported model without upcycle: in a browser, and in an environment that holds three packages."""

import base64
import functools
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import platformdirs
import pytest
from filelock import FileLock
from PIL import Image

import upcycle
from tests.conftest import TINY, draw, no_browser, without_pages
from upcycle.bundle.description import MODEL
from upcycle.bundle.runtime import open_session, probabilities
from upcycle.jobs.export import export
from upcycle.reporting.progress import Silent

pytestmark = pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="needs the extra export")
EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
WEB = "onnxruntime-web@1.30.0"
WEB_SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
Pixels = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def run(photos: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> upcycle.Run:
    options = {"arch": TINY, "weights": str(tiny_weights), "recipe": "probe", "image_size": 64, "threads": 1}
    folder = tmp_path_factory.mktemp("elsewhere") / "run"
    with without_pages():
        return upcycle.train(photos, out=folder, precision="fp32", device="cpu", show=Silent(), **options)


@pytest.fixture(scope="module")
def model(run: upcycle.Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(run, out=tmp_path_factory.mktemp("exported") / "model", threads=1, show=Silent()) / MODEL


@pytest.fixture(scope="module")
def unsure(model: Path) -> Pixels:
    """A photo between the classes, [131, 90, 3]: a small difference of its pixels is seen in its probabilities."""
    session = open_session(model, 1)
    across, down = (np.asarray(draw(kind, 7, 131), dtype=float)[:, :90] for kind in (0, 1))
    shares = np.linspace(0, 1, 1001)
    mixed = ((share * down + (1 - share) * across).astype(np.uint8) for share in shares)
    return min(mixed, key=lambda pixels: abs(probabilities(session, pixels)[1] - 0.4))


@pytest.fixture(scope="module")
def onnxruntime_web() -> Path:
    """The files of npm's package, fetched once per machine and compared with their digest."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed: it fetches onnxruntime-web")
    folder = platformdirs.user_cache_path("upcycle-tests") / WEB
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            _fetch(npm, folder)
    return folder / "package" / "dist"


def _fetch(npm: str, folder: Path) -> None:
    made = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    packed = subprocess.run([npm, "pack", WEB], cwd=made, capture_output=True, text=True, timeout=300, check=False)
    if packed.returncode:
        no_browser(f"npm could not fetch {WEB}: {packed.stderr[-300:]}")
    (archive,) = made.glob("*.tgz")
    assert WEB_SHA512 == base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    with tarfile.open(archive) as files:
        files.extractall(made, filter="data")
    archive.unlink()
    made.rename(folder)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None: ...


@pytest.fixture(scope="module")
def page(browser: Any, onnxruntime_web: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The example's page, open in the browser, with the model beside it."""
    site = tmp_path_factory.mktemp("site")
    shutil.copy(EXAMPLES / "predict.html", site)
    shutil.copy(model, site)
    dist = site / "node_modules" / "onnxruntime-web" / "dist"
    dist.parent.mkdir(parents=True)
    dist.symlink_to(onnxruntime_web)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    opened = browser.new_page()
    opened.errors = []
    opened.on("pageerror", lambda error: opened.errors.append(str(error)))
    opened.goto(f"http://127.0.0.1:{server.server_port}/predict.html")
    yield opened
    opened.close()
    server.shutdown()
    server.server_close()


def answer(page: Any, photo: Path) -> list[float]:
    """The probabilities that the page shows for a file."""
    page.wait_for_function("document.querySelector('input').onchange !== null", timeout=60_000)
    page.evaluate("document.querySelector('pre').textContent = ''")
    page.set_input_files("input", photo)
    page.wait_for_function("document.querySelector('pre').textContent !== ''", timeout=60_000)
    assert [] == page.errors
    return [float(line) for line in page.inner_text("pre").split()]


def test_a_browser_gives_the_probabilities_of_python(page: Any, model: Path, unsure: Pixels, tmp_path: Path) -> None:
    session = open_session(model, 1)
    other = np.random.default_rng(0).integers(0, 256, (40, 71, 3), dtype=np.uint8)
    for name, pixels in (("unsure", unsure), ("wide", np.asarray(draw(1, 3))[:20]), ("noise", other)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        seen, expected = answer(page, tmp_path / f"{name}.png"), probabilities(session, pixels)
        assert expected == pytest.approx(seen, abs=0.005), name
        assert expected.argmax() == np.argmax(seen)
    assert 0.2 < probabilities(session, unsure)[1] < 0.8


def test_a_browser_sees_a_photo_upright(page: Any, model: Path, unsure: Pixels, tmp_path: Path) -> None:
    session, exif = open_session(model, 1), Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn to the right
    Image.fromarray(np.rot90(unsure)).save(tmp_path / "turned.jpg", quality=100, subsampling=0, exif=exif)
    upright = np.rot90(np.asarray(Image.open(tmp_path / "turned.jpg")), -1)
    seen, expected = answer(page, tmp_path / "turned.jpg"), probabilities(session, upright)
    assert expected == pytest.approx(seen, abs=0.05)  # decoders of JPEG differ by a gray level
    assert probabilities(session, np.rot90(upright)) != pytest.approx(seen, abs=0.2)


def test_a_browser_sees_transparent_parts_as_white(page: Any, model: Path, unsure: Pixels, tmp_path: Path) -> None:
    session = open_session(model, 1)
    layered = np.dstack([unsure, np.full(unsure.shape[:2], 255, np.uint8)])
    layered[60:70, 40:50, 3] = 0
    Image.fromarray(layered).save(tmp_path / "cut.png")
    white, black = (np.where(layered[..., 3:] == 0, np.uint8(level), unsure) for level in (255, 0))
    seen = answer(page, tmp_path / "cut.png")
    assert probabilities(session, white) == pytest.approx(seen, abs=0.005)
    assert probabilities(session, black) != pytest.approx(seen, abs=0.05)


@pytest.mark.slow
def test_three_packages_give_the_probabilities_of_the_run(
    run: upcycle.Run, model: Path, unsure: Pixels, photos: Path, tmp_path: Path
) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    quiet = ("--quiet", "--disable-pip-version-check")
    subprocess.run([python, "-m", "pip", "install", *quiet, "onnxruntime", "numpy", "pillow"], check=True)
    exif, layered = Image.Exif(), Image.fromarray(unsure).convert("RGBA")
    exif[0x0112] = 6
    Image.fromarray(np.rot90(unsure)).save(tmp_path / "turned.jpg", exif=exif)
    layered.putalpha(Image.linear_gradient("L").resize(layered.size))
    layered.save(tmp_path / "layered.png")
    files = [*sorted(photos.glob("test/*/*.png")), tmp_path / "turned.jpg", tmp_path / "layered.png"]
    shutil.copy(EXAMPLES / "predict.py", tmp_path)
    told = subprocess.run(
        [python, "-I", tmp_path / "predict.py", *files], cwd=model.parent, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    given = [[float(share) for share in line.split()[1:]] for line in told]
    expected = [list(one.probabilities.values()) for one in run.predict(files)]
    assert [str(file) for file in files] == [line.split()[0] for line in told]
    assert np.array(expected) == pytest.approx(np.array(given), abs=0.005)


def test_the_manual_shows_the_python_that_is_run() -> None:
    shown = (EXAMPLES.parent / "shipping.md").read_text(encoding="utf-8")
    assert f"```python\n{(EXAMPLES / 'predict.py').read_text(encoding='utf-8')}```" in shown
