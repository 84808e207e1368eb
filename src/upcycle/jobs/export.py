"""Exporting a run: a model that predicts elsewhere what it predicted here, and the proof on the run's own photos."""

import contextlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from upcycle import device as machines
from upcycle.bundle import description as bundle
from upcycle.bundle.card import card
from upcycle.bundle.proof import Proof, judge_int8, prove
from upcycle.bundle.runtime import EXTRA, open_session, probabilities
from upcycle.config import path_or_none
from upcycle.data import decode
from upcycle.data.augment import center_crop, normalize
from upcycle.data.splits import Recorded, read_splits
from upcycle.errors import ConfigError, DataError, ExportError, RunError, counted, shown
from upcycle.evaluation.results import Predictions, RunEvaluation, read_predictions
from upcycle.evaluation.thresholds import Thresholds
from upcycle.hardware import usable_cores
from upcycle.jobs.evaluate import content_of, own_images
from upcycle.jobs.predict import load
from upcycle.jobs.run import Run, check_finished, run_of
from upcycle.model import checkpoint
from upcycle.model.catalog import BACKBONES
from upcycle.model.network import ModelSpec, Network
from upcycle.reporting.progress import Display, Silent, default_show
from upcycle.rundir import RunDir, read_json, storage_errors, write_bytes, write_json, write_text

SPLITS = ("train", "val", "test")
Photo = npt.NDArray[np.uint8]
_Rows = npt.NDArray[np.float64]
_TOGETHER = 32
"""Images that torch predicts together; by itself each would take several times as long."""
_TIMED = 20
"""Images that it predicts one by one as well, for the time that takes."""


def export(
    run: Run | Path | str,
    data: Path | str | None = None,
    *,
    out: Path | str | None = None,
    format: bundle.Format = "onnx",
    int8: bool = False,
    batch: bool = False,
    threads: int = 0,
    show: Display | None = None,
) -> Path:
    """Write a finished run's model for use elsewhere, proved on its test images; returns the folder.

    `format` onnx: model.onnx takes one decoded photo of any size, uint8 [H, W, 3], RGB; with `batch` images that are
    resized, cropped and normalized before, float [N, 3, S, S]. `int8` adds model.int8.onnx. `format` timm: config.json
    and model.safetensors as timm and the Hub write them. `data` is where the run's images are now, if they have moved;
    `out` is left out for export/FORMAT in the run. ExportError, and no file, where the model does not predict the same.
    """
    show, directory = show or default_show(), run_of(run).directory
    if format not in ("onnx", "timm"):
        raise ConfigError(f"format {format!r} is neither onnx nor timm")
    if format == "timm" and (int8 or batch):
        raise ConfigError("--int8 and --batch are of --format onnx")
    source = _Source.of(directory, path_or_none(data, "the folder of the run's images"), threads)
    folder = path_or_none(out, "a folder") or directory.root / "export" / format
    _check_free(folder)
    count = threads or usable_cores(Path("/"))
    with machines.restored():
        torch.set_num_threads(count)
        if format == "timm":
            return _export_timm(source, folder, show)
        return _export_onnx(source, folder, int8=int8, batch=batch, threads=count, show=show)


