"""What model.json holds, of this version and of others."""

import json

import pytest

from upcycle.data.preprocessing import Preprocessing
from upcycle.model.spec import ModelSpec
from upcycle.task import Task

SPEC = ModelSpec("test_resnet", Task.of("ab"), Preprocessing(size=32), "test", "0" * 64)


def test_a_spec_is_read_back() -> None:
    assert SPEC == ModelSpec.from_dict(json.loads(json.dumps(SPEC.to_dict())))


def test_an_earlier_versions_spec_is_read() -> None:
    values = SPEC.to_dict()
    for name in ("task", "stages", "views", "temperature", "thresholds"):
        del values[name]
    assert ["arch", "classes", "outputs", "preprocessing", "weights"] == list(values)
    assert SPEC == ModelSpec.from_dict(values)


@pytest.mark.parametrize("name", ["stages", "views", "temperature", "thresholds"])
def test_what_a_later_version_computes_otherwise_is_refused(name: str) -> None:
    assert SPEC.to_dict()[name] is None
    with pytest.raises(ValueError, match=f"{name} = 2 needs a later version of upcycle"):
        ModelSpec.from_dict({**SPEC.to_dict(), name: 2})
