"""The public names, and what importing them costs."""

import subprocess
import sys

import pytest

import upcycle


def test_the_public_names_are_these() -> None:
    expected = [
        "Classifier",
        "Comparison",
        "Constant",
        "OneCycle",
        "Prediction",
        "Ramp",
        "RampSustainDecay",
        "Run",
        "Scan",
        "UpcycleError",
    ]
    assert [*expected, "__version__", "compare", "load", "scan", "train"] == dir(upcycle)
    assert all(getattr(upcycle, name) for name in upcycle.__all__)


def test_the_package_imports_nothing_heavy() -> None:
    code = "import sys, upcycle; print([name for name in ('torch', 'numpy', 'pydantic') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[]" == done.stdout.strip()


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        upcycle.trian  # noqa: B018