@dataclass(frozen=True, eq=False)
class _Source:
    """A finished run, its network in fp32, and the images that its copy is judged by."""

    run: RunDir
    spec: ModelSpec
    network: Network
    thresholds: Thresholds | None
    split: str
    rows: list[Recorded]
    root: Path
    data: Path | None

    @classmethod
    def of(cls, run: RunDir, data: Path | None, threads: int) -> "_Source":
        """RunError where the run is not finished; what else `load` refuses."""
        check_finished(run)
        model = load(run.root, threads=threads, device="cpu", show=Silent())
        split = "test" if any(row.split == "test" for row in read_splits(run.splits)) else "val"
        rows, root = own_images(run, split, data)
        network = checkpoint.load_model(run.best, model.network)  # without a machine: in fp32, unfolded
        return cls(run, model.network, network, model.thresholds, split, rows, root, data)

    def describe(self, format: bundle.Format) -> bundle.Description:
        """The beginning of a bundle's description."""
        config = read_json(self.run.config)
        counts = Counter((row.label, row.split) for row in read_splits(self.run.splits))
        images = {
            label: {split: counts[label, split] for split in SPLITS if counts[label, split]}
            for label in self.spec.classes
        }
        origin = bundle.Origin(
            recipe=str(config.get("recipe")),
            seed=int(config.get("seed") or 0),
            weights=bundle.sha256_of(self.run.best),
            manifest=bundle.sha256_of(self.run.manifest),
            splits=bundle.sha256_of(self.run.splits),
            images=images,
            license=license_of(self.spec),
            versions={**machines.versions(), **{name: machines.version(name) for name in ("onnx", "onnxruntime")}},
        )
        model = replace(
            self.spec,
            weights_source=without_folders(self.spec.weights_source),
            preprocessing=replace(self.spec.preprocessing, source=without_folders(self.spec.preprocessing.source)),
        )
        return bundle.Description(format, model.to_dict(), origin, self.split, thresholds=self.thresholds)

    def photo(self, row: Recorded) -> Photo:
        """A recorded image as other programs decode it: whole, upright, RGB."""
        image, _, _ = decode.whole(content_of(row, self.root), self.spec.preprocessing.scale)
        return np.asarray(image)

    def images(self, photo: Photo) -> torch.Tensor:
        """What the network is given for a photo, [1, 3, S, S]."""
        preprocessing = self.spec.preprocessing
        frame = decode.load_image(photo, preprocessing.decoding)
        return normalize(center_crop([frame], preprocessing.size), preprocessing)

    def probabilities(self, images: torch.Tensor) -> _Rows:
        """The probabilities [n, K] of the trained network in fp32."""
        with torch.inference_mode():
            return self.spec.task.probabilities(self.network(images).numpy())


def _export_timm(source: _Source, folder: Path, show: Display) -> Path:
    from upcycle.bundle.timm_folder import timm_files

    files = timm_files(source.network, source.spec)
    if source.spec.views != "none":
        show.message("timm gives the logits of one view; the run averages those of several")
    return _write(folder, files, source.describe("timm"), source, show)


def _export_onnx(source: _Source, folder: Path, *, int8: bool, batch: bool, threads: int, show: Display) -> Path:
    """Make the graphs, prove them, and only then write them."""
    try:
        from upcycle.bundle import graph
        from upcycle.bundle.int8 import CALIBRATION, quantized
    except ImportError as error:
        raise ExportError(f"onnx cannot be imported ({error}): {EXTRA}") from None
    spec, size = source.spec, source.spec.preprocessing.size
    show.message(f"exporting {spec.arch}, {len(spec.classes)} classes, {size} px")
    network = graph.network_graph(source.network, spec.task, size, batch=batch)
    made = replace(source.describe("onnx"), batch=batch)

    def finished(plain: Any) -> bytes:
        whole = plain if batch else graph.photo_graph(plain, spec.preprocessing)
        content: bytes = graph.described(whole, _metadata(made)).SerializeToString()
        return content

    models = {"fp32": finished(network)}
    if int8:
        models["int8"] = finished(quantized(network, _calibration(source, CALIBRATION)))
    if source.split == "test":
        source.run.note_test_read("export")
    measured = _measure(source, models, batch=batch, threads=threads, show=show)
    rows = {name: np.stack(found) for name, found in measured.rows.items()}
    recorded = _recorded(source)
    seconds = (measured.seconds["fp32"], measured.seconds["torch"])
    proof = prove(rows["fp32"], rows["torch"], recorded, split=source.split, seconds=seconds, threads=threads)
    show.message(proof.describe())
    show.message(proof.of_the_run())
    _warn(source, proof, show)
    made = replace(made, proof=proof)
    if int8:
        sizes = len(models["int8"]), len(models["fp32"])
        cost = judge_int8(rows["fp32"], rows["int8"], recorded, measured.seconds, sizes)
        show.message(cost.describe())
        if cost.f1.high < 0:
            show.warn("int8 is significantly worse here: use model.onnx")
        made = replace(made, int8=cost)
    names = {"fp32": bundle.MODEL, "int8": bundle.INT8}
    return _write(folder, {names[name]: content for name, content in models.items()}, made, source, show)


