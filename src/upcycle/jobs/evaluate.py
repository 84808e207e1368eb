"""Predictions of labeled images: a run's own split, or another folder."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np

from upcycle.config import IMAGES, Config, expanded, read_config
from upcycle.data import decode
from upcycle.data.folders import clean
from upcycle.data.index import Index, index_images, listing_of
from upcycle.data.listing import Layout
from upcycle.data.splits import Recorded, read_splits
from upcycle.errors import ConfigError, DataError, DecodeError, shown
from upcycle.evaluation.metrics import measure
from upcycle.evaluation.results import Evaluation, Predictions
from upcycle.jobs.predict import Classifier, load, measured
from upcycle.jobs.prediction import FILES_AT_ONCE, Frame, chunks
from upcycle.jobs.prepare import darkness
from upcycle.jobs.run import Run
from upcycle.remote import inside, place
from upcycle.reporting.progress import Display, Silent, default_show
from upcycle.rundir import RunDir, read_json
from upcycle.task import Task


def evaluate(
    run: Run | Path | str,
    data: Path | str | None = None,
    split: Literal["train", "val", "test"] = "test",
    *,
    threads: int = 0,
    device: str = "auto",
    show: Display | None = None,
) -> Evaluation:
    """Metrics, with intervals, of a run's best model on its own `split`, or on another folder of labeled images.

    With `threads` 0 as many as the run was trained with; with `device` auto the one of its training, where it is there.
    DataError where an image of the run has gone or changed, or `data` has a class that the model does not know.
    """
    folder, show = None if data is None else expanded(data, IMAGES), show or default_show()
    if isinstance(run, Run) and not threads and device == "auto":
        model = run.model
    else:
        model = load(run.path if isinstance(run, Run) else run, threads=threads, device=device, show=show)
    predictions = evaluate_run(model, folder, split, show=show)
    return measure(predictions, seed=read_config(model.run.config).seed, split=split)


def evaluate_run(classifier: Classifier, data: Path | None, split: str, *, show: Display | None = None) -> Predictions:
    """Predictions of the run's own `split`, or of the images of another folder `data`.

    Where `data` holds all images of the run's `split`, as when its folder has moved, those alone are predicted. Images
    are decoded from their files again. DataError when a file of the run is gone or is no longer
    what it was, or when `data` has a class the model does not know. Files of `data` that cannot be read
    are told and left out; images the model trained on are told.
    """
    show = show or Silent()
    recorded = read_splits(classifier.run.splits)
    config = read_config(classifier.run.config)
    own = [row for row in recorded if row.split == split]
    if data is None:
        if not own and split == "test" and recorded:
            again = f"give --split val, or labeled images of your own: upcycle evaluate {classifier.run.root} DATA"
            raise DataError(f"{classifier.run.root} has no test set, as test_fraction was 0: {again}")
        if not own:
            raise DataError(f"{classifier.run.root} has no split {split!r}: choose train, val or test")
        if split == "val" and read_json(classifier.run.evaluation).get("refit"):
            show.warn("these images chose the model, and it was then trained on them as well: the scores flatter it")
        if split == "test":
            classifier.run.note_test_read("evaluate")
        return _predictions(classifier, own, _root(classifier.run, config))
    index = _scan(data, config)
    dark = darkness(index, classifier.network.preprocessing)
    if dark is not None:
        show.warn(f"{dark.title}. {dark.effect}")
    rows = _own_rows(index, own, split)
    if rows:
        show.message(
            f"{shown(data)} has all {len(own)} images of the run's own split {split}: those alone are evaluated"
        )
        if split == "test":
            classifier.run.note_test_read("evaluate")
    else:
        for file in index.quarantined:
            show.warn(f"not evaluated: {shown(file.path)}: {file.reason}")
        rows = _rows(index, split)
    rows = _known_as(rows, classifier.network.classes)
    unknown = {row.label for row in rows} - set(classifier.network.classes)
    if unknown:
        known = ", ".join(shown(name) for name in classifier.network.classes)
        raise DataError(f"{shown(data)} has a class {min(unknown)!r} the model does not know: it knows {known}")
    seen = {row.sha256 for row in recorded if row.split != "test"}
    trained = sum(row.sha256 in seen for row in rows)
    if trained:
        show.warn(f"{trained} of these {len(rows)} images are ones the model was trained or chosen on")
    return _predictions(classifier, rows, index.root, show)


def own_images(run: RunDir, split: str, data: Path | None = None) -> tuple[list[Recorded], Path]:
    """The recorded images of a run's own split, and the folder that holds them: `data`, where they have moved.

    DataError where the run has no such split, or `data` lacks one of its images.
    """
    config = read_config(run.config)
    own = [row for row in read_splits(run.splits) if row.split == split]
    if not own:
        raise DataError(f"{run.root} has no images in a split {split!r}")
    if data is None:
        return own, _root(run, config)
    index = _scan(data, config)
    rows = _own_rows(index, own, split)
    if not rows:
        raise DataError(f"{shown(data)} does not hold all {len(own)} images of the run's split {split}")
    return _known_as(rows, Task.from_dict(read_json(run.model)).classes), index.root


def content_of(row: Recorded, root: Path) -> bytes:
    """The bytes of a recorded image; DataError where its file is gone or is no longer what it was."""
    try:
        content = decode.read_file(inside(root, row.path))
    except (OSError, DecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{shown(inside(root, row.path))} cannot be read ({reason}): give the folder it is in now"
        ) from None
    if hashlib.sha256(content).hexdigest() != row.sha256:
        raise DataError(f"{shown(inside(root, row.path))} is not the file it was when the run split its images")
    return content


def _root(run: RunDir, config: Config) -> Path:
    """The folder that a run's images were in when it was trained."""
    before = place(str(read_json(run.config)["data"]))
    return place(config.image_root) if config.image_root else before.parent if before.is_file() else before


