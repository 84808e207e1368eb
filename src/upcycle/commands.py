"""What each command does, in the words of the command line. `upcycle.cli` loads this when a command runs."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from upcycle.arguments import (
    MAIN,
    NO_OPTIONS,
    ChooseOptions,
    CommonOptions,
    Result,
    RunOptions,
    ScanOptions,
    Whole,
    given,
    importing,
    telling,
    with_json,
)
from upcycle.errors import ConfigError
from upcycle.rundir import RunDir, read_json


def _evaluated(run: Path) -> dict[str, object]:
    """A run's place and metrics, as its evaluation.json has them."""
    return {"run": str(run), **read_json(RunDir(run).evaluation)}


def _names(words: str) -> list[str]:
    """The names in a list with commas between."""
    return [name.strip() for name in words.split(",") if name.strip()]


@with_json
def scan(
    data: Path,
    /,
    *,
    out: Path | None = None,
    html: Path | None = None,
    label_errors: Annotated[bool, Parameter(negative="")] = False,
    options: ScanOptions = NO_OPTIONS,
) -> Result:
    """Look at the images first: what is wrong with them, and what it would do to the result.

    Parameters
    ----------
    data
        `DATA/train|val|test/CLASS/*`, `DATA/CLASS/*`, or a CSV or Parquet manifest with path,label[,split][,group].
    out
        The folder of audit.json, quarantine.csv and scan.html; left out, runs/NAME-scan-N.
    html
        Write the page to this file instead.
    label_errors
        Look for wrong labels as well, with a probe on the features of --arch: needs weights and time.
    """
    from upcycle.jobs.scan import scan as run_scan

    with telling() as show:
        made = run_scan(data, out=out, html=html, label_errors=label_errors, show=show, **given(options, None))
    return lambda: {"folder": str(made.path), **made.audit.to_dict()}


@partial(with_json, place=MAIN)
def train(
    data: Annotated[Path | None, MAIN] = None,
    /,
    *,
    out: Annotated[Path | None, MAIN] = None,
    resume: Annotated[bool, MAIN, Parameter(negative="")] = False,
    dry_run: Annotated[bool, MAIN, Parameter(negative="")] = False,
    deadline: Annotated[str | None, MAIN] = None,
    plan: Annotated[Path | None, MAIN] = None,
    config: Annotated[Path | None, MAIN] = None,
    options: RunOptions = NO_OPTIONS,
) -> Result:
    """Fine-tune a classifier on a folder of labelled images, test it and report.

    Parameters
    ----------
    data
        `DATA/train|val|test/CLASS/*`, `DATA/CLASS/*`, or a CSV or Parquet manifest with path,label[,split][,group].
    out
        The run directory; left out, runs/NAME-RECIPE-N.
    resume
        Resume the unfinished run in --out; DATA may then be left out.
    dry_run
        Print images, split, plan and an estimate of the time; train nothing, write nothing but the cache.
    deadline
        End by then, from the start of this command to the report: 90s, 10m, 2h, or slurm for the end of the Slurm job.
    plan
        Repeat what changed the plan of a run under way, from its plan.jsonl.
    config
        TOML file of options; those on the command line win.
    """
    with importing():
        from upcycle.jobs.api import train as run_train
        from upcycle.jobs.clock import process_began
    if dry_run:
        from upcycle.jobs.dry_run import dry_run as plan_only

        if resume:
            raise ConfigError("--dry-run tells what a new run would do: leave --resume out")
        if deadline or plan:
            raise ConfigError("--dry-run tells how long the recipe takes: leave --deadline and --plan out")
        with telling() as show:
            return plan_only(data, given(options, config), out=out, show=show).to_dict
    with telling() as show:
        began = process_began()
        timing: dict[str, Any] = {"deadline": deadline, "plan": plan, "began": began}
        made = run_train(data, out=out, resume=resume, show=show, **timing, **given(options, config))
    return lambda: _evaluated(made.path)