def _warn(source: _Source, proof: Proof, show: Display) -> None:
    """Of scores that flatter the model, and of recorded answers that are not its own."""
    if proof.split == "val":
        refit = ", and its head was then trained on them" if read_json(source.run.evaluation).get("refit") else ""
        show.warn(f"there is no test set: the validation images chose the model{refit}, so these scores flatter it")
    if proof.recorded_same < 0.98 * proof.images:
        show.warn(
            f"the run recorded other answers for {counted(proof.images - proof.recorded_same, 'image')}: it was "
            "computed in another precision, or by another version"
        )


@dataclass(eq=False)
class _Measured:
    """Probabilities and seconds per image, by model: torch, fp32 and int8."""

    rows: dict[str, list[_Rows]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def time(self, name: str, compute: Callable[[], _Rows]) -> _Rows:
        """One image of one model, timed."""
        began = time.perf_counter()
        row = compute()
        self.seconds.setdefault(name, []).append(time.perf_counter() - began)
        return row

    def take(self, name: str, compute: Callable[[], _Rows]) -> None:
        """The same, kept."""
        self.rows.setdefault(name, []).append(self.time(name, compute))


def _measure(source: _Source, models: dict[str, bytes], *, batch: bool, threads: int, show: Display) -> _Measured:
    """Every image by every model in turn; seconds of torch are those of the first ones."""
    sessions = {name: open_session(content, threads, shared=True) for name, content in models.items()}
    found = _Measured()

    def answer(session: Any, photo: Photo) -> _Rows:
        if not batch:
            return probabilities(session, photo)
        (rows,) = session.run(["probabilities"], {"images": source.images(photo).contiguous().numpy()})
        return np.asarray(rows[0], dtype=np.float64)

    waiting: list[torch.Tensor] = []
    with show.progress("proving the export") as report, ThreadPoolExecutor(1) as ahead:
        decoding = ahead.submit(source.photo, source.rows[0])
        for done, row in enumerate(source.rows, 1):
            photo = _decoded(decoding.result, row)
            if done < len(source.rows):
                decoding = ahead.submit(source.photo, source.rows[done])
            for name, session in sessions.items():
                found.take(name, lambda session=session, photo=photo: answer(session, photo))  # type: ignore[misc]
            if done <= _TIMED:
                found.time("torch", lambda photo=photo: source.probabilities(source.images(photo)))  # type: ignore[misc]
            waiting.append(source.images(photo))
            if len(waiting) == _TOGETHER or done == len(source.rows):
                found.rows.setdefault("torch", []).extend(source.probabilities(torch.cat(waiting)))
                waiting.clear()
            report(done, len(source.rows))
    return found


def _decoded(photo: Callable[[], Photo], row: Recorded) -> Photo:
    try:
        return photo()
    except DataError as error:
        raise DataError(f"{shown(row.path)}: {error}; the export is proved on all images of the split") from None


def _recorded(source: _Source) -> Predictions:
    """The run's own predictions, in the order of the images; copies of one image with two labels are two."""
    recorded = read_predictions(source.run.predictions(source.split))
    places: dict[tuple[str, str], list[int]] = {}
    for at in reversed(range(len(recorded))):
        places.setdefault((recorded.hashes[at], recorded.classes[recorded.labels[at]]), []).append(at)
    return recorded.part(np.array([places[row.sha256, row.label].pop() for row in source.rows]))


def _calibration(source: _Source, count: int) -> Iterator[npt.NDArray[np.float32]]:
    """Training photos, evenly over the list, as the network is given them."""
    rows, root = own_images(source.run, "train", source.data)
    for at in np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int):
        image, _, _ = decode.whole(content_of(rows[at], root), source.spec.preprocessing.scale)
        yield source.images(np.asarray(image)).contiguous().numpy()


