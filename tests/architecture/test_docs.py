"""Documents: the files, commands and options they name exist, their links resolve, and their words are plain."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from alignment.catalogues.objectives import OBJECTIVES
from alignment.config import known_recipes
from pipelines.commands import cli
from pipelines.project.file import load_project

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        *DOCS.rglob("*.md"),
        *(ROOT / "examples").rglob("README.md"),
    ]
)
HISTORY = DOCS / "log.md"
"""Dated results, which are not edited afterwards."""
NOT_PLAIN = (
    r"mend(s|ed|ing)?",
    r"told",
    r"anew",
    r"of (its|their|our|his|her) own",
    r"people's word",
    r"word of people",
    r"says so",
    r"what cannot be",
    r"such a run",
    r"of no matter",
    r"the other hand",
    r"came round",
    r"is due once",
)
"""Expressions of an earlier private dialect, each with a plain word instead: fix, reported, again, separate..."""


def test_every_objective_has_a_row_with_its_file_and_recipe() -> None:
    text = (DOCS / "objectives.md").read_text()
    for objective in OBJECTIVES:
        name = objective.model_fields["name"].default
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}`"))
        file = objective.implementation.partition(":")[0].replace(".", "/") + ".py"
        assert f"`{file}`" in row
        assert re.findall(r"`(\w+_shapes)`", row)[0] in known_recipes()


def test_command_page_names_exactly_the_commands() -> None:
    text = (DOCS / "cli.md").read_text()
    named = set(re.findall(r"^### `plumbline ([\w-]+)", text, flags=re.MULTILINE))
    assert named == {name for names in cli.PANELS.values() for name in names}


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/quickstart.md"])
def test_make_targets_exist(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", (ROOT / page).read_text(), flags=re.MULTILINE))
    assert named
    assert named <= targets


def test_decision_records_have_a_number_each() -> None:
    """A number is assigned before its record is written, so one may be missing for some time. None is used twice."""
    names = sorted(path.name for path in (DOCS / "decisions").glob("*.md") if path.name != "index.md")
    numbers = [name[:4] for name in names if re.match(r"\d{4}-", name)]
    assert len(numbers) == len(names)
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_resolves(page: Path) -> None:
    assert [link for link in relative_links(page.read_text()) if not resolves(page, link)] == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    text = "# A title\n[here](#a-title) [gone](gone.md) [![picture](no.png)](page.md#b-title) [out](https://x.org/y)\n"
    page.write_text(text)
    assert [link for link in relative_links(text) if not resolves(page, link)] == [
        "gone.md",
        "page.md#b-title",
        "no.png",
    ]


@pytest.mark.parametrize("page", [page for page in PAGES if page != HISTORY], ids=lambda page: page.name)
def test_words_are_plain(page: Path) -> None:
    found = [
        f"line {number}: {match.group()}"
        for number, line in enumerate(page.read_text().splitlines(), start=1)
        for match in re.finditer(rf"\b({'|'.join(NOT_PLAIN)})\b", line, flags=re.IGNORECASE)
    ]
    assert found == []


def test_words_in_code_are_plain() -> None:
    """Source, tests, templates, recipes and projects use none of these expressions either."""
    files = [
        path
        for folder in ("alignment", "pipelines", "dags", "tests", "benchmarks", "examples", "projects")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".toml", ".j2") and path != Path(__file__)
    ]
    pattern = re.compile(rf"\b({'|'.join(NOT_PLAIN)})\b", flags=re.IGNORECASE)
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}" for path in files for match in pattern.finditer(path.read_text())
    ]
    assert found == []


def test_project_of_the_quickstart_is_valid(tmp_path: Path) -> None:
    for name, text in quickstart_files().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        if name.endswith(".py"):
            compile(text, name, "exec")
    project = load_project(tmp_path / "projects" / "my_model.toml")
    assert project.gate.mode == "dry_run"
    assert [recipe.steps for recipe in project.recipes()] == [20]


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-b", "html", DOCS, tmp_path / "site"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "quickstart.html").is_file()


def quickstart_files() -> dict[str, str]:
    """Return the files that the quickstart lets its reader write, by path: a bold path above a fenced block."""
    text = (DOCS / "quickstart.md").read_text()
    return dict(re.findall(r"^\*\*`([^`]+)`\*\*\n\n```\w+\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL))


def relative_links(text: str) -> list[str]:
    """Return the targets of links and images outside code, without those with a scheme."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    inner = re.findall(r"!\[[^\]]*\]\(([^()\s]+)\)", prose)
    outer = re.findall(r"(?<!!)\[[^\[\]]*(?:!\[[^\]]*\]\([^()]*\))?[^\[\]]*\]\(([^()\s]+)\)", prose)
    return [link for link in (*outer, *inner) if "://" not in link and not link.startswith("mailto:")]


def resolves(page: Path, link: str) -> bool:
    """Return True if the file of the link exists and, in a Markdown file, the heading that it names."""
    path, _, anchor = link.partition("#")
    target = (page.parent / path) if path else page
    return target.exists() and (not anchor or anchor in anchors(target.read_text()))


def anchors(text: str) -> Iterator[str]:
    """Yield the anchors of the headings, as repository browsers and MyST generate them."""
    for heading in re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", [page for page in PAGES if page != HISTORY], ids=lambda page: page.name)
def test_paths_of_code_exist(page: Path) -> None:
    """A path in backticks is relative to the root of the project; `x.py` is a placeholder for a file to add."""
    named = re.findall(
        r"`((?:pipelines|alignment|dags|examples|tests|projects|benchmarks)/[\w/.-]+)`", page.read_text()
    )
    placeholders = ("/x.py", "/x.toml", "NAME", "verb_noun.py", "my_model.toml")
    missing = [n for n in named if not (ROOT / n).exists() and not any(p in n for p in placeholders)]
    assert missing == []
