"""The choosing job: which backbone suits these images, before a training; and `--arch auto` of train."""

import contextlib
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from upcycle import __version__
from upcycle import device as machines
from upcycle.comparison.selection import FILE, Candidate, Gain, Selection, gain
from upcycle.config import IMAGES, Config, absolute, canonical, expanded, path_or_none
from upcycle.data.dataset import Dataset
from upcycle.data.frames import Stream, open_stream
from upcycle.data.index import Index, remaining
from upcycle.data.preprocessing import Preprocessing
from upcycle.data.splits import split_by
from upcycle.errors import ConfigError, RunError, UpcycleError, counted, shown
from upcycle.evaluation.metrics import measure
from upcycle.jobs.clock import parse_duration
from upcycle.jobs.entrants import Entrant, absent, at_hand, named
from upcycle.jobs.on_ray import cluster, driver_machine
from upcycle.jobs.prepare import machine_of, read_index
from upcycle.jobs.probe import features_of, learned_from
from upcycle.jobs.race import Course, Race, Racer, drawn
from upcycle.jobs.ray_race import candidates_on
from upcycle.jobs.resume import check_place
from upcycle.jobs.start import Start, free, name_of, removed_unless_started, reserve, spelled
from upcycle.model.sources import resolve_arch
from upcycle.options import TrainOptions
from upcycle.recipes import resolve
from upcycle.reporting.choice_page import PAGE, selection_table, write_choice
from upcycle.reporting.progress import Display, default_show
from upcycle.reporting.text import clock
from upcycle.rundir import write_json

BUDGET_OF_TRAIN = 300.0
"""Seconds that `train --arch auto` takes to choose, at most."""
UNASKED = 300.0
"""Seconds that features for the training that follows may take where no budget was given."""
EPOCHS, BACKWARD = 3, 3
"""What a training is taken to cost: so many epochs, where an image takes so many times as long as forward alone."""
_BASELINE = "resnet50"


def choose(
    data: Path | str,
    *,
    within: str | None = None,
    candidates: Sequence[str] | None = None,
    out: Path | str | None = None,
    on: str | None = None,
    show: Display | None = None,
    **options: Unpack[TrainOptions],
) -> Selection:
    """Race backbones on a part of `data` by linear probes, and say which to train.

    `candidates` are ARCH or ARCH=FILE, else those of a short list whose weights are at hand; `within` is a budget such
    as "5m". `on`: "ray" computes on the nodes of a Ray cluster, all candidates at once. Writes choice.json and a page.
    `options` are those of `upcycle choose --help`. The test images are not decoded. Raises an UpcycleError with one
    line.
    """
    started = time.monotonic()
    show, named_out, data = show or default_show(), path_or_none(out, "one folder"), expanded(data, IMAGES)
    budget = None if within is None else parse_duration(within, "within")
    given = absolute(canonical(options))
    for name in ("arch", "weights", "folds"):
        if name in given:
            raise ConfigError(f"choose takes no {name}: name architectures, or ARCH=FILE, as candidates")
    if isinstance(candidates, str):
        raise ConfigError(f"candidates = {candidates!r}: give a list of architectures")
    config, name = resolve(given), name_of(data, "choose")
    folder = named_out or free(name)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise RunError(f"{folder} is not empty: give another --out")
    if data.is_dir() and folder.resolve().is_relative_to(data.resolve()):
        raise ConfigError(f"{folder} lies inside {data}, where its images are searched for: give another --out")
    data, folder = data.resolve(), named_out or reserve(name)
    with removed_unless_started(folder, reserved=named_out is None):
        if crowd := machines.crowded(config.threads):
            show.warn(crowd)
        entrants, lost = at_hand() if candidates is None else named(candidates, show)
        for line in lost:
            show.warn(line)
        if candidates is None and (others := absent(entrants)):
            listed = ", ".join(f"{one.name} ({one.megabytes} MB)" for one in others)
            show.message(f"not at hand, so not raced: {listed}; --candidates downloads what it names")
        with cluster(on) if on else contextlib.nullcontext() as ray:
            index = read_index(data, config, (driver_machine if ray else machine_of)(config), show)
            place = (ray, data, folder) if ray else None
            found = _raced(index, config, show, entrants, within=budget, started=started, place=place)
        made = found.selection
        words = ["upcycle", "choose", str(data), *(["--within", within] if within else [])]
        words += ["--candidates", ",".join(candidates)] if candidates is not None else []
        made = replace(
            made,
            data=str(data),
            command=shlex.join([*words, *spelled(given), "--out", str(folder)]),
            train=_training(data, made.best, given),
            left_out=(*lost, *made.left_out),
            created=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
            seconds=round(time.monotonic() - started, 1),
        )
        write_json(folder / FILE, made.to_dict())
        page = write_choice(folder / PAGE, made)
        show.table(selection_table(made))
        show.message(made.verdict)
        show.message(f"to train it: {made.train}")
        show.message(f"page: {page}")
        try:
            _begin_training(found, config, show)
        except UpcycleError as error:  # the choice stands without
            show.warn(f"features for the training were not computed: {error}")
        except RuntimeError as error:
            if not machines.out_of_memory(error):
                raise
            show.warn("features for the training were not computed: out of memory")
        return made


