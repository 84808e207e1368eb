"""Values read back from JSON: checked against the types of a dataclass, with one line for what does not fit."""

import functools
import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, TypeAdapter, ValidationError

from upcycle.errors import RunError

Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A float; JSON has null where it is not finite."""

Value = TypeVar("Value")


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def read_value(kind: type[Value], values: object, source: str) -> Value:
    """`values`, plain ones of JSON, as a `kind`; RunError that names `source` and the place which does not fit."""
    adapter: TypeAdapter[Value] = _adapter(kind)  # type: ignore[arg-type]
    try:
        return adapter.validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise RunError(f"{source} is damaged{f' at {place!a}' if place else ''}: {first['msg']}") from error


def read_values(kind: type[Value], rows: Iterable[Mapping[str, object]], source: str) -> tuple[Value, ...]:
    """The same of each row of a file of lines."""
    return tuple(read_value(kind, row, f"{source}, line {number},") for number, row in enumerate(rows, 1))
