"""The documentation agrees with the code: commands, options, recipes, exit codes, links, the file tree."""

import re
from pathlib import Path

import pytest

from upcycle import errors
from upcycle.cli import app
from upcycle.config import Config
from upcycle.errors import HUNG_UP, INTERRUPTED, TERMINATED, UpcycleError
from upcycle.recipes import RECIPES, resolve

ROOT = Path(__file__).resolve().parents[1]
README, GUIDE, RECIPE_PAGE = ROOT / "README.md", ROOT / "docs" / "guide.md", ROOT / "docs" / "recipes.md"
PAGES = sorted([README, ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
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
    "seeds",
    "smallest-difference",
    "html",
    "label-errors",
)
"""Options of the other commands."""
JOB_OPTIONS = ("out", "resume", "config")
"""Options of `upcycle train` that are no part of a configuration."""


def prose() -> str:
    """What a reader of the command line's documentation has."""
    return "\n".join(page.read_text(encoding="utf-8") for page in (README, GUIDE, RECIPE_PAGE))


def table_rows(page: Path) -> list[list[str]]:
    """The cells of every table row, without backquotes."""
    lines = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


def anchors(page: Path) -> set[str]:
    """The names by which GitHub links to a page's headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_there_are_nine_commands() -> None:
    assert ["compare", "demo", "doctor", "evaluate", "plan", "predict", "report", "scan", "train"] == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_documented(command: str) -> None:
    assert re.search(rf"\bupcycle {command}\b", prose())


@pytest.mark.parametrize("option", [*Config.model_fields, *JOB_OPTIONS])
def test_every_option_of_train_is_documented(option: str) -> None:
    assert re.search(rf"--{option.replace('_', '-')}(?![\w-])", prose())


@pytest.mark.parametrize("option", OTHERS)
def test_the_options_of_the_other_commands_are_documented(option: str) -> None:
    assert re.search(rf"--{option}(?![\w-])", prose())


def test_no_option_is_documented_that_does_not_exist() -> None:
    others = {*OTHERS, "help", "no-lr-adapt", "no-fold-bn"}
    known = {name.replace("_", "-") for name in (*Config.model_fields, *JOB_OPTIONS)} | others
    assert set() == set(re.findall(r"(?<![\w-])--([a-z][a-z0-9-]*)", prose())) - known


def test_every_exit_code_is_in_the_guide() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, UpcycleError)]
    codes = {0, HUNG_UP, INTERRUPTED, TERMINATED, *(kind.exit_code for kind in kinds)}
    section = GUIDE.read_text(encoding="utf-8").split("\n## Exit codes\n")[1].split("\n## ")[0]
    assert codes == {int(code) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)}


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_recipes_table_says_what_the_recipes_are(recipe: str) -> None:
    head, *rows = (row for row in table_rows(RECIPE_PAGE) if len(row) == 1 + len(RECIPES) and row[1].strip("-"))
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_resolves(page: Path) -> None:
    prose_alone = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_alone):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(linked), f"{page.name} links to {target}"


def test_every_decision_has_its_three_parts_in_few_lines() -> None:
    for page in sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md")):
        text = page.read_text(encoding="utf-8")
        assert text.startswith(f"# {page.name[:4]} "), page.name
        assert all(f"**{part}.**" in text for part in ("Context", "Decision", "Consequence")), page.name
        assert len(text.splitlines()) < 25, page.name


def test_every_promise_stands_beside_a_test_that_is_there() -> None:
    page = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8").split("\n## How often")[0]
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith(("| promise", "|---"))]
    assert len(rows) > 20
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert named, row
        for file, test in named:
            assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{test}"


def test_every_runtime_dependency_has_a_reason() -> None:
    listed = re.search(r"\ndependencies = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL)
    assert listed is not None
    reasons = (ROOT / "docs" / "decisions" / "0002-dependencies.md").read_text(encoding="utf-8")
    for name in re.findall(r'"([\w-]+)', listed[1]):
        assert f"`{name}`" in reasons, name
