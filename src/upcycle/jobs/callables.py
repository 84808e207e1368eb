"""What a caller passes to `train` from Python where an option has a name: a schedule, a loss, an augmentation.

A run records the qualified name of each, the sha256 of its source and the fields of a value. A run that is resumed
compares them with those that are passed again; nothing is imported by a recorded name.
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from upcycle.changed_schedules import KINDS, from_dict, qualified_name, to_dict
from upcycle.config import CUSTOM, OF_SCHEDULES, Config, canonical
from upcycle.errors import ConfigError, RunError
from upcycle.planning import flat
from upcycle.schedules import CustomSchedule, Rate, Schedule

Function = Callable[..., Any]
"""Of tensors, which are not known here."""
PARTS = ("schedule", "loss", "augment")
"""Options that a callable may stand for."""


@dataclass(frozen=True, eq=False)
class Callables:
    """The custom parts of a run; None where an option's name says it all."""

    schedule: Schedule | None = None
    loss: Function | None = None
    augment: Function | None = None

    def record(self) -> dict[str, dict[str, object]]:
        """What is written down of each: its name and hash, or why it cannot be compared."""
        found = {name: value for name in PARTS if (value := getattr(self, name)) is not None}
        return {name: _identity(value) for name, value in found.items()}

    @property
    def unresumable(self) -> list[str]:
        """A line for each part for which the run cannot be resumed."""
        return [
            f"this run cannot be resumed, as its {name} {entry['why']}. Define it at the top level of a module"
            for name, entry in self.record().items()
            if "why" in entry
        ]

    def check(self, config: Config, names: Sequence[str] = PARTS) -> None:
        """ConfigError for a custom part that was named and not passed."""
        for name in names:
            if getattr(config, name) == CUSTOM and getattr(self, name) is None:
                raise ConfigError(f"{name} = {CUSTOM} needs a value from Python: upcycle.train(..., {name}=...)")

    def resumed(self, run: object, recorded: Mapping[str, Mapping[str, Any]]) -> "Callables":
        """These, as the parts of a run that has recorded others; RunError, with both names, where they differ."""
        now, schedule = json.loads(json.dumps(self.record())), self.schedule
        for name, before in recorded.items():
            if "why" in before:
                raise RunError(f"{run} cannot be resumed: its {name} {before['why']}. Start it again")
            if name == "schedule" and schedule is None and before.get("kind") in KINDS:
                schedule = from_dict(before)
            elif name not in now:
                raise RunError(f"{run} was started with the {name} {_said(before)}. Pass it again, from Python")
            elif dict(before) != now[name]:
                raise RunError(
                    f"{run} was started with the {name} {_said(before)}, not {_said(now[name])}. Pass the same, or "
                    "give another --out"
                )
        return Callables(schedule, self.loss, self.augment)


NO_CALLABLES = Callables()


def taken(
    options: Mapping[str, Any],
    *,
    schedule: Callable[[int], Rate] | str | None = None,
    loss: Function | str | None = None,
    augment: Function | str | None = None,
) -> tuple[dict[str, Any], Callables]:
    """The options with what was passed for them by name, and the callables among that.

    A built-in schedule that leaves out its lengths is the same as its options, and becomes those.
    """
    given = canonical(options)
    for name, value in (("schedule", schedule), ("loss", loss), ("augment", augment)):
        if isinstance(value, type) or not (value is None or isinstance(value, str) or callable(value)):
            raise ConfigError(f"{name} = {value!r}: pass a name, a function or a value")
        if value is not None:
            given[name] = value if isinstance(value, str) else CUSTOM
    custom = Callables(
        loss=None if isinstance(loss, str) else loss, augment=None if isinstance(augment, str) else augment
    )
    if schedule is None or isinstance(schedule, str):
        return given, custom
    beside = next((name for name in OF_SCHEDULES if name in given), None)
    if beside:
        raise ConfigError(f"{beside} was given beside a schedule's value, which replaces it: leave one of them out")
    value = schedule if type(schedule) in KINDS.values() else CustomSchedule(schedule)
    plain = flat(value)  # type: ignore[arg-type]
    if plain:
        return given | plain, custom
    return given | {"lr_adapt": False}, Callables(value, custom.loss, custom.augment)  # type: ignore[arg-type]


def _identity(part: object) -> dict[str, object]:
    """Name and hash of the source, and the fields of a value; or name and why it cannot be compared."""
    if isinstance(part, CustomSchedule):
        part = part.function
    elif type(part) in KINDS.values():
        return to_dict(part)  # type: ignore[arg-type]
    function = inspect.isroutine(part)
    named = part if function else type(part)
    entry: dict[str, object] = {"name": qualified_name(part)}
    values = {} if function else _fields(part)
    why = _hidden(named)
    if not why and values is None:
        why = f"is a {type(part).__name__} with fields that cannot be compared"
    if why:
        return entry | {"why": why}
    source = inspect.getsource(named)  # type: ignore[arg-type]
    entry["sha256"] = hashlib.sha256(source.encode(errors="surrogateescape")).hexdigest()
    return entry | ({"values": values} if values else {})


def _hidden(named: Any) -> str:
    """Why the source of a function or class does not say all that it does; "" where it does."""
    if "<lambda>" in named.__qualname__:
        return "is a lambda"
    if "<locals>" in named.__qualname__:
        return "is defined inside a function"
    if named.__module__ == "__main__":
        return "is defined in __main__"
    if inspect.ismethod(named):
        return "is a method of an object"
    try:
        inspect.getsource(named)
    except (OSError, TypeError):
        return "has no source to compare"
    return ""


def _fields(value: object) -> dict[str, object] | None:
    """The fields of a dataclass, where all of them are plain; None for any other object."""
    if not is_dataclass(value):
        return None
    found = {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return None if _NOT_PLAIN in found.values() else found


_NOT_PLAIN = "<not plain>"


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        items = [_plain(item) for item in value]
        return _NOT_PLAIN if _NOT_PLAIN in items else items
    return _NOT_PLAIN


def _said(entry: Mapping[str, Any]) -> str:
    """What a record says, short enough for a line."""
    if "kind" in entry:
        return ", ".join(f"{name} {value}" for name, value in entry.items())
    values = ", ".join(f"{name}={value}" for name, value in (entry.get("values") or {}).items())
    return f"{entry.get('name')}({values}) of sha256 {str(entry.get('sha256'))[:8]}"
