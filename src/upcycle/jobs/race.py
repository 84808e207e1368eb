"""A race of linear probes among backbones by successive halving, within a budget of time.

Each round trains the probe of every candidate on more of the training images than the one before and scores it on the
same validation images. Features of an image are computed once for each candidate. No test image is decoded.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from upcycle.comparison.selection import Behind, behind, fitting, staying
from upcycle.config import Config
from upcycle.data.frames import decoded
from upcycle.data.index import Index, in_order
from upcycle.data.listing import Unusable
from upcycle.data.splits import Splits, components
from upcycle.data.subsets import nested
from upcycle.device import Hardware, out_of_memory
from upcycle.errors import DataError, UpcycleError, WeightsError, counted, shown
from upcycle.evaluation.forward import EVAL_BATCH, predict_logits, predictions
from upcycle.evaluation.results import Predictions
from upcycle.jobs.entrants import Entrant, without_tensors
from upcycle.jobs.prediction import chunks
from upcycle.jobs.prepare import fit_size
from upcycle.jobs.probe import widen
from upcycle.model.network import ModelSpec, Network, cannot_compute, create, load_body, spec_of
from upcycle.model.sources import has_fixed_size, preprocessing_for
from upcycle.reporting.progress import Display
from upcycle.reporting.text import clock
from upcycle.task import Task
from upcycle.training.loss import Loss
from upcycle.training.probe import train_probe
from upcycle.training.rows import Split

SIZES = (200, 400, 800)
"""Training images of the rounds, where there are so many."""
VALIDATION = 400
"""Validation images scored, at most."""
_DECODED = 4 * EVAL_BATCH
"""Decoded images held in memory."""
_ALONE = 3
"""Forward passes of one image; the fastest counts, as other work on the machine only adds."""

_Positions = npt.NDArray[np.int64]


def round_sizes(images: int, classes: int) -> tuple[int, ...]:
    """Training images of each round: 200, 400 and 800, or twice the classes and so on; with fewer images, fewer rounds.

    >>> round_sizes(150, 2), round_sizes(500, 2), round_sizes(9000, 2), round_sizes(9000, 300)
    ((150,), (200, 400), (200, 400, 800), (600, 1200, 2400))
    """
    scale = max(1.0, 2 * classes / SIZES[0])
    wanted = [round(size * scale) for size in SIZES]
    return tuple(size for size in wanted if size <= images) or (images,)


@dataclass(frozen=True, eq=False)
class Course:
    """What all candidates run on: the images of the race, with the positions of each round among them.

    `rounds` and `val` are positions in `index`; `groups` numbers its images, equal for those that belong together.
    `whole` has all images of DATA, whose sizes decide the input's; `training` counts those that train.
    """

    index: Index
    rounds: tuple[_Positions, ...]
    val: _Positions
    groups: npt.NDArray[np.int32]
    whole: Index
    training: int

    @classmethod
    def of(cls, index: Index, splits: Splits, seed: int, whole: Index | None = None) -> "Course":
        """The course through the training and validation images; it holds no test image."""
        parts, val = drawn(index, splits, seed)
        used = np.union1d(parts[-1], val)
        within = index.take(used)
        places = tuple(np.searchsorted(used, part) for part in parts)
        return cls(within, places, np.searchsorted(used, val), components(within), whole or index, len(splits.train))


def drawn(index: Index, splits: Splits, seed: int) -> tuple[Sequence[_Positions], _Positions]:
    """Positions of the training images of each round, nested, and of the validation images."""
    parts = nested(index, splits.train, round_sizes(len(splits.train), len(index.classes)), seed)
    (val,) = nested(index, splits.val, [VALIDATION], seed)
    return parts, val


@dataclass(eq=False)
class Racer:
    """A candidate in the race: what it has computed, and the seconds that took."""

    entrant: Entrant
    spec: ModelSpec
    model: Network | None
    widths: tuple[int, ...]
    """The number of features of each stage, the last one first; () for the last one alone."""
    features: npt.NDArray[np.float32]
    known: npt.NDArray[np.bool_]
    alone: float = 0.0
    """Seconds of the network on one image."""
    passes: list[tuple[int, float]] = field(default_factory=list)
    """Images and seconds of each forward pass."""
    decoding_seconds: float = 0.0
    probe_seconds: float = 0.0
    scores: list[Predictions] = field(default_factory=list)
    """Predictions of the validation images by the probe of each round."""
    gap: Behind = field(default_factory=lambda: Behind(0.0, 0.0, 0.0))
    dropped: str = ""

    @property
    def name(self) -> str:
        """The candidate's name, as given."""
        return self.entrant.name

    @property
    def loss(self) -> float:
        """The mean log loss of the last round."""
        return float(self.scores[-1].log_losses().mean())

    @property
    def speed(self) -> float:
        """Images per second of the network, the first pass left out where there are others."""
        warm = self.passes[1:] or self.passes
        return sum(images for images, _ in warm) / max(sum(seconds for _, seconds in warm), 1e-9)

    def seconds(self, images: int) -> float:
        """An estimate of the seconds that features of so many images take, decoding included."""
        return images * (1 / self.speed + self.decoding_seconds / max(int(self.known.sum()), 1))

    def cost(self, positions: _Positions) -> float:
        """An estimate of the seconds that a round on these images takes."""
        return self.seconds(int((~self.known[positions]).sum())) + 2 * self.probe_seconds


