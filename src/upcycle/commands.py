"""What each command does, in the words of the command line. `upcycle.cli` loads this when a command runs."""

import contextlib
import gc
import json
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict, get_args, get_origin

from cyclopts import Group, Parameter

from upcycle.config import GROUPS, READING, Config, from_words, read_toml
from upcycle.errors import DataError, StorageError, shown

if TYPE_CHECKING:
    from upcycle.reporting.progress import Terminal

_GROUPS = {title: Group(title, sort_key=at) for at, title in enumerate(GROUPS)}
_MAIN = Parameter(group=next(iter(_GROUPS.values())))
_GROUP_OF = {name: _GROUPS[title] for title, names in GROUPS.items() for name in names}


def _option(name: str, *, show: bool, defaults: bool) -> Any:
    """An option of `Config` in its group of `--help`; as a word, which `Config` reads and checks as one of a file."""
    field = Config.model_fields[name]
    kind: Any = field.annotation
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    words = [str(field.description), *([f"[choices: {', '.join(choices)}]"] if choices else [])]
    if defaults and field.default not in (None, ""):
        words.append(f"[default: {field.default}]")
    parts = [part for part in get_args(kind) or (kind,) if part is not type(None)]
    metavar = "CHOICE" if choices else " ".join(part.__name__.upper() for part in parts)
    taken: Any = bool if kind is bool else tuple[(str,) * len(parts)] if get_origin(kind) is tuple else str  # type: ignore[misc]
    shown = Parameter(
        group=_GROUP_OF[name],
        show=show,
        help=" ".join(words),
        show_default=False,
        metavar=None if taken is bool else metavar,
    )
    return Annotated[taken, shown]


def _options(names: Iterable[str], hidden: Container[str] = (), *, defaults: bool = True) -> Any:
    """These options as flat ones of a command, which gets those that were given."""
    options = {name: _option(name, show=name not in hidden, defaults=defaults) for name in names}
    flat = TypedDict("flat", options, total=False)  # type: ignore[misc]
    return Annotated[flat, Parameter(name="*", negative_iterable=())]


_NO_OPTIONS: dict[str, Any] = {}
RunOptions = _options(Config.model_fields)


def _whole(_: Any, tokens: Sequence[Any]) -> int:
    """The whole number that a word is: cyclopts would round 2.5."""
    text = tokens[0].value
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None


Whole = Annotated[int, Parameter(converter=_whole)]
_OF_VARIANTS = ("recipe", "lr", "schedule", "folds", "split_seed")
"""RunOptions that a comparison refuses, each with its reason: not in its help."""
CommonOptions = _options(Config.model_fields, _OF_VARIANTS, defaults=False)
_NETWORK = ("arch", "weights", "input", "image_size", "crop_pct")
_OF_SCANS = (
    *(*READING, "quarantine", "val_fraction", "test_fraction", "seed", "split_seed", *_NETWORK),
    *("scale", "threads", "workers", "precision", "device", "cache"),
)
ScanOptions = _options(_OF_SCANS)
ChooseOptions = _options([*(name for name in _OF_SCANS if name not in _NETWORK), "probe_layers"])


def _given(options: Mapping[str, Any], config: Path | None) -> dict[str, Any]:
    """The options that were given: in the file, and over them on the command line."""
    return {**(read_toml(config) if config else {}), **from_words(options)}


@contextlib.contextmanager
def _importing() -> Iterator[None]:
    """Without the search for garbage: imports make none, and it takes a tenth of their time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextlib.contextmanager
def _telling() -> Iterator["Terminal"]:
    """Where a job tells what it does; StorageError once it is done, where some of that could not be written.

    A reader that has gone, `head` for example, is no failure, nor the job's end.
    """
    from upcycle.reporting.progress import Terminal

    show = Terminal()
    yield show
    if show.lost is not None:
        raise StorageError(f"standard output cannot be written: {show.lost.strerror}")


def scan(
    data: Path,
    /,
    *,
    out: Path | None = None,
    html: Path | None = None,
    label_errors: Annotated[bool, Parameter(negative="")] = False,
    options: ScanOptions = _NO_OPTIONS,  # type: ignore[valid-type]
) -> None:
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

    with _telling() as show:
        run_scan(data, out=out, html=html, label_errors=label_errors, show=show, **_given(options, None))


def train(
    data: Annotated[Path | None, _MAIN] = None,
    /,
    *,
    out: Annotated[Path | None, _MAIN] = None,
    resume: Annotated[bool, _MAIN, Parameter(negative="")] = False,
    config: Annotated[Path | None, _MAIN] = None,
    options: RunOptions = _NO_OPTIONS,  # type: ignore[valid-type]
) -> None:
    """Fine-tune a classifier on a folder of labelled images, test it and report.

    Parameters
    ----------
    data
        `DATA/train|val|test/CLASS/*`, `DATA/CLASS/*`, or a CSV or Parquet manifest with path,label[,split][,group].
    out
        The run directory; left out, runs/NAME-RECIPE-N.
    resume
        Resume the unfinished run in --out; DATA may then be left out.
    config
        TOML file of options; those on the command line win.
    """
    with _importing():
        from upcycle.jobs.api import train as run_train

    with _telling() as show:
        run_train(data, out=out, resume=resume, show=show, **_given(options, config))


def choose(
    data: Path,
    /,
    *,
    within: str | None = None,
    candidates: str | None = None,
    out: Path | None = None,
    options: ChooseOptions = _NO_OPTIONS,  # type: ignore[valid-type]
) -> None:
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
    """
    from upcycle.jobs.choose import choose as run_choose

    words = None if candidates is None else candidates.split(",")
    with _telling() as show:
        run_choose(data, within=within, candidates=words, out=out, show=show, **_given(options, None))


