"""The documentation agrees with the code: commands, options, recipes, exit codes, links, examples, size."""

import ast
import re
import shlex
import sys
from pathlib import Path

import pytest

from upcycle import errors
from upcycle.cli import app
from upcycle.config import Config
from upcycle.errors import HUNG_UP, INTERRUPTED, TERMINATED, UpcycleError
from upcycle.recipes import RECIPES, resolve

ROOT = Path(__file__).resolve().parents[1]
README, REFERENCE, TRAINING = ROOT / "README.md", ROOT / "docs" / "reference.md", ROOT / "docs" / "training.md"
MANUAL = sorted([README, *(ROOT / "docs").rglob("*.md")])
"""What a user reads."""
PAGES = sorted([*MANUAL, ROOT / "CHANGELOG.md", ROOT / "SECURITY.md", *(ROOT / "lab").rglob("*.md")])
GUIDES = sorted([README, *(ROOT / "docs").glob("*.md")])
COMMANDS = sorted(name for name in app if not name.startswith("-"))
OTHERS = (
    "steps-per-epoch",
    "csv",
    "plot",
    "require-hashes",
    "no-deps",
    "no-build-isolation",
    "split",
    "json",
    "list",
    "data",
    "variants",
    "layers",
    "seeds",
    "smallest-difference",
    "html",
    "label-errors",
    "within",
    "candidates",
    "start-lr",
    "end-lr",
    "num-updates",
    "repeats",
    "want",
    "cost",
    "abstain",
    "calibration-fraction",
    "confidence",
    "clear",
    "format",
    "int8",
    "batch",
    "public",
    "on",
)
"""Options of the other commands."""
ELSEWHERE = (
    *("nproc-per-node", "nnodes", "rdzv-backend", "rdzv-endpoint", "max-restarts", "nodes", "ntasks-per-node"),
    *("gpus-per-task", "multi_gpu"),
)
"""Options of torchrun, Slurm and accelerate, which start a training in several processes."""
JOB_OPTIONS = ("out", "resume", "dry-run", "config", "deadline", "plan")
"""Options of `upcycle train` that are no part of a configuration."""
LINES_OF_THE_README, WORDS_OF_THE_MANUAL = 120, 17_000


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose() -> str:
    """What a reader of the command line's documentation has."""
    return "\n".join(map(text_of, GUIDES))


def table_rows(page: Path) -> list[list[str]]:
    """The cells of every table row, without backquotes."""
    lines = [line for line in text_of(page).splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


def anchors(page: Path) -> set[str]:
    """The names by which GitHub links to a page's headings."""
    titles = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def commands_on(page: Path) -> list[str]:
    """Every `upcycle ...` line of the page's code, and every whole command in backquotes."""
    text = re.sub(r"```python.*?```", "", text_of(page), flags=re.DOTALL)
    lines = re.findall(r"^(?:    |\$ )(?:.*\| )?(upcycle .+)$", text, re.MULTILINE)
    inline = [" ".join(one.split()).split(" | ")[0] for one in re.findall(r"`(upcycle (?:\w+)[^`]*)`", text)]
    return [line.split(" #")[0].split(" | ")[0].strip() for line in lines] + inline


def python_on(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text_of(page), re.DOTALL)


COMMAND_LINES = sorted({line for page in MANUAL for line in commands_on(page)})
EXAMPLES = [(page, code) for page in MANUAL for code in python_on(page)]


def test_there_are_sixteen_commands() -> None:
    first, second = (
        "choose compare demo doctor evaluate export find-lr finish",
        "plan predict push report scan thresholds train verify",
    )
    assert f"{first} {second}".split() == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_documented(command: str) -> None:
    assert re.search(rf"\bupcycle {command}\b", prose())


@pytest.mark.parametrize("option", [*Config.model_fields, *JOB_OPTIONS])
def test_every_option_of_train_is_documented(option: str) -> None:
    assert re.search(rf"--{option.replace('_', '-')}(?![\w-])", text_of(REFERENCE))


@pytest.mark.parametrize("option", OTHERS)
def test_the_options_of_the_other_commands_are_documented(option: str) -> None:
    assert re.search(rf"--{option}(?![\w-])", prose())


def test_no_option_is_documented_that_does_not_exist() -> None:
    others = {*OTHERS, "help", "no-lr-adapt", "no-fold-bn", "no-probe", "no-refit", "no-commands"}
    known = {name.replace("_", "-") for name in (*Config.model_fields, *JOB_OPTIONS)} | others | {*ELSEWHERE, "multi"}
    assert set() == set(re.findall(r"(?<![\w-])--([a-z][a-z0-9-]*)", re.sub(r"<!--.*?-->", "", prose()))) - known


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_every_command_line_of_the_manual_can_be_given(line: str) -> None:
    words = [word for word in shlex.split(line)[1:] if word not in ("...", "[DATA]")]
    if words and words[0] in COMMANDS and words[1:] != ["--help"]:
        app.parse_args([*words, *needed_by(words)], exit_on_error=False, print_error=False)


def needed_by(words: list[str]) -> list[str]:
    """Arguments that a command named by its name alone lacks."""
    of_a_run = {name: ["RUN"] for name in ("evaluate", "finish", "report", "thresholds", "export", "verify")}
    needed = {
        "predict": ["RUN", "FILE"],
        "push": ["EXPORT", "NAME"],
        "scan": ["DATA"],
        "choose": ["DATA"],
        "find-lr": ["DATA"],
        **of_a_run,
    }
    return needed.get(words[0], []) if len(words) == 1 else []


@pytest.mark.parametrize(("page", "code"), EXAMPLES, ids=lambda value: getattr(value, "name", ""))
def test_every_example_in_python_compiles(page: Path, code: str) -> None:
    compile(code, str(page), "exec")


@pytest.mark.parametrize(("page", "code"), EXAMPLES, ids=lambda value: getattr(value, "name", ""))
def test_every_name_of_upcycle_in_an_example_is_public(page: Path, code: str) -> None:
    import upcycle

    named = {
        node.attr
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "upcycle"
    }
    assert named <= set(upcycle.__all__)


def test_the_lines_that_predict_elsewhere_are_those_that_are_tested() -> None:
    lines = (ROOT / "docs" / "examples" / "predict.py").read_text(encoding="utf-8")
    assert f"```python\n{lines}```" in text_of(ROOT / "docs" / "shipping.md")


def test_the_lines_for_other_frameworks_are_of_examples_that_are_tested() -> None:
    examples = [file.read_text(encoding="utf-8") for file in (ROOT / "docs" / "examples").glob("one_cycle_*.py")]
    tested = {line for example in examples for line in example.splitlines()}
    snippets = python_on(ROOT / "docs" / "one-cycle.md")
    assert len(snippets) == 3
    assert set() == {line for snippet in snippets for line in snippet.splitlines()} - tested


def test_every_exit_code_is_in_the_reference() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, UpcycleError)]
    codes = {0, HUNG_UP, INTERRUPTED, TERMINATED, *(kind.exit_code for kind in kinds)}
    section = text_of(REFERENCE).split("\n## Exit codes\n")[1].split("\n## ")[0]
    assert codes == {int(code) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)}
    assert {kind.__name__ for kind in kinds} == set(re.findall(r"`(\w+Error)`", section))


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_recipes_table_says_what_the_recipes_are(recipe: str) -> None:
    head, *rows = (row for row in table_rows(TRAINING) if len(row) == 1 + len(RECIPES) and row[1].strip("-"))
    said = {row[0]: row[head.index(recipe)] for row in rows}
    config = resolve({"recipe": recipe})
    assert set(RECIPES["classic"]) - {"lr_start", "lr_min", "rampup", "sustain", "decay", "momentum"} <= set(said)
    assert {name: plain(getattr(config, name)) for name in said} == {name: number(text) for name, text in said.items()}