@with_json
def choose(
    data: Path,
    /,
    *,
    within: str | None = None,
    candidates: str | None = None,
    out: Path | None = None,
    on: str | None = None,
    options: ChooseOptions = NO_OPTIONS,
) -> Result:
    """Race backbones on a part of the images, and say which to train.

    Parameters
    ----------
    data
        `DATA/train|val|test/CLASS/*`, `DATA/CLASS/*`, or a CSV or Parquet manifest with path,label[,split][,group].
    within
        The time to choose in: 90s, 5m, 1h. Left out, no limit.
    candidates
        Architectures with commas between, ARCH or ARCH=FILE; left out, those of a short list with weights at hand.
    out
        The folder of choice.json and choice.html; left out, runs/NAME-choose-N.
    on
        ray: compute on the nodes of a Ray cluster, all candidates at once; ray://HOST:PORT: of that one.
    """
    from upcycle.jobs.choose import choose as run_choose

    words = None if candidates is None else candidates.split(",")
    with telling() as show:
        return run_choose(
            data, within=within, candidates=words, out=out, on=on, show=show, **given(options, None)
        ).to_dict


@with_json
def find_lr(
    data: Path,
    /,
    *,
    start_lr: float = 1e-7,
    end_lr: float = 1.0,
    num_updates: Whole = 100,
    repeats: Whole = 3,
    out: Path | None = None,
    config: Path | None = None,
    options: RunOptions = NO_OPTIONS,
) -> Result:
    """Train at rising learning rates for a moment, and say which one to take.

    Parameters
    ----------
    data
        DATA as `upcycle train` takes it, or a run: its images and options, as it starts.
    start_lr
        The first rate, of the head.
    end_lr
        The last rate; a repeat ends before it where the loss explodes.
    num_updates
        Updates of a repeat.
    repeats
        How often, with other batches each time.
    out
        The folder of find_lr.json and find_lr.svg; left out, runs/NAME-find-lr-N.
    config
        TOML file of options; those on the command line win.
    """
    with importing():
        from upcycle.jobs.find_lr import find_lr as run_find_lr

    with telling() as show:
        found = run_find_lr(
            data,
            start_lr=start_lr,
            end_lr=end_lr,
            num_updates=num_updates,
            repeats=repeats,
            out=out,
            show=show,
            **given(options, config),
        )
    return found.to_dict


@with_json
def compare(
    *paths: Path,
    variants: str | None = None,
    seeds: Whole | None = None,
    smallest_difference: float | None = None,
    out: Path | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    config: Path | None = None,
    on: str | None = None,
    options: CommonOptions = NO_OPTIONS,
) -> Result:
    """Train variants on one split and compare them, or compare runs that exist.

    Parameters
    ----------
    paths
        DATA, a folder of labelled images to train on; or two or more runs that were tested on the same images.
    variants
        simple-cnn,probe,constant,constant-tuned,classic,default (all of them if left out), or TOML files of options.
    seeds
        Trainings of each variant (3 if left out); 5 or more tell whether a difference holds on retraining.
    smallest_difference
        Points of F1 that would matter to you (1 if left out).
    out
        The folder of the comparison; left out, runs/NAME-compare-N.
    resume
        Resume the comparison in --out; finished runs are kept.
    config
        TOML file of options for all variants; those on the command line win.
    on
        ray: train on the nodes of a Ray cluster, several at once; ray://HOST:PORT: of that one.
    """
    from upcycle.jobs.compare import compare as run_compare

    with telling() as show:
        made = run_compare(
            *paths,
            variants=None if variants is None else _names(variants),
            seeds=seeds,
            smallest_difference=smallest_difference,
            out=out,
            resume=resume,
            on=on,
            show=show,
            **given(options, config),
        )
    return lambda: {"folder": str(made.path), **made.to_dict()}