def _known_as(rows: Sequence[Recorded], classes: Sequence[str]) -> list[Recorded]:
    """The rows with their labels as the model spells them: older ones kept blanks and Unicode's form as they came."""
    names = {clean(name): name for name in classes}
    return [row._replace(label=row.label if row.label in classes else names.get(row.label, row.label)) for row in rows]


def _scan(data: Path, config: Config) -> Index:
    """What another folder holds, read as the training's was where it can be; else by its own names."""
    layout = Layout.of(config)
    try:
        listing_of(data, layout)
    except (ConfigError, DataError):  # without it: what else is wrong is told then
        layout = Layout(drop_empty_classes=layout.drop_empty_classes)
    return index_images(data, layout, trainable=False)


def _own_rows(index: Index, own: Sequence[Recorded], split: str) -> list[Recorded]:
    """The images of a run's own split as `index` has them, by their content; none where it lacks one of them.

    Nor where it declares that split itself, with images beyond those. A group it does not tell is the recorded one.
    """
    left: dict[str, list[int]] = {}
    for at in reversed(range(len(index))):
        left.setdefault(index.hash(at), []).append(at)
    exact = {(index.hash(at), index.path(at)): at for copies in left.values() if len(copies) > 1 for at in copies}
    groups: dict[int, str] = {}
    taken = {exact[row.sha256, row.path] for row in own if (row.sha256, row.path) in exact}
    for row in own:
        at = exact.get((row.sha256, row.path), -1)
        copies = left.get(row.sha256, [])
        while at < 0 and copies:  # copies of one image under other names: each row takes one
            at = copies.pop()
            at = -1 if at in taken else at
        if at < 0:
            return []
        groups[at] = row.group
    declared = set(np.flatnonzero(index.declared == split).tolist())
    if (index.declared != "").any() and declared - groups.keys():
        return []
    rows = _recorded_as(index, sorted(groups), split)
    return [row if row.group else row._replace(group=groups[at]) for row, at in zip(rows, sorted(groups), strict=True)]


def _rows(index: Index, split: str) -> list[Recorded]:
    """The images of one split where the folder declares splits, else all of them."""
    declared = index.declared != ""
    chosen = (index.declared == split) if declared.any() else ~declared
    if not chosen.any():
        raise DataError(f"{shown(index.root)} has no images in the split {split!r}")
    return _recorded_as(index, [int(at) for at in np.flatnonzero(chosen)], split)


def _recorded_as(index: Index, positions: Sequence[int], split: str) -> list[Recorded]:
    return [Recorded(index.path(at), index.label(at), split, index.group(at), index.hash(at)) for at in positions]


def _predictions(
    classifier: Classifier, rows: Sequence[Recorded], root: Path, show: Display | None = None
) -> Predictions:
    """Predictions of recorded files; one that cannot be decoded is told to `show` and left out, else a DataError."""
    logits, used, p_values = [], [], list[float]()
    with ThreadPoolExecutor(classifier.machine.threads) as pool:
        for some in chunks(rows, FILES_AT_ONCE):
            frames = []
            for row, frame in zip(some, pool.map(lambda row: _recorded(classifier, row, root), some), strict=True):
                if not isinstance(frame, str):
                    frames.append(frame)
                    used.append(row)
                elif show is None:
                    raise DataError(f"{shown(inside(root, row.path))} cannot be read: {frame}")
                else:
                    show.warn(f"not evaluated: {shown(row.path)}: {frame}")
            if frames:
                found, usual = measured(classifier, frames)
                logits.append(found)
                p_values += usual.tolist() if usual is not None else []
    if not used:
        raise DataError(f"none of the {len(rows)} images in {shown(root)} can be read")
    if show is not None and classifier.novelty and (unlike := classifier.novelty.warning(p_values)):
        show.warn(unlike)
    rows = used
    classes = classifier.network.classes
    return Predictions(
        classes=classes,
        paths=tuple(row.path for row in rows),
        hashes=tuple(row.sha256 for row in rows),
        groups=tuple(row.group for row in rows),
        labels=np.array([classes.index(row.label) for row in rows]),
        logits=np.concatenate(logits),
    )


def _recorded(classifier: Classifier, row: Recorded, root: Path) -> Frame | str:
    """The decoded image of a recorded file, if it still is that file, or why it cannot be decoded."""
    content = content_of(row, root)
    try:
        return classifier.isolated(content)
    except DecodeError as error:
        return str(error)