def _training(data: Path, best: Candidate, given: dict[str, Any]) -> str:
    weights = ["--weights", best.weights] if best.weights != "auto" else []
    return shlex.join(["upcycle", "train", str(data), "--arch", best.arch, *weights, *spelled(given)])


def chosen(start: Start, show: Display) -> tuple[Start, Index | None]:
    """The start of a training with the architecture that a race chose in place of `auto`, and the images read for it.

    The race takes five minutes at most; a single candidate needs none. Nothing is written: a run that is stopped here
    restarts.
    """
    began, config = time.monotonic(), start.config
    if config.weights != "auto":
        raise ConfigError("--arch auto chooses the weights too: leave --weights out, or name their architecture")
    if config.folds:
        raise ConfigError(
            "folds test every image once, and --arch auto would look at some of them to choose: name an architecture"
        )
    check_place(start)
    entrants, lost = at_hand()
    for line in lost:
        show.warn(line)
    index, arch = None, entrants[0].arch
    if len(entrants) == 1:
        show.message(f"arch auto: {entrants[0].name} is the only one of the catalog at hand")
    else:
        index = read_index(start.data, config, machine_of(config), show)
        made = _raced(index, config, show, entrants, within=BUDGET_OF_TRAIN, started=began).selection
        show.message(f"arch auto: {made.verdict}")
        arch = made.best.arch
    return replace(start, config=config.model_copy(update={"arch": arch})), index


@dataclass(frozen=True, eq=False)
class _Raced:
    """What a race found: its winner, and the images without those that could not be decoded."""

    selection: Selection
    winner: Racer
    index: Index
    deadline: float | None
    here: bool = True
    """Whether its networks are in this process."""


@machines.restored()
def _raced(
    index: Index,
    config: Config,
    show: Display,
    entrants: Sequence[Entrant],
    *,
    within: float | None,
    started: float,
    place: tuple[Any, Path, Path] | None = None,
) -> _Raced:
    """What a race among the entrants finds, `within` seconds since `started`.

    `place`: a Ray cluster where they compute, and the images and the folder that its nodes see.
    """
    machine = (driver_machine if place else machine_of)(config)
    machines.apply(machine, config.seed)

    def raced(index: Index) -> npt.NDArray[np.int64]:
        parts, val = drawn(index, split_by(config, index), config.seed_of_split)
        return np.union1d(parts[-1], val)

    decodable = _decodable(index, raced, config, machine, show)
    course = Course.of(decodable, split_by(config, decodable), config.seed_of_split, index)
    show.message(
        f"{counted(len(entrants), 'candidate')}, rounds of {', '.join(str(len(part)) for part in course.rounds)} "
        f"training images, {counted(len(course.val), 'validation image')}"
    )
    deadline = None if within is None else started + within
    ray, data, out = place or (None, Path(), Path())
    elsewhere = candidates_on(ray, data, out, course, config, show) if ray else None
    racers, failed = Race(course, config, machine, show, deadline, elsewhere).run(entrants)
    selection = _selection(racers, course, config, tuple(failed), within)
    winner = next(racer for racer in racers if racer.name == selection.winner)
    return _Raced(selection, winner, decodable, deadline, here=not ray)


def _decodable(
    index: Index,
    wanted: Callable[[Index], npt.NDArray[np.int64]],
    config: Config,
    machine: machines.Hardware,
    show: Display,
) -> Index:
    """`index` without the images at its positions `wanted` that cannot be decoded, tried at a small size.

    Without them the images are split again, so others may be wanted; no image is decoded that was never wanted.
    """
    small = Preprocessing(size=32, scale=config.scale).decoding
    tried = np.zeros(len(index), np.bool_)
    while True:
        positions = wanted(index)
        new = positions[~tried[positions]]
        with show.progress("decoding") as progress:
            _, failures = open_stream(index.take(new), small, threads=machine.threads, progress=progress)
        if not failures:
            return index
        failed = {int(new[at]): why for at, why in failures.items()}
        for at, why in list(failed.items())[:3]:
            show.warn(f"not used: {shown(index.path(at))}: {why.reason}")
        if len(failed) > 3:
            show.warn(f"not used: {counted(len(failed) - 3, 'file')} more that cannot be decoded")
        tried[new] = True
        index, tried = index.without(failed), tried[remaining(len(tried), failed)]


