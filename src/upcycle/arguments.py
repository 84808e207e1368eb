"""What the commands have in common: options of `Config`, files of options, where words go, and --json."""

import contextlib
import functools
import gc
import inspect
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict, get_args, get_origin

from cyclopts import Group, Parameter

from upcycle.config import GROUPS, READING, Config, from_words, read_toml
from upcycle.errors import StorageError
from upcycle.rendezvous import follows
from upcycle.rundir import plain_json

if TYPE_CHECKING:
    from upcycle.reporting.progress import Terminal

_GROUPS = {title: Group(title, sort_key=at) for at, title in enumerate(GROUPS)}
MAIN = Parameter(group=next(iter(_GROUPS.values())))
_GROUP_OF = {name: _GROUPS[title] for title, names in GROUPS.items() for name in names}


def _option(name: str, *, show: bool, defaults: bool) -> Any:
    """An option of `Config` in its group of `--help`; as a word, which `Config` reads and checks as one of a file."""
    field = Config.model_fields[name]
    kind: Any = field.annotation
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    words = [str(field.description), *([f"[choices: {', '.join(choices)}]"] if choices else [])]
    if defaults and field.default not in (None, ""):
        words.append(f"[default: {field.default}]")
    parts = [part for part in get_args(kind) or (kind,) if part is not type(None) and get_origin(part) is not Literal]
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


NO_OPTIONS: dict[str, Any] = {}
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


def given(options: Mapping[str, Any], config: Path | None) -> dict[str, Any]:
    """The options that were given: in the file, and over them on the command line."""
    return {**(read_toml(config) if config else {}), **from_words(options)}


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Without the search for garbage: imports make none, and it takes a tenth of their time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextlib.contextmanager
def telling(name: Literal["stdout", "stderr"] = "stdout") -> Iterator["Terminal"]:
    """Where a job tells what it does; StorageError once it is done, where some of that could not be written.

    A reader that has gone, `head` for example, is no failure, nor the job's end.
    """
    from upcycle.reporting.progress import Terminal, console_of

    show = Terminal(console_of(name))
    yield show
    if show.lost is not None:
        raise StorageError(f"standard output cannot be written: {show.lost.strerror}")


Result = Callable[[], Mapping[str, object]]
"""Gives what a command found as plain values, where somebody asks."""


def with_json(command: Callable[..., Result], place: Parameter | None = None) -> Callable[..., None]:
    """`command` with --json, in the group of its help that `place` may name.

    Standard output then holds one JSON object, what the command found, and nothing else.
    """

    @functools.wraps(command)
    def run(*words: Any, json: bool = False, **options: Any) -> None:
        with contextlib.redirect_stdout(sys.stderr) if json else contextlib.nullcontext():
            result = command(*words, **options)
        if json and not follows():
            print(plain_json(result()), end="")

    told = Parameter(negative="", help="Print one JSON object; all other words go to standard error.")
    kind: Any = Annotated[bool, place, told]
    option = inspect.Parameter("json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
    known = inspect.signature(command)
    run.__signature__ = known.replace(parameters=[*known.parameters.values(), option])  # type: ignore[attr-defined]
    return run
