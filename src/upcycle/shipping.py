"""What the commands of a trained model do: predict, when it answers, export, verify, push."""

import json
import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from upcycle.arguments import Result, Whole, importing, telling, with_json
from upcycle.errors import ConfigError, DataError, shown

if TYPE_CHECKING:
    from upcycle.jobs.files import Outcome


def predict(
    run: Path,
    /,
    *paths: Annotated[Path, Parameter(allow_leading_hyphen=True)],
    listed: Annotated[Path | None, Parameter(name="--list")] = None,
    out: Path | None = None,
    json_lines: Annotated[bool, Parameter(name="--json", negative="")] = False,
    int8: Annotated[bool, Parameter(negative="")] = False,
    device: str = "auto",
    threads: Whole = 0,
    on: str | None = None,
) -> None:
    """Class and probabilities of files and folders.

    Parameters
    ----------
    run
        The run directory, or an export of it, which predicts without torch.
    paths
        Images, or folders of them; - reads paths from standard input, one a line.
    listed
        A file of paths, one a line; relative ones are relative to the current folder.
    out
        Write a table into FILE.parquet, .csv or .jsonl instead; the same command resumes where it was killed.
    json_lines
        Print one JSON object a line; with --out, one of how many files there were.
    int8
        With the int8 model of an export.
    device
        cpu, cuda or mps; auto is the one of the run's training, where it is there.
    threads
        Processor threads; 0 as many as the run was trained with, if there are so many cores.
    on
        ray: on the nodes of the Ray cluster that this is one of, each process with --threads (1 if left out).
    """
    with importing():
        from upcycle.jobs.files import asked, check_words, files_of, number_of, predict_files
        from upcycle.jobs.prediction_files import check_out, write_predictions
        from upcycle.jobs.predictor import predictor
        from upcycle.jobs.ray_prediction import parts_on
        from upcycle.reporting.progress import Standard, Terminal, console_of

    check_words(paths, ("--list", "--out", "--json", "--int8", "--device", "--threads", "--on"))
    if not paths and listed is None:
        raise DataError("say which images: upcycle predict RUN FILE ...")
    if out is not None:
        check_out(out)
    elif on is not None:
        raise ConfigError("a prediction on Ray writes a table: give --out FILE.parquet")
    files = files_of(asked(paths, listed))
    aside, errors = Terminal(console_of("stderr")), Standard("stderr")  # standard output is the predictions'
    threads = threads or (1 if on else 0)
    model = predictor(run, int8=int8, threads=threads, device=device, show=aside)
    count = failed = 0
    p_values: list[float] = []
    if out is not None:
        words = ["upcycle", "predict", str(run), *map(str, paths), *(["--list", str(listed)] if listed else [])]
        words += ["--out", str(out), *(["--device", device] if device != "auto" else []), *(["--int8"] if int8 else [])]
        words += [*(["--threads", str(threads)] if threads else []), *(["--on", on] if on else [])]
        command, total = shlex.join(words), number_of(paths, listed)
        with (
            parts_on(on, run, out, int8=int8, device=device, threads=threads, show=aside) if on else nullcontext()
        ) as makers:
            count, failed = write_predictions(
                model, files, out, show=aside, total=total, command=command, makers=makers
            )
    for outcome in predict_files(model, files) if out is None else ():
        count += 1
        failed += outcome.prediction is None
        p_values += [made.p_value for made in [outcome.prediction] if made is not None and made.p_value is not None]
        text = _json_line(outcome, may_be_unsure=model.thresholds is not None) if json_lines else _plain_line(outcome)
        if outcome.prediction is None and not json_lines:
            errors.write(f"{text}\n")
        else:
            print(text)
    if not count:
        named = [*paths, *([listed] if listed is not None else [])]
        raise DataError(f"no images in {', '.join(shown(path) for path in named)}")
    if out is not None and json_lines:
        print(json.dumps({"out": str(out), "files": count, "failed": failed}))
    if model.novelty and (unlike := model.novelty.warning(p_values)):
        errors.write(f"{unlike}\n")
    if failed:
        raise DataError(f"{failed} of {count} files could not be read")


