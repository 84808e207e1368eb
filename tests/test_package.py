"""The public names, and what importing them costs."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import upcycle

ROOT = Path(__file__).resolve().parents[1]


def test_the_public_names_are_these() -> None:
    expected = """
        Bundle Classifier Comparison Config ConfigError Constant DataError Dataset DecodeError DivergenceError
        Evaluation ExportError History LrFinding Metric Network NoRoomError Observer OneCycle Prediction
        RampSustainDecay Rate Row Run RunError Scan Schedule State Step StorageError Task Thresholds UpcycleError
        WarmupStableDecay WeightsError __version__ choose compare evaluate export find_lr fit load open_bundle plan
        push report scan thresholds train verify
    """
    assert expected.split() == dir(upcycle)
    assert all(getattr(upcycle, name) for name in upcycle.__all__)


def test_the_package_imports_nothing_heavy() -> None:
    code = "import sys, upcycle; print([name for name in ('torch', 'numpy', 'pydantic') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[]" == done.stdout.strip()


@pytest.mark.parametrize("words", [["plan"], ["train", "--help"]])
def test_what_shows_options_alone_starts_without_heavy_libraries(words: list[str]) -> None:
    heavy = ("torch", "numpy", "scipy", "filelock", "matplotlib", "pyarrow")
    loaded = f"[one for one in {heavy} if one in sys.modules]"
    code = f"import sys; from upcycle.cli import main; main({words}); print({loaded})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "[]" == done.stdout.splitlines()[-1], done.stderr


@pytest.mark.parametrize("words", [["--csv"], []])
def test_plans_over_each_other_start_without_tensors_and_figures(words: list[str]) -> None:
    given = ["plan", "--variants", "default,classic", *words]
    loaded = "[one for one in ('torch', 'timm', 'matplotlib', 'pyarrow') if one in sys.modules]"
    code = f"import sys; from upcycle.cli import main; main({given}); print({loaded})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "[]" == done.stdout.splitlines()[-1], done.stderr


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        upcycle.trian  # noqa: B018


def _pinned() -> dict[str, tuple[str, int]]:
    """Version and number of hashes of every package in requirements/."""
    text = "".join(file.read_text() for file in sorted((ROOT / "requirements").glob("*.txt")))
    entries = re.findall(r"^([a-z0-9.-]+)==(\S+).*?((?:\n    --hash=sha256:[0-9a-f]{64}.*)*)$", text, re.MULTILINE)
    assert len(entries) == text.count("==") - text.count(" == ")
    return {name: (version, hashes.count("sha256:")) for name, version, hashes in entries}


def test_every_pinned_package_has_its_hashes() -> None:
    pinned = _pinned()
    assert all(hashes for _, hashes in pinned.values())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    del extras["heif"]  # a user's choice, which nothing here installs
    wanted = [*project["dependencies"], *(one for extra in extras.values() for one in extra)]
    names = {re.split(r"[=<>\[]", one)[0].lower() for one in wanted}
    assert not names - pinned.keys()


def test_what_is_installed_is_what_is_pinned() -> None:
    if not (ROOT / ".venv" / ".test").exists():
        pytest.skip("not the environment that make installs")
    for name, (version, _) in _pinned().items():
        try:
            assert importlib.metadata.version(name) == version, name
        except importlib.metadata.PackageNotFoundError:
            continue  # of another system, or of the checks