def _metadata(made: bundle.Description) -> dict[str, str]:
    """What other readers expect in an ONNX file (`names`, `imgsz`, `task`, as Ultralytics writes them), and ours."""
    size = made.preprocessing.size
    own = {"model": made.model, "origin": asdict(made.origin)}
    own |= {"thresholds": made.thresholds.to_dict()} if made.thresholds is not None else {}
    return {
        "names": str(dict(enumerate(made.task.classes))),
        "imgsz": str([size, size]),
        "task": "classify",
        "upcycle": json.dumps(own, ensure_ascii=False, sort_keys=True),
    }


def license_of(spec: ModelSpec) -> str:
    """The license of the weights that training started from, "" where it is not known: a file may be anybody's."""
    if not spec.weights_source.startswith(("timm's cache, ", "downloaded from ", "package ")):
        return ""
    known = {one.name: one.license for one in BACKBONES}
    return known.get(spec.arch) or known.get(spec.arch.partition(".")[0], "")


def without_folders(source: str) -> str:
    """Where weights or numbers came from, without the folders of this machine."""
    kind = next((one for one in ("file ", "folder ", "run ", "local-dir:") if source.startswith(one)), "")
    return kind + PurePath(source.removeprefix(kind)).name if kind else source


def _check_free(folder: Path) -> None:
    """RunError for a folder that holds anything but an export, or what is none."""
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not _is_export(folder))):
        raise RunError(f"{folder} is there already and holds no export: choose another --out")


def _is_export(folder: Path) -> bool:
    if not bundle.is_bundle(folder):
        return False
    with contextlib.suppress(RunError):
        values = read_json(folder / bundle.FILE)
        return isinstance(values, Mapping) and "upcycle_bundle" in values
    return False


def _write(folder: Path, files: Mapping[str, bytes], made: bundle.Description, source: _Source, show: Display) -> Path:
    """Everything into a folder beside it, which then takes its place: an earlier export is whole until then."""
    unfinished, earlier = (folder.with_name(f".{folder.name}.{state}") for state in ("unfinished", "earlier"))
    with storage_errors(folder):
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
    for name, content in files.items():
        write_bytes(unfinished / name, content)
    _anonymous(read_predictions(source.run.predictions(source.split))).save(unfinished / bundle.PREDICTIONS)
    evaluation = RunEvaluation.from_dict(read_json(source.run.evaluation))
    write_json(unfinished / bundle.EVALUATION, evaluation.to_dict())
    write_text(unfinished / bundle.CARD, card(made, evaluation))
    names = [*files, bundle.PREDICTIONS, bundle.EVALUATION, bundle.CARD]
    if source.run.novelty.exists() and made.format == "onnx":
        write_bytes(unfinished / bundle.NOVELTY, source.run.novelty.read_bytes())
        names.append(bundle.NOVELTY)
    described = replace(made, files={name: bundle.sha256_of(unfinished / name) for name in names})
    write_json(unfinished / bundle.FILE, described.to_dict())
    with storage_errors(folder):
        _exchange(folder, unfinished, earlier)
    show.message(f"wrote {folder}: {', '.join([*names, bundle.FILE])}")
    return folder


def _exchange(folder: Path, made: Path, earlier: Path) -> None:
    """Put `made` in the place of `folder`, whose other files, if it has any, stay in it."""
    shutil.rmtree(earlier, ignore_errors=True)
    if folder.exists():
        folder.rename(earlier)
    made.rename(folder)
    if earlier.exists():
        for path in earlier.iterdir():
            if path.name not in (bundle.FILE, *bundle.FILES):
                path.rename(folder / path.name)
        shutil.rmtree(earlier)


def _anonymous(recorded: Predictions) -> Predictions:
    """The same without names of files and groups, which may be of people."""
    groups = {name: str(number) for number, name in enumerate(dict.fromkeys(filter(None, recorded.groups)), 1)}
    return replace(
        recorded,
        paths=tuple(f"{number:06}" for number in range(1, len(recorded) + 1)),
        groups=tuple(groups.get(name, "") for name in recorded.groups),
    )