def _plain_line(outcome: "Outcome") -> str:
    """Path, class and every probability, with tabs between."""
    made = outcome.prediction
    if made is None:
        return f"{shown(outcome.path)}: {outcome.error}"
    shares = (f"{shown(name)} {share:.4f}" for name, share in made.probabilities.items())
    return "\t".join([shown(outcome.path), shown(made.label) if made.sure else "not sure", *shares])


def _json_line(outcome: "Outcome", *, may_be_unsure: bool) -> str:
    """The same as JSON."""
    made, path = outcome.prediction, str(outcome.path)
    if made is None:
        return json.dumps({"path": path, "error": outcome.error})
    sure = {"sure": made.sure} if may_be_unsure else {}
    label = made.label if made.sure else None
    usual = {} if made.p_value is None else {"p_value": made.p_value}
    return json.dumps({"path": path, "label": label, **sure, "probabilities": made.probabilities, **usual})


@with_json
def thresholds(
    run: Path,
    /,
    *,
    want: str | None = None,
    cost: str | None = None,
    abstain: str | None = None,
    calibration_fraction: float = 0.0,
    confidence: float = 0.9,
    clear: Annotated[bool, Parameter(negative="")] = False,
) -> Result:
    """When a run's model answers: for a precision, a recall, costs or a share of images left open.

    Parameters
    ----------
    run
        The run directory.
    want
        'precision>=0.95' of the answers, or of one class 'precision>=0.95:CLASS' or 'recall>=0.9:CLASS'; in quotes.
    cost
        fn=10,fp=1: what a missed and a false image of the second of two classes cost.
    abstain
        The share of images that may stay without an answer, such as 5%.
    calibration_fraction
        The part of the test images that chooses, in place of the validation images: what is wanted is then promised.
    confidence
        That of the promise.
    clear
        Remove the thresholds: every image is answered.
    """
    from upcycle.jobs import thresholds as job

    with telling() as show:
        if clear:
            job.clear(run, show)
            return lambda: {"run": str(run), "thresholds": None}
        part = {"calibration_fraction": calibration_fraction, "confidence": confidence}
        made = job.thresholds(run, want=want, cost=cost, abstain=abstain, show=show, **part)
    return lambda: {"run": str(run), "thresholds": made.to_dict()}


@with_json
def export(
    run: Path,
    data: Path | None = None,
    /,
    *,
    out: Path | None = None,
    format: Literal["onnx", "timm"] = "onnx",
    int8: Annotated[bool, Parameter(negative="")] = False,
    batch: Annotated[bool, Parameter(negative="")] = False,
    threads: Whole = 0,
) -> Result:
    """Write a run's model for use elsewhere, proved on the run's own test images.

    Parameters
    ----------
    run
        The run directory.
    data
        Where the run's images are now, if they have moved.
    out
        The folder; left out, RUN/export/FORMAT.
    format
        onnx: from a decoded photo of any size to probabilities; timm: for timm.create_model and the Hub.
    int8
        Write model.int8.onnx too: calibrated on training photos, its loss of F1 measured on the test images.
    batch
        The ONNX model takes float images [N, 3, S, S] that are resized, cropped and normalized before.
    threads
        Processor threads that the speed is measured with; 0 for all cores.
    """
    with importing():
        from upcycle.bundle.description import read_bundle
        from upcycle.jobs.export import export as run_export

    with telling() as show:
        folder = run_export(run, data, out=out, format=format, int8=int8, batch=batch, threads=threads, show=show)
    return lambda: {"out": str(folder), **read_bundle(folder).to_dict()}


@with_json
def push(folder: Path, repository: str, /, *, public: Annotated[bool, Parameter(negative="")] = False) -> Result:
    """Upload an export to the Hugging Face Hub.

    Parameters
    ----------
    folder
        What upcycle export wrote, or the run that holds it.
    repository
        OWNER/NAME; made if it is not there.
    public
        A new repository may be seen by everybody.
    """
    from upcycle.jobs.push import push as run_push

    with telling() as show:
        address = run_push(folder, repository, private=not public, show=show)
    return lambda: {"folder": str(folder), "address": address}


@with_json
def verify(path: Path, /) -> Result:
    """Compute the recorded numbers of a run or an export again from its files.

    Parameters
    ----------
    path
        The run directory, or an export of it.
    """
    from upcycle.jobs.verify import verify as run_verify

    with telling() as show:
        found = run_verify(path, show=show)
    return lambda: found.to_dict()
