"""Pastes what commands print, and what the source declares, into the pages.

    python lab/paste.py [PAGE ...]             all pages where none is named
    python lab/paste.py --no-commands          only what is read from the source; the tests hold that

Between `<!-- run: COMMAND -->` and `<!-- end -->` goes the command and its output; `<!-- run /PATTERN/,9: COMMAND -->`
keeps the last 9 lines, and of those before the ones that match. `--out OUT` is a new folder, shown as `runs/first`.
`<!-- options -->` stands for the table of options and `<!-- api -->` for the public Python names.
"""

import argparse
import functools
import inspect
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import upcycle
from upcycle.config import GROUPS, Config

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
WIDTH = 100


@functools.cache
def output_of(command: str) -> tuple[str, ...]:
    """The lines that a command prints."""
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "first")
        environment = os.environ | {"COLUMNS": str(WIDTH), "NO_COLOR": "1", "TERM": "dumb"}
        words = [sys.executable, "-m", "upcycle", *shlex.split(command.replace("OUT", out))[1:]]
        done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=folder, check=True)
    return tuple(line.rstrip() for line in done.stdout.replace(out, "runs/first").rstrip().splitlines())


def command_output(command: str, pattern: str, last: int) -> str:
    """The command and what it prints: the `last` lines, and those before that match `pattern`; 0 is all of it."""
    lines, kept = output_of(command), []
    for at, line in enumerate(lines):
        if not last or at >= len(lines) - last or (pattern and re.search(pattern, line)):
            kept.append(line)
        elif kept[-1:] != ["..."]:
            kept.append("...")
    return "\n".join(["```text", f"$ {command.replace(' --out OUT', '')}", *kept, "```"])


def options_table() -> str:
    """Every option of `upcycle train` by group, with its default and meaning."""
    parts = []
    for title, names in GROUPS.items():
        rows = [f"**{title}**\n\n| option | default | meaning |\n|---|---|---|"]
        for name in names:
            field = Config.model_fields[name]
            meaning = (field.description or "").replace("|", "\\|")
            rows.append(f"| `--{name.replace('_', '-')}` | {default_of(field.default)} | {meaning} |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def default_of(value: object) -> str:
    """A default as a person types it."""
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def api_list() -> str:
    """Every public name with its first sentence, and the public members of the main classes."""
    lines = []
    for name in sorted(upcycle.__all__, key=lambda name: (not name[0].islower(), name.lower())):
        if name.startswith("__") or name.endswith("Error") or name in PARTS:  # the exit codes' table has the errors
            continue
        value = getattr(upcycle, name)
        lines.append(f"- `{name}`: {first_sentence(value)}")
        if name in ("Run", "Classifier", "Prediction", "Comparison", "Scan"):
            members = [member for member in vars(value) if not member.startswith("_") and member not in INNER]
            told = {member: first_sentence(inspect.getattr_static(value, member)) for member in members}
            if name == "Run":
                lines += [f"  - `.{member}`: {sentence}" for member, sentence in told.items() if sentence]
            elif any(told.values()):
                lines[-1] += " Has " + ", ".join(f"`.{member}`" for member, sentence in told.items() if sentence) + "."
    return "\n".join([*lines, f"- Values and parts: {', '.join(f'`{name}`' for name in PARTS)}"])


def first_sentence(value: object) -> str:
    """The first sentence of a docstring."""
    text = inspect.getdoc(value) or ""
    if not text or type(value).__doc__ == value.__doc__:
        return ""
    return re.split(r"(?<=\.)\s", " ".join(text.split("\n\n")[0].split()))[0]


PARTS = (
    *("Config", "Dataset", "Evaluation", "History", "Metric", "Network", "Rate", "Row", "Schedule", "State", "Task"),
)
"""Public names that their docstrings explain."""
INNER = (
    *("directory", "frame", "isolated", "logits", "logits_and_p_values", "threads", "fingerprint", "judge"),
    *("to_dict", "from_dict", "save"),
)
"""Members that serve the package itself."""
GENERATED: dict[str, Callable[[], str]] = {"options": options_table, "api": api_list}


def pasted(text: str, *, commands: bool) -> str:
    """The page with every marked part made again."""

    def made(match: re.Match[str]) -> str:
        head, what = match[1], match[2]
        if run := re.fullmatch(r"run(?: /(.*)/,(\d+))?: (.+)", what):
            if not commands:
                return match[0]
            return f"{head}\n\n{command_output(run[3], run[1] or '', int(run[2] or 0))}\n\n<!-- end -->"
        return f"{head}\n\n{GENERATED[what]()}\n\n<!-- end -->"

    return re.sub(r"(<!-- (run.*?: .+?|options|api) -->)\n.*?<!-- end -->", made, text, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path, default=PAGES)
    parser.add_argument("--no-commands", action="store_true")
    asked = parser.parse_args()
    for page in asked.pages:
        text = page.read_text(encoding="utf-8")
        if (new := pasted(text, commands=not asked.no_commands)) != text:
            page.write_text(new, encoding="utf-8")
            print(page)


if __name__ == "__main__":
    main()
