"""The examples of the README and the manual, and what users write, are right for mypy in strict mode."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_what_users_write_passes_a_strict_type_checker(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    files = [ROOT / "tests" / "typing" / "seams.py"]
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        for number, code in enumerate((code for code in blocks if "import upcycle" in code), 1):
            file = tmp_path / f"{page.stem.replace('-', '_')}_{number}.py"
            file.write_text(code, encoding="utf-8")
            files.append(file)
    assert len(files) > 3
    # the cache of `make check`, so that the packages are not read again
    words = ["-m", "mypy", "--strict", "--config-file", "pyproject.toml", *map(str, files)]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert 0 == done.returncode, done.stdout + done.stderr