def plain(value: object) -> object:
    """A value as the table writes it."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return float(value) if isinstance(value, int | float) else value


def number(text: str) -> object:
    """A cell as a number where it is one."""
    try:
        return float(text)
    except ValueError:
        return text


def test_options_and_public_names_are_pasted_from_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / "lab")])
    import paste

    assert text_of(REFERENCE) == paste.pasted(text_of(REFERENCE), commands=False), (
        "run: python lab/paste.py --no-commands"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_resolves(page: Path) -> None:
    prose_alone = re.sub(r"```.*?```|`[^`\n]*`", "", text_of(page), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_alone):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(linked), f"{page.name} links to {target}"


def test_the_architecture_names_every_module_and_no_other() -> None:
    source = ROOT / "src" / "upcycle"
    modules = {
        ".".join(file.relative_to(source).with_suffix("").parts)
        for file in source.rglob("*.py")
        if not file.name.startswith("__")
    }
    section = text_of(ROOT / "docs" / "architecture.md").split("\n## Modules\n")[1].split("\n## ")[0]
    named: set[str] = set()
    for package, row in re.findall(r"^\| (?:`(\w+)/`|top) \| (.+) \|$", section, re.MULTILINE):
        named |= {f"{package}.{name}" if package else name for name in re.findall(r"`(\w+)`", row)}
    assert (modules - named, named - modules) == (set(), set())


def test_every_decision_has_its_three_parts_in_few_lines() -> None:
    for page in sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md")):
        text = text_of(page)
        assert text.startswith(f"# {page.name[:4]} "), page.name
        assert all(f"**{part}.**" in text for part in ("Context", "Decision", "Consequence")), page.name
        assert len(text.splitlines()) < 30, page.name


def test_every_promise_stands_beside_a_test_that_is_there() -> None:
    page = text_of(ROOT / "docs" / "promises.md")
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith(("| promise", "|---"))]
    assert len(rows) > 20
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert named, row
        for file, test in named:
            assert f"def {test}(" in text_of(ROOT / file), f"{file}::{test}"


def test_every_runtime_dependency_has_a_reason() -> None:
    listed = re.search(r"\ndependencies = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL)
    assert listed is not None
    reasons = text_of(ROOT / "docs" / "decisions" / "0002-dependencies.md")
    for name in re.findall(r'"([\w-]+)', listed[1]):
        assert f"`{name}`" in reasons, name


def test_the_readme_is_short() -> None:
    assert len(text_of(README).splitlines()) <= LINES_OF_THE_README


def test_the_manual_is_short() -> None:
    assert sum(len(text_of(page).split()) for page in MANUAL) <= WORDS_OF_THE_MANUAL


STARRED = (
    r"rungs?|ladders?|climb(?:s|ed|ing)?|tied|(?:set|sets|setting) aside|(?:go|goes|going|gone|went) on with|anew"
    r"|not to be had|needs it not|has not this one|nearly the same"
)
"""Words that only this project used in these senses; WHOLE phrases, in any case."""
SPEAKING = sorted([*(file for file in (ROOT / "src").rglob("*") if file.suffix in {".py", ".html", ".css"}), *MANUAL])


@pytest.mark.parametrize("file", SPEAKING, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_words_are_those_of_the_field(file: Path) -> None:
    """What older runs hold on disk is read under its old name: such a line ends in `# as older runs have it`."""
    lines = [line for line in text_of(file).splitlines() if "as older runs have it" not in line]
    found = [
        line.strip() for line in lines if re.search(rf"(?<![a-zA-Z])(?:{STARRED})(?![a-zA-Z])", line, re.IGNORECASE)
    ]
    assert found == []