@machines.restored()
def _begin_training(found: _Raced, config: Config, show: Display) -> None:
    """Cache the winner's features of all training and validation images for `train`, if the time allows.

    As in a run, images that cannot be decoded are dropped before the others are split.
    """
    winner, machine = found.winner, machine_of(config)
    if not config.probe:
        return
    machines.apply(machine, config.seed)
    count = len(learned_from(split_by(config, found.index)))
    needed = winner.seconds(count)
    if reason := _unfit(found, needed):
        show.message(f"features for the training are not computed: {reason}")
        return
    assert winner.model is not None
    show.message(f"features of {counted(count, 'training and validation image')} follow: about {clock(needed)}")
    index = _decodable(found.index, lambda index: learned_from(split_by(config, index)), config, machine, show)
    preprocessing = winner.spec.preprocessing
    data = Dataset(index, Stream(index, preprocessing.decoding), preprocessing, split_by(config, index))
    own, everything = learned_from(data.splits), np.arange(len(index))
    features_of(winner.model, data, winner.spec, config, machine, show, positions=own, known=everything)
    show.message(f"features of {counted(len(own), 'training and validation image')} are cached for that training")


def _unfit(found: _Raced, needed: float) -> str:
    """Why features that need so many seconds are not computed; "" if they are."""
    winner = found.winner
    if not found.here:
        return "the race ran on a Ray cluster"
    if winner.model is None:
        return f"{winner.name} had left the race ({winner.dropped})"
    if found.deadline is None:
        return f"about {clock(needed)}: give --within to allow that" if needed > UNASKED else ""
    left = found.deadline - time.monotonic()
    return f"about {clock(needed)}, {clock(max(left, 0.0))} left" if needed > left else ""


# ---------------------------------------------------------------- results


def _selection(
    racers: Sequence[Racer], course: Course, config: Config, left_out: tuple[str, ...], within: float | None
) -> Selection:
    """The values of a race; `racers` are sorted, the best first."""
    rows = tuple(_candidate(racer, course, config, leads=racer is racers[0]) for racer in racers)
    last = [racer for racer in racers if not racer.dropped] or [racers[0]]
    alike = [racer for racer in last if racer.gap.low <= 0] or [racers[0]]
    winner = max(alike, key=lambda racer: racer.speed)
    trained = tuple(len(part) for part in course.rounds[: max(len(racer.scores) for racer in racers)])
    return Selection(
        data="",
        winner=winner.name,
        candidates=rows,
        alike=tuple(racer.name for racer in alike),
        gain=_gain(winner, racers, rows),
        rounds=trained,
        validation_images=len(course.val),
        left_out=left_out,
        within=within,
        upcycle=__version__,
    )


def _gain(winner: Racer, racers: Sequence[Racer], rows: Sequence[Candidate]) -> Gain | None:
    """What the winner gains over ResNet-50, or over the best other one, where both learned from the same images."""
    others = [racer for racer in racers if racer is not winner]
    if not others:
        return None
    usual = resolve_arch(_BASELINE)
    other = next((one for one in others if one.entrant.arch == usual), others[0])
    shared = min(len(winner.scores), len(other.scores)) - 1
    minutes = {row.name: row.minutes for row in rows}
    time_ratio = minutes[winner.name] / minutes[other.name]
    return gain(other.scores[shared], winner.scores[shared], over=other.name, time=time_ratio)


def _candidate(racer: Racer, course: Course, config: Config, *, leads: bool) -> Candidate:
    """A racer's values."""
    entrant, evaluation = racer.entrant, measure(racer.scores[-1], seed=config.seed, split="val")
    passes = len(course.whole) + EPOCHS * BACKWARD * course.training
    return Candidate(
        name=entrant.name,
        arch=entrant.arch,
        weights=entrant.given,
        license=entrant.license,
        megabytes=round(entrant.megabytes, 1),
        local=entrant.local,
        size=racer.spec.preprocessing.size,
        images=len(course.rounds[len(racer.scores) - 1]),
        log_loss=evaluation.log_loss.value,
        accuracy=evaluation.accuracy.value,
        f1_macro=evaluation.f1_macro,
        behind=None if leads else racer.gap,
        images_per_second=round(racer.speed, 3),
        minutes=passes / racer.speed / 60,
        milliseconds=1000 * racer.alone,
        dropped=racer.dropped,
    )
