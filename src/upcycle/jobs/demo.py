"""The main job on real images and weights that installed packages carry: nothing is downloaded.

The images are two small sets, written out as image folders from what scikit-image carries. It is never imported: its
files are read where they lie.
"""

import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from upcycle.errors import DataError, RunError
from upcycle.jobs.api import train
from upcycle.jobs.start import removed_unless_started, reserve
from upcycle.model.sources import get_weights, resolve_arch
from upcycle.recipes import resolve
from upcycle.reporting.progress import Display, Terminal
from upcycle.reporting.text import models_table
from upcycle.rundir import storage_errors

ARCH = "tf_efficientnet_lite0"
Gray = npt.NDArray[np.uint8]
Images = dict[str, Gray]  # path below the folder -> pixels, height x width

TEXTURES = ("brick", "grass", "gravel")
PATCH = 64  # pixels, the side of a texture patch
GAP = 32  # pixels between the patches of two splits

_FACES_A_SPLIT = {"train": 30, "val": 10, "test": 60}  # of each class
# Where the strips of a photograph begin, across its 512 pixels; patches of one strip touch each other.
_STRIPS = {
    "train": (0,),
    "val": (PATCH + GAP,),
    "test": tuple(range(2 * (PATCH + GAP), 512, PATCH)),
}


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


# -------------------------------------------------------------------------------- images


def _carried(name: str) -> Path:
    """The file `name` of scikit-image's data folder; DataError where it is not on this machine."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise DataError("the sample images come with scikit-image: run pip install 'upcycle[demo]'")
    path = Path(spec.origin).parent / "data" / name
    if not path.is_file():
        raise DataError(f"this scikit-image lacks {name} and nothing is downloaded: run pip install 'upcycle[demo]'")
    return path


def photograph(name: str) -> Image.Image:
    """A photograph that scikit-image carries, such as "chelsea" (a cat) or "coffee"."""
    with Image.open(_carried(f"{name}.png")) as image:
        return image.copy()


def _order(seed: int, name: str) -> bytes:
    # A hash and not a generator: the same split under every version of numpy.
    return hashlib.sha256(f"{seed}/{name}".encode()).digest()


def _faces(seed: int) -> Images:
    pixels = np.round(np.load(_carried("lfw_subset.npy"), allow_pickle=False) * 255).astype(np.uint8)
    images: Images = {}
    for label, first in (("face", 0), ("background", 100)):
        members = sorted(range(first, first + 100), key=lambda i: _order(seed, f"{i:03}"))
        for split, count in _FACES_A_SPLIT.items():
            images |= {f"{split}/{label}/{i:03}.png": pixels[i] for i in sorted(members[:count])}
            members = members[count:]
    return images


def _boxes(side: int) -> Iterator[tuple[str, int, int]]:
    """(split, row, column) of every patch; the training strip lies left, top, right or bottom (0..3)."""
    for split, strips in _STRIPS.items():
        for across in strips:
            place = across if side < 2 else 512 - PATCH - across
            for along in range(0, 512, PATCH):
                yield (split, along, place) if side % 2 == 0 else (split, place, along)


def _textures(seed: int) -> Images:
    images: Images = {}
    for label in TEXTURES:
        pixels = np.asarray(photograph(label).convert("L"))
        for split, row, column in _boxes(_order(seed, label)[0] % 4):
            name = f"{split}/{label}/{row:03}-{column:03}.png"
            images[name] = pixels[row : row + PATCH, column : column + PATCH]
    return images


def _write(folder: Path, images: Images) -> Path:
    with storage_errors(folder):
        for name, pixels in images.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / name)
    return folder


def write_faces(folder: Path, seed: int = 0) -> Path:
    """`folder`, with 100 faces and 100 patches without one: 60 to train, 20 to validate, 120 to test.

    Gray PNGs of 25 x 25 pixels at train|val|test/face|background/NNN.png, where NNN is the place in
    scikit-image's `lfw_subset` (from Labeled Faces in the Wild, Huang et al. 2007). Half of each
    split is of each class; `seed` chooses which. DataError when scikit-image is not installed.
    """
    return _write(folder, _faces(seed))


def write_textures(folder: Path, seed: int = 0) -> Path:
    """`folder`, with patches of photographs of brick, grass and gravel, split by place.

    Gray PNGs of 64 x 64 pixels at train|val|test/CLASS/ROW-COLUMN.png: of each class 8 to train, 8
    to validate and 40 to test. Each split is a strip of the photograph with 32 pixels between, so no
    test patch touches a training patch; `seed` chooses the side the strips begin at. DataError as for `write_faces`.
    """
    return _write(folder, _textures(seed))
