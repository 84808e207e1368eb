"""The main job on real images and weights that installed packages carry: nothing is downloaded."""

from pathlib import Path
from typing import Literal

from upcycle.data.samples import write_faces, write_textures
from upcycle.errors import RunError
from upcycle.jobs.api import train
from upcycle.jobs.start import removed_unless_started, reserve
from upcycle.model.sources import get_weights
from upcycle.model.spec import resolve_arch
from upcycle.recipes import resolve
from upcycle.reporting.progress import Display, Terminal
from upcycle.reporting.text import models_table

ARCH = "tf_efficientnet_lite0"


def run_demo(data: Literal["faces", "textures"], *, out: Path | None, seed: int, show: Display | None = None) -> Path:
    """Fine-tune EfficientNet-Lite0 and train the simple CNN on the same split; returns the report's path.

    OUT holds the images and both runs.
    """
    show = show or Terminal()
    folder = out or reserve(f"demo-{data}")
    with removed_unless_started(folder, reserved=out is None):
        return _run(data, folder, seed, show)


def _run(data: Literal["faces", "textures"], out: Path, seed: int, show: Display) -> Path:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} is not empty: give another --out")
    resolve({"seed": seed})  # before anything is written
    get_weights(resolve_arch(ARCH), "auto")
    images = {"faces": write_faces, "textures": write_textures}[data](out / "images", seed)
    show.message(f"images: {images}")
    # of so few images, enough updates that the rate is seen to rise and to fall
    tuned = train(images, out=out / "upcycle", arch=ARCH, epochs=8, batch_size=8, seed=seed, show=show)
    show.message("for comparison, a simple CNN from scratch on the same images")
    # with a few images a class, batches of 32 would leave it one update an epoch
    simple = train(images, out=out / "simple-cnn", recipe="simple-cnn", batch_size=4, seed=seed, show=show)
    tested = {"upcycle": tuned.evaluation["test"], "simple CNN": simple.evaluation["test"]}
    show.table(models_table(tested))
    show.message(f"report: {tuned.directory.report}")
    return tuned.directory.report