@with_json
def plan(
    data: Path | None = None,
    /,
    *,
    variants: str | None = None,
    steps_per_epoch: Whole | None = None,
    layers: Annotated[bool, Parameter(negative="")] = False,
    csv: Annotated[bool, Parameter(negative="")] = False,
    plot: Path | None = None,
    config: Path | None = None,
    options: RunOptions = NO_OPTIONS,
) -> Result:
    """Print and draw the learning-rate schedule; train nothing.

    Parameters
    ----------
    data
        The images: their split gives the updates an epoch, and a few batches the time on this machine.
    variants
        Plans to lay over each other: those of compare, or TOML files of options; the other options are for all.
    steps_per_epoch
        Updates an epoch (training images / batch size); left out, 1, or what DATA has.
    layers
        Print the highest rate of each group of layers; with DATA always.
    csv
        Print every step as CSV: phase, step, epoch, lr, momentum, and first the variant where there are several.
    plot
        Draw it into FILE.svg or FILE.png.
    config
        TOML file of options; those on the command line win.
    """
    if data is None and variants is None and not layers:
        from upcycle.jobs.plan import print_plan

        steps = 1 if steps_per_epoch is None else steps_per_epoch
        return print_plan(given(options, config), steps_per_epoch=steps, csv=csv, plot=plot).to_dict
    from upcycle.jobs.overlay import print_plans

    with telling("stderr" if csv else "stdout") as show:
        return print_plans(
            given(options, config),
            None if variants is None else _names(variants),
            data=data,
            steps_per_epoch=steps_per_epoch,
            layers=layers,
            csv=csv,
            plot=plot,
            show=show,
        )


@with_json
def evaluate(
    run: Path,
    data: Path | None = None,
    /,
    *,
    split: Literal["train", "val", "test"] = "test",
    device: str = "auto",
    threads: Whole = 0,
) -> Result:
    """Metrics of a run's best model, on its own split or another folder.

    Parameters
    ----------
    run
        The run directory.
    data
        Another folder of labelled images; left out, the run's own split.
    split
        Which split.
    device
        cpu, cuda or mps; auto is the one of the run's training, where it is there.
    threads
        Processor threads; 0 as many as the run was trained with, if there are so many cores.
    """
    with importing():
        from upcycle.jobs.evaluate import evaluate as run_evaluate
        from upcycle.reporting.text import evaluation_table

    with telling() as show:
        made = run_evaluate(run, data, split, threads=threads, device=device, show=show)
        show.table(evaluation_table(made))
    return lambda: {"run": str(run), "split": split, **made.to_dict()}


@with_json
def finish(run: Path, /) -> Result:
    """Ask a run that is being trained to end early: a few updates of falling rate, the test, the report.

    Parameters
    ----------
    run
        The run directory.
    """
    from upcycle.jobs.finish import finish as ask

    told = ask(run)
    print(told)
    return lambda: {"run": str(run), "asked": True}


@with_json
def report(run: Path, /) -> Result:
    """Write report.html and figures/ again from a run's files.

    Parameters
    ----------
    run
        The run directory.
    """
    from upcycle.reporting.run_page import write_report

    page = write_report(RunDir(run))
    print(page)
    return lambda: {"run": str(run), "report": str(page)}


@with_json
def demo(*, data: Literal["faces", "textures"] = "faces", out: Path | None = None, seed: Whole = 0) -> Result:
    """The main job on real images and weights that packages carry.

    Parameters
    ----------
    data
        faces: 25 px photographs with and without a face; textures: brick, grass and gravel.
    out
        The run directory; left out, runs/demo-NAME-N.
    seed
        Decides the split, the order and the augmentation.
    """
    with importing():
        from upcycle.jobs.demo import run_demo

    with telling() as show:
        page = run_demo(data, out=out, seed=seed, show=show)
    return lambda: _evaluated(page.parent)


@with_json
def doctor() -> Result:
    """What this machine has, and what upcycle would use."""
    from upcycle.jobs.doctor import doctor as show_facts

    found = show_facts()
    return lambda: dict(found)
