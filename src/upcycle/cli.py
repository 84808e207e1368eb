"""The command line: a mistake prints one line and ends with its documented code.

A command's own imports wait until it runs.
"""

import atexit
import contextlib
import os
import re
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError, UnusedCliTokensError

from upcycle import __version__
from upcycle.errors import (
    HUNG_UP,
    INTERRUPTED,
    TERMINATED,
    ConfigError,
    HungUp,
    LostError,
    StorageError,
    Terminated,
    UpcycleError,
    shown,
)

BINDING = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY")
"""By these OpenMP leaves the thread that loads it, and whatever that starts, one core."""

_SEVERAL = frozenset({"WORLD_SIZE", "SLURM_STEP_NUM_TASKS"})
"""Variables by one of which whoever starts several processes tells them how many they are."""

SHIPPING = ("predict", "thresholds", "export", "push", "verify")
"""Commands of a trained model."""

app = App(
    name="upcycle",
    version=__version__,
    help="Fine-tune pretrained image classifiers with the one-cycle policy, and prove what each choice bought.",
)
for _name, _help in {
    "scan": "Look at the images first: what is wrong with them, and what it would do to the result.",
    "choose": "Race backbones on a part of the images, and say which to train.",
    "find-lr": "Train at rising learning rates for a moment, and say which one to take.",
    "train": "Fine-tune a classifier on a folder of labelled images, test it and report.",
    "compare": "Train variants on one split and compare them, or compare runs that exist.",
    "plan": "Print and draw the learning-rate schedule; train nothing.",
    "evaluate": "Metrics of a run's best model, on its own split or another folder.",
    "predict": "Class and probabilities of files and folders.",
    "thresholds": "When a run's model answers: for a precision, a recall, costs or a share of images left open.",
    "export": "Write a run's model for use elsewhere, proved on the run's own test images.",
    "push": "Upload an export to the Hugging Face Hub.",
    "verify": "Compute the recorded numbers of a run or an export again from its files.",
    "finish": "Ask a run that is being trained to end early, its rate lowered to the end.",
    "report": "Write report.html and figures/ again from a run's files.",
    "demo": "The main job on real images and weights that packages carry.",
    "doctor": "What this machine has, and what upcycle would use.",
}.items():
    _module = "shipping" if _name in SHIPPING else "commands"
    app.command(f"upcycle.{_module}:{_name.replace('-', '_')}", name=_name, help=_help)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (upcycle.errors lists them)."""
    if sys.stdout is not None:
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # file names are any bytes
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        command, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
        _refuse_several(words)
        code = command(*bound.args, **bound.kwargs)
    except CycloptsError as error:
        return _fail(_one_line(error), ConfigError.exit_code)
    except UpcycleError as error:
        return _fail(str(error), error.exit_code)
    except Terminated:
        return _fail("terminated; what was finished is kept", TERMINATED)
    except HungUp:
        return _fail("the terminal was closed; what was finished is kept", HUNG_UP)
    except KeyboardInterrupt:
        return _fail("interrupted; what was finished is kept", INTERRUPTED)
    except BrokenPipeError:  # the reader, `head` for example, has had enough
        if sys.stderr is not None:
            sys.stderr.close()
        return 0
    except OSError as error:
        from upcycle.rundir import NO_ROOM

        if error.errno not in NO_ROOM:
            if error.filename is None:
                raise
            return _fail(f"{shown(error.filename)}: {(error.strerror or str(error)).lower()}", UpcycleError.exit_code)
        return _fail("no space left for what is written here; what was finished is kept", StorageError.exit_code)
    return code if isinstance(code, int) else 0


def _refuse_several(words: Sequence[str]) -> None:
    """ConfigError where several processes were started for what one does."""
    if not _SEVERAL & os.environ.keys():
        return  # as nearly always: nothing to import
    from upcycle.rendezvous import place_in

    place, what = place_in(os.environ), (words or ["upcycle"])[0]
    what = "--dry-run" if "--dry-run" in words else what
    if place is not None and what != "train":
        raise ConfigError(f"{place.size} processes were started, and {what} is for one: leave torchrun or srun out")


def run() -> int:
    """One command as a process, which ends here; returns its exit code under a profiler or a debugger alone.

    What has been asked to happen at the end happens. The interpreter does not take its modules apart after that, one
    by one, for a second and more once torch is among them.
    """
    for name in BINDING:
        os.environ.pop(name, None)
    code = main()
    if _is_watched():
        return code
    atexit._run_exitfuncs()
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and not stream.closed:
                stream.flush()
    except BrokenPipeError:
        pass
    except OSError as error:
        code = code or _fail(f"standard output cannot be written: {error.strerror}", StorageError.exit_code)
    os._exit(code)


def _is_watched() -> bool:
    """Whether a profiler or a debugger looks on, which wants the last word."""
    monitoring = getattr(sys, "monitoring", None)  # since Python 3.12
    tools = [monitoring.get_tool(number) for number in range(6)] if monitoring else []
    return bool(sys.getprofile() or sys.gettrace() or any(tools))


def _one_line(error: CycloptsError) -> str:
    """What is wrong with the command line, without boxes or links."""
    if (
        isinstance(error, UnusedCliTokensError)
        and error.command_chain
        and error.command_chain[0] in ("train", "scan", "choose", "plan", "find-lr")
    ):
        more = (error.unused_tokens or [""])[0]
        return f"{more!r} is one word too many: DATA is one folder or a manifest; quote a path that has spaces"
    text = " ".join(str(error).split())
    unknown = re.search(r"Unknown option: --([\w-]+)", text)
    if unknown and error.command_chain and error.command_chain[0] in ("train", "plan", "find-lr"):
        from upcycle.config import ALIASES

        if unknown[1] == "head-epochs":  # of earlier versions
            return "--head-epochs is gone: give --probe or --no-probe"
        canonical = ALIASES.get(unknown[1].replace("-", "_"))
        if canonical:
            return f"unknown option: --{unknown[1]}: here it is --{canonical.replace('_', '-')}"
    return text[:1].lower() + text[1:]


def _follows() -> bool:
    """Whether rank 0 of several processes says what is wrong, with the request or with another process."""
    if not _SEVERAL & os.environ.keys():
        return False
    from upcycle.rendezvous import follows

    return follows()


def _fail(message: str, code: int) -> int:
    if code in (ConfigError.exit_code, LostError.exit_code) and _follows():
        return code if code == ConfigError.exit_code else 0
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(f"upcycle: {' '.join(message.splitlines())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(run())
