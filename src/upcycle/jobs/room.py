"""A batch that the memory has no room for: told before it is tried, and taken in parts where that changes nothing."""

from pathlib import Path

import torch

from upcycle import hardware
from upcycle.errors import ConfigError, UpcycleError
from upcycle.jobs.extend import events
from upcycle.jobs.keep import usable
from upcycle.jobs.prepare import Job
from upcycle.manifest import write_sealed_lines
from upcycle.model import checkpoint, groups
from upcycle.model.network import Network
from upcycle.recipes import Phase
from upcycle.rundir import RunDir
from upcycle.training.memory import most_at_once

Steps = tuple[tuple[int, int], ...]


def at_once(run: RunDir) -> Steps:
    """From which update on how many images go through the network at a time, as the run has written down."""
    known = [event for event in events(run) if event.get("event") == "at-once"]
    return tuple((int(event["step"]), int(event["images"])) for event in known)


def make_room(job: Job, model: Network, phase: Phase) -> None:
    """On a processor, where running out of memory is a kill without a word: take batches in parts that fit.

    ConfigError where not one image fits, or BatchNorm's statistics need the whole batch.
    """
    if job.machine.device != "cpu":
        return
    free = hardware.free_memory(Path("/"))
    batch, size = _batch(job.run, job.config.batch_size), job.network.preprocessing.size
    images, needed = most_at_once(model, job.machine, batch=batch, size=size, free=free)
    if images == batch:
        return
    amounts = f"takes about {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free"
    said = f"training {batch} images of {size} px at once {amounts}"
    _check_splittable(job, model, said, images)
    _take(job, phase.first_step, images, said)


def halve(job: Job, model: Network, phase: Phase, error: RuntimeError) -> None:
    """On an accelerator that ran out of memory: go on after the last state with half the images at a time.

    UpcycleError where BatchNorm's statistics need the whole batch, or one image is too much.
    """
    said = "the accelerator's memory is too small for this batch"
    images = _batch(job.run, job.config.batch_size) // 2
    _check_splittable(job, model, said, images, UpcycleError, error)
    kept, _ = checkpoint.load_state(job.run.last, usable=lambda facts: usable(job.run, facts))
    _take(job, kept[2]["step"] if kept else phase.first_step, images, said)
    torch.cuda.empty_cache()


def _batch(run: RunDir, whole: int) -> int:
    known = at_once(run)
    return known[-1][1] if known else whole


def _check_splittable(
    job: Job,
    model: Network,
    said: str,
    images: int,
    kind: type[UpcycleError] = ConfigError,
    cause: BaseException | None = None,
) -> None:
    frozen = groups.frozen_names(model.body, job.config.freeze)
    if not images:
        raise kind(f"{said}: give a smaller --image-size or --arch") from cause
    if groups.learns_statistics(model.body, frozen=frozen, bn=job.config.bn):
        raise kind(
            f"{said}, and BatchNorm in training mode needs a whole batch: give --batch-size {images} or --bn frozen"
        ) from cause


def _take(job: Job, step: int, images: int, said: str) -> None:
    event = {"event": "at-once", "step": step, "images": images, "reason": said}
    write_sealed_lines(job.run, job.run.events, [*events(job.run), event])
    job.show.warn(f"{said}: batches go through the network {images} images at a time, with the same updates")
