"""A bundle: a model that predicts without its run, in a folder of plain files.

`model.onnx`, or config.json and model.safetensors for timm, is all that other programs need. `bundle.json` says what
it is, where it comes from and what was proved of it, with the sha256 of every other file. Needs no torch.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from upcycle.bundle.proof import Proof, Quantized
from upcycle.data.preprocessing import Preprocessing
from upcycle.errors import ConfigError, ExportError, RunError, shown
from upcycle.evaluation.thresholds import Thresholds
from upcycle.rundir import read_json, read_value
from upcycle.task import Task

FILE = "bundle.json"
MODEL = "model.onnx"
INT8 = "model.int8.onnx"
CARD = "README.md"
EVALUATION = "evaluation.json"
PREDICTIONS = "predictions.csv"
NOVELTY = "novelty.safetensors"
TIMM = ("config.json", "model.safetensors")
FILES = (MODEL, INT8, *TIMM, NOVELTY, EVALUATION, PREDICTIONS, CARD)
"""Names of all that a bundle may hold beside bundle.json."""
_NEEDED = (EVALUATION, PREDICTIONS, CARD)
_VERSION = 1
Format = Literal["onnx", "timm"]


@dataclass(frozen=True)
class Origin:
    """The run that a bundle was made from.

    `weights`, `manifest`, `splits`: sha256 of its best weights, of its checksums and of the list of its images;
    `images`: how many of each class are in each split; `license`: of the weights that training started from, "" where
    that is not known.
    """

    recipe: str
    seed: int
    weights: str
    manifest: str
    splits: str
    images: dict[str, dict[str, int]]
    license: str
    versions: dict[str, str | None]


@dataclass(frozen=True)
class Description:
    """What bundle.json holds.

    `model`: the run's model.json; `split`: the one whose scores the card has; `batch`: the ONNX model takes images
    that are resized, cropped and normalized; `proof`: of an ONNX model; `thresholds`: when it answers, None for always;
    `files`: the sha256 of every other file.
    """

    format: Format
    model: Mapping[str, Any]
    origin: Origin
    split: str
    batch: bool = False
    proof: Proof | None = None
    int8: Quantized | None = None
    thresholds: Thresholds | None = None
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def task(self) -> Task:
        """What the model tells apart."""
        return Task.from_dict(self.model)

    @property
    def preprocessing(self) -> Preprocessing:
        """That of training."""
        return Preprocessing.from_dict(self.model["preprocessing"])

    def _check(self) -> None:
        """ValueError, or what reading a value raises, for what no export holds."""
        task, weights = self.task, self.model["weights"]
        _ = self.preprocessing, str(self.model["arch"]), str(weights["source"]), str(weights["sha256"])
        rule = self.thresholds.rule if self.thresholds is not None else None
        if rule is not None and rule.label not in (None, *task.classes):
            raise ValueError(f"its thresholds are about {shown(rule.label)}, which is no class")
        lacking = {*_NEEDED, *((MODEL,) if self.format == "onnx" else TIMM)} - self.files.keys()
        if lacking:
            raise ValueError(f"it does not name {min(lacking)}")

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {"upcycle_bundle": _VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str) -> "Description":
        """The inverse of `to_dict`; ExportError for another version, or for what no bundle holds."""
        version = values.get("upcycle_bundle") if isinstance(values, Mapping) else None
        if version != _VERSION:
            raise ExportError(f"{source} is of bundle version {version!r}, and this upcycle reads {_VERSION}")
        try:
            made = read_value(cls, {key: value for key, value in values.items() if key != "upcycle_bundle"}, source)
            made._check()
        except (AttributeError, ConfigError, LookupError, RunError, TypeError, ValueError) as error:
            raise ExportError(f"{source} is damaged ({error}): export the run again") from None
        return made


def is_bundle(folder: Path) -> bool:
    """Whether a folder is a bundle, whole or not."""
    return (folder / FILE).is_file()


def read_bundle(folder: Path) -> Description:
    """What a bundle is; ExportError for one that lacks a file or holds another than was exported."""
    if not is_bundle(folder):
        raise ExportError(f"{folder} is no bundle: give the folder that upcycle export wrote")
    made = Description.from_dict(read_json(folder / FILE), str(folder / FILE))
    for name, expected in made.files.items():
        path = folder / name
        if Path(name).name != name or path.is_symlink():
            raise ExportError(f"{folder / FILE} names a file outside its folder: {name!r}")
        if not path.is_file():
            raise ExportError(f"{path} is missing: export the run again")
        if sha256_of(path) != expected:
            raise ExportError(f"{path} is not the file that was exported (its sha256 differs): export the run again")
    return made


def sha256_of(path: Path) -> str:
    """The digest of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
