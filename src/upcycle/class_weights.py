"""Class weights as text: a word, numbers in order of class, or a number for each name."""

import json
import math
from collections.abc import Mapping
from typing import Any, Literal


def class_weights_text(given: object) -> object:
    """Class weights in any form as the text that is recorded, equal for equal weights by name; else what was given.

    ValueError where text, a list or a mapping does not hold class weights.
    """
    if isinstance(given, Mapping):
        return _by_name(_checked_weights({str(name): weight for name, weight in given.items()}))
    text = ",".join(str(item) for item in given) if isinstance(given, list | tuple) else given
    if not isinstance(text, str):
        return text
    weights = parse_class_weights(text)
    return _by_name(weights) if isinstance(weights, dict) else text


def _by_name(weights: Mapping[str, float]) -> str:
    """NAME=WEIGHT,NAME=WEIGHT, or as JSON where a name would be split or cut by that."""
    plain = dict(sorted((name, int(weight) if weight.is_integer() else weight) for name, weight in weights.items()))
    if any("," in name or name != name.strip() or not name or name.startswith("{") for name in plain):
        return json.dumps(plain, ensure_ascii=False)
    return ",".join(f"{name}={weight!r}" for name, weight in plain.items())


def parse_class_weights(text: str) -> tuple[float, ...] | dict[str, float] | Literal["none", "balanced"]:
    """The weights that `text` names, in order of class or by name (`cat=1,dog=2.5`, or a JSON object).

    ValueError when it is neither a word nor positive numbers.
    """
    if text == "none" or text == "balanced":
        return text  # type: ignore[return-value]
    if text.startswith("{") or "=" in text:
        return _checked_weights(_named_weights(text))
    try:
        weights = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"class_weights {text!r} is neither none, balanced nor numbers like 1,2.5 or cat=1,dog=2.5"
        ) from None
    if not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise ValueError(f"class_weights {text!r} must be positive numbers")
    return weights


def _named_weights(text: str) -> dict[str, object]:
    """What stands behind each name; ValueError for a name that is there twice, or a part without one."""
    if text.startswith("{"):
        try:
            pairs = json.loads(text, object_pairs_hook=list)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"class_weights {text!r} is no JSON object: {error}") from None
    else:
        parts = [part.rpartition("=") for part in text.split(",")]
        if not all(equals for _, equals, _ in parts):
            raise ValueError(f"class_weights {text!r} must name every class, as in cat=1,dog=2.5")
        pairs = [(name.strip(), weight) for name, _, weight in parts]
    names = [name for name, _ in pairs]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise ValueError(f"class_weights names {twice[0]!r} twice")
    return dict(pairs)


def _checked_weights(weights: Mapping[str, Any]) -> dict[str, float]:
    """Weights by name as numbers; ValueError, with the name, for one that is no positive number."""
    if not weights:
        raise ValueError("class_weights names no class")
    checked = {}
    for name, given in weights.items():
        try:
            weight = math.nan if isinstance(given, bool) else float(given)
        except (OverflowError, TypeError, ValueError):
            weight = math.nan
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(f"the weight of {name!r} must be a positive number, not {given!r}")
        checked[name] = weight
    return checked