@dataclass(frozen=True)
class Elsewhere:
    """Other processes where candidates compute, `at_once` of them; their networks stay there.

    `turns` gives each candidate measured, or after a round; or why it failed.
    """

    turns: Callable[[Sequence["Entrant | Racer"], int], Sequence["Racer | UpcycleError"]]
    at_once: int = 1


@dataclass(frozen=True, eq=False)
class Race:
    """A race on `course`, until `deadline` on the monotonic clock; None: no limit."""

    course: Course
    config: Config
    machine: Hardware
    show: Display
    deadline: float | None = None
    elsewhere: Elsewhere | None = None

    def run(self, entrants: Sequence[Entrant]) -> tuple[list[Racer], list[str]]:
        """The scored candidates, the best first and the first dropped last, and a line for each that was not scored.

        WeightsError if none can be scored.
        """
        racers, lost = self._measured(entrants)
        if not racers:
            raise WeightsError(f"no candidate can be scored: {'; '.join(lost)}")
        running = sorted(racers, key=lambda one: one.cost(self._images(0)))
        scored: list[Racer] = []
        for number, part in enumerate(self.course.rounds):
            side_by_side = self.elsewhere.at_once if self.elsewhere else 1
            admitted = fitting([one.cost(self._images(number)) for one in running], self._left() * side_by_side)
            if number and sum(admitted) == 1:
                self.show.message(f"no time for a round on {len(part)} images: the race ends")
                break
            late = [one for one, fits in zip(running, admitted, strict=True) if not fits]
            for one in late:
                needed, left = clock(one.cost(self._images(number))), clock(max(self._left(), 0.0))
                line = f"{one.name} is left out of the round on {len(part)} images: about {needed}, {left} left"
                self.show.message(line)
                one.dropped, one.model = f"no time for {len(part)} images", None
                if not one.scores:
                    lost.append(line)
            running = [one for one in running if one not in late]
            scored = [one for one in late if one.scores] + scored
            running, failed = self._round(running, number)
            lost += failed
            if not running:
                break
            dropped = self._halved(running, part, last=number == len(self.course.rounds) - 1)
            running = [one for one in running if one not in dropped]
            scored = dropped + scored
            if len(running) == 1:
                break
        found = running + scored
        if not found:
            raise WeightsError(f"no candidate can be scored: {'; '.join(lost)}")
        return found, lost

    def _left(self) -> float:
        return float("inf") if self.deadline is None else self.deadline - time.monotonic()

    def _images(self, number: int) -> _Positions:
        return np.union1d(self.course.rounds[number], self.course.val)

    # ------------------------------------------------------------ who starts

    def _measured(self, entrants: Sequence[Entrant]) -> tuple[list[Racer], list[str]]:
        """The candidates with their networks, timed on their first 32 images; a line for each that is left out."""
        racers: list[Racer] = []
        lost: list[str] = []
        if self.elsewhere:
            return self._taken(entrants, self.elsewhere.turns(entrants, 0))
        with self.show.progress("measuring") as progress:
            for done, entrant in enumerate(entrants):
                if racers and self._left() <= 0:
                    lost.append(f"{entrant.name} is left out: no time to measure it")
                    self.show.message(lost[-1])
                    continue
                with self._excused(entrant.name, lost):
                    racers.append(self.measured(entrant))
                progress(done + 1, len(entrants))
        return racers, lost

    def measured(self, entrant: Entrant) -> Racer:
        """A candidate with features of its first images; WeightsError if it cannot have a probe."""
        model, spec, widths = self._opened(entrant)
        images = len(self.course.index)
        known = np.zeros(images, np.bool_)
        racer = Racer(without_tensors(entrant), spec, model, widths, np.empty((images, 0), "f4"), known)
        first = self.course.rounds[0]
        self._compute(racer, first[:: -(-len(first) // EVAL_BATCH)])
        with self._explained(spec):
            racer.alone = self._alone(racer)
        return racer

    def reopen(self, racer: Racer, entrant: Entrant) -> None:
        """Give a candidate that was measured in another process its network again."""
        racer.model, _, _ = self._opened(entrant)

    def _opened(self, entrant: Entrant) -> tuple[Network, ModelSpec, tuple[int, ...]]:
        """A candidate's network, what it is, and the number of features of each stage."""
        config, course = self.config, self.course
        preprocessing = preprocessing_for(
            entrant.arch,
            entrant.weights,
            input_file=config.input,
            image_size=config.image_size,
            crop_pct=config.crop_pct,
        )
        preprocessing = fit_size(preprocessing, course.whole, config, fixed=has_fixed_size(entrant.arch))
        spec = spec_of(entrant.arch, course.index.classes, preprocessing, entrant.weights)
        with self._explained(spec):
            model = create(spec, self.machine, seed=config.seed)
        for note in load_body(model, entrant.weights, entrant.arch):
            self.show.warn(note)
        if not model.has_linear_head:
            raise WeightsError("it has no single linear head, which a probe needs")
        model = model.to(self.machine.device)
        return model, *widen(model, spec, config)

    def _alone(self, racer: Racer) -> float:
        """Seconds of the network on one image, the fastest of three."""
        assert racer.model is not None
        size, times = racer.spec.preprocessing.size, []
        image = torch.zeros(1, 3, size, size, device=self.machine.device).to(memory_format=torch.channels_last)
        for _ in range(_ALONE):
            started = time.perf_counter()
            with torch.inference_mode():
                racer.model.features(image).float().cpu()
            times.append(time.perf_counter() - started)
        return min(times)

    @contextlib.contextmanager
    def _excused(self, name: str, lost: list[str]) -> Iterator[None]:
        """Inside, a WeightsError excludes this candidate alone, with a line in `lost`."""
        try:
            yield
        except WeightsError as error:
            lost.append(f"{name} is left out: {error}")
            self.show.warn(lost[-1])

    @contextlib.contextmanager
    def _explained(self, spec: ModelSpec) -> Iterator[None]:
        """Inside, a network that cannot compute such images, or lacks memory, is a WeightsError."""
        try:
            yield
        except (RuntimeError, ValueError, AssertionError) as error:
            if isinstance(error, RuntimeError) and out_of_memory(error):
                raise WeightsError("out of memory") from error
            reason = cannot_compute(spec, images=1, training=False)
            if not reason:
                raise
            raise WeightsError(f"it cannot compute images of {spec.preprocessing.size} px ({reason})") from error

    # ------------------------------------------------------------ rounds

    def _round(self, running: Sequence[Racer], number: int) -> tuple[list[Racer], list[str]]:
        """Those of `running` that were scored on the round's images, and a line for each that failed."""
        part, done, lost = self.course.rounds[number], list[Racer](), list[str]()
        if self.elsewhere:
            return self._taken(running, self.elsewhere.turns(running, number))
        for racer in running:
            with (
                self._excused(racer.name, lost),
                self.show.progress(f"{racer.name}, {len(part)} images") as progress,
            ):
                self.run_round(racer, number, progress)
                done.append(racer)
        return done, lost

    def run_round(self, racer: Racer, number: int, progress: Callable[[int, int], None] | None = None) -> None:
        """Score a candidate on the round's images; WeightsError where that cannot be."""
        self._compute(racer, self._images(number), progress)
        racer.scores.append(self._scored(racer, self.course.rounds[number]))

    def _taken(
        self, ones: Sequence[Entrant | Racer], turns: Sequence[Racer | UpcycleError]
    ) -> tuple[list[Racer], list[str]]:
        """Those that had their turn elsewhere, and a line for each that failed."""
        taken, lost = list[Racer](), list[str]()
        for one, found in zip(ones, turns, strict=True):
            with self._excused(one.name, lost):
                if isinstance(found, UpcycleError):
                    raise found
                taken.append(found)
        return taken, lost

    def _halved(self, running: list[Racer], part: _Positions, *, last: bool) -> list[Racer]:
        """Sort the candidates of a round by loss, and return those that it drops: none in the last one."""
        running.sort(key=lambda one: one.loss)
        leader = running[0]
        for one in running:
            one.gap = behind(one.scores[-1], leader.scores[-1])
        stay = [True] * len(running) if last else staying([one.gap for one in running])
        dropped = [one for one, stays in zip(running, stay, strict=True) if not stays]
        for one in dropped:
            one.dropped, one.model = f"worse on {len(part)} images", None
        names = f"; dropped: {', '.join(one.name for one in dropped)}" if dropped else ""
        self.show.message(f"{counted(len(part), 'image')}: {leader.name} leads with log loss {leader.loss:.4f}{names}")
        return dropped

    def _compute(self, racer: Racer, positions: _Positions, progress: Callable[[int, int], None] | None = None) -> None:
        """Fill in the features at `positions` that are not known yet."""
        assert racer.model is not None
        wanted = positions[~racer.known[positions]]
        for at, some in enumerate(chunks(wanted.tolist(), _DECODED)):
            started = time.perf_counter()
            frames = self._frames(racer, some)
            racer.decoding_seconds += time.perf_counter() - started
            started = time.perf_counter()
            with self._explained(racer.spec):
                rows = predict_logits(
                    racer.model,
                    frames,
                    np.arange(len(some)),
                    preprocessing=racer.spec.preprocessing,
                    machine=self.machine,
                    workers=0,
                    output="features",
                )
            racer.passes.append((len(some), time.perf_counter() - started))
            if not np.isfinite(rows).all():
                raise WeightsError("its features are not finite")
            if not racer.features.shape[1]:
                racer.features = np.zeros((len(racer.known), rows.shape[1]), np.float32)
            racer.features[some], racer.known[some] = rows, True
            if progress is not None:
                progress(min((at + 1) * _DECODED, len(wanted)), len(wanted))

    def _frames(self, racer: Racer, positions: list[int]) -> list[npt.NDArray[np.uint8]]:
        """Decoded images; DataError for one that could be decoded before."""
        index, decoding = self.course.index, racer.spec.preprocessing.decoding
        found = []
        frames = in_order(lambda at: decoded(index, at, decoding), positions, threads=self.machine.threads)
        for at, frame in zip(positions, frames, strict=True):
            if isinstance(frame, Unusable):
                raise DataError(f"{index.path(at)} could be decoded before and cannot be now ({frame.reason})")
            found.append(frame)
        return found

    def _scored(self, racer: Racer, part: _Positions) -> Predictions:
        """Predictions of the validation images by a probe trained on `part`; WeightsError if there can be none."""
        index, val, groups = self.course.index, self.course.val, self.course.groups
        read = racer.features[:, : sum(racer.widths)]
        sides = (Split(read, side, index.labels[side], groups[side]) for side in (part, val))
        started = time.perf_counter()
        try:
            probe = train_probe(*sides, loss=Loss(Task.of(index.classes)), seed=self.config.seed, widths=racer.widths)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # public, but not so typed
            raise WeightsError(f"its probe cannot be computed ({shown(error)})") from error
        racer.probe_seconds = time.perf_counter() - started
        logits = torch.from_numpy(read[val, : probe.weight.shape[1]]) @ probe.weight.T + probe.bias
        if not torch.isfinite(logits).all():
            raise WeightsError("the outputs of its probe are not finite")
        return predictions(index, val, logits.numpy())