def compare(
    *paths: Path,
    variants: str | None = None,
    seeds: Whole | None = None,
    smallest_difference: float | None = None,
    out: Path | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    config: Path | None = None,
    options: CommonOptions = _NO_OPTIONS,  # type: ignore[valid-type]
) -> None:
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
    """
    from upcycle.jobs.compare import compare as run_compare

    with _telling() as show:
        run_compare(
            *paths,
            variants=[name.strip() for name in variants.split(",") if name.strip()] if variants is not None else None,
            seeds=seeds,
            smallest_difference=smallest_difference,
            out=out,
            resume=resume,
            show=show,
            **_given(options, config),
        )


def plan(
    *,
    steps_per_epoch: Whole = 1,
    csv: Annotated[bool, Parameter(negative="")] = False,
    plot: Path | None = None,
    config: Path | None = None,
    options: RunOptions = _NO_OPTIONS,  # type: ignore[valid-type]
) -> None:
    """Print and draw the learning-rate schedule; train nothing.

    Parameters
    ----------
    steps_per_epoch
        Updates an epoch (training images / batch size).
    csv
        Print every step as CSV: phase, step, epoch, lr, momentum.
    plot
        Draw it into FILE.svg or FILE.png.
    config
        TOML file of options; those on the command line win.
    """
    from upcycle.jobs.plan import print_plan

    print_plan(
        _given(options, config),
        steps_per_epoch=steps_per_epoch,
        csv=csv,
        plot=plot,
    )


def evaluate(
    run: Path,
    data: Path | None = None,
    /,
    *,
    split: Literal["train", "val", "test"] = "test",
    device: str = "auto",
    threads: Whole = 0,
) -> None:
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
    with _importing():
        from upcycle.jobs.evaluate import evaluate as run_evaluate
        from upcycle.reporting.text import evaluation_table

    with _telling() as show:
        show.table(evaluation_table(run_evaluate(run, data, split, threads=threads, device=device, show=show)))


def predict(
    run: Path,
    /,
    *paths: Annotated[Path, Parameter(allow_leading_hyphen=True)],
    listed: Annotated[Path | None, Parameter(name="--list")] = None,
    json_lines: Annotated[bool, Parameter(name="--json", negative="")] = False,
    device: str = "auto",
    threads: Whole = 0,
) -> None:
    """Class and probabilities of files and folders.

    Parameters
    ----------
    run
        The run directory.
    paths
        Images, or folders of them; - reads paths from standard input, one a line.
    listed
        A file of paths, one a line; relative ones are relative to the current folder.
    json_lines
        Print one JSON object a line.
    device
        cpu, cuda or mps; auto is the one of the run's training, where it is there.
    threads
        Processor threads; 0 as many as the run was trained with, if there are so many cores.
    """
    with _importing():
        from upcycle.jobs.files import Outcome, asked, check_words, files_of, predict_files
        from upcycle.jobs.predict import load
        from upcycle.reporting.progress import Standard, Terminal, console_of

    def line(outcome: Outcome) -> str:
        made, path = outcome.prediction, str(outcome.path)
        if json_lines:
            if made is None:
                return json.dumps({"path": path, "error": outcome.error})
            usual = {} if made.p_value is None else {"p_value": made.p_value}
            return json.dumps({"path": path, "label": made.label, "probabilities": made.probabilities, **usual})
        if made is None:
            return f"{shown(path)}: {outcome.error}"
        shares = (f"{shown(name)} {share:.4f}" for name, share in made.probabilities.items())
        return "\t".join([shown(path), shown(made.label), *shares])

    check_words(paths, ("--list", "--json", "--device", "--threads"))
    if not paths and listed is None:
        raise DataError("say which images: upcycle predict RUN FILE ...")
    files = files_of(asked(paths, listed))
    aside, errors = Terminal(console_of("stderr")), Standard("stderr")  # standard output is the predictions'
    count = failed = 0
    classifier, p_values = load(run, threads=threads, device=device, show=aside), list[float]()
    for outcome in predict_files(classifier, files):
        count += 1
        if outcome.prediction is not None and outcome.prediction.p_value is not None:
            p_values.append(outcome.prediction.p_value)
        failed += outcome.prediction is None
        if outcome.prediction is None and not json_lines:
            errors.write(f"{line(outcome)}\n")
        else:
            print(line(outcome))
    if not count:
        named = [*paths, *([listed] if listed is not None else [])]
        raise DataError(f"no images in {', '.join(shown(path) for path in named)}")
    if classifier.novelty and (unlike := classifier.novelty.warning(p_values)):
        errors.write(f"{unlike}\n")
    if failed:
        raise DataError(f"{failed} of {count} files could not be read")


def report(run: Path, /) -> None:
    """Write report.html and figures/ again from a run's files.

    Parameters
    ----------
    run
        The run directory.
    """
    from upcycle.reporting.run_page import write_report
    from upcycle.rundir import RunDir

    print(write_report(RunDir(run)))


def demo(*, data: Literal["faces", "textures"] = "faces", out: Path | None = None, seed: Whole = 0) -> None:
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
    with _importing():
        from upcycle.jobs.demo import run_demo

    with _telling() as show:
        run_demo(data, out=out, seed=seed, show=show)


def doctor() -> None:
    """What this machine has, and what upcycle would use."""
    from upcycle.jobs.doctor import doctor as show_facts

    show_facts()
