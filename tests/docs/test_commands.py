"""Every command that README and docs show exists, with its sub-command and its options."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from pipelines.commands.cli import app
from pipelines.commands.groups import STAGE

ROOT = Path(__file__).parents[2]
GENERATED = ("cli.md", "log.md")
"""Written from the commands themselves; a record of what earlier versions did."""
BLOCK = re.compile(r"^ *```\w+\n(.*?)```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")
COMMAND = re.compile(r"(?:^|[\s(])plumbline (?P<words>.*)$")
NOT_OURS = ("configmap", "docker", "helm", "kubectl")


def pages() -> list[Path]:
    """README and the pages that people write."""
    return [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name not in GENERATED)]


def shown(page: Path) -> Iterator[str]:
    """Words after `plumbline` of each command on the page, in blocks and in the text."""
    text = page.read_text()
    lines = [line for block in BLOCK.findall(text) for line in block.splitlines()]
    lines += INLINE.findall(BLOCK.sub("", text))
    for line in lines:
        if not any(word in line for word in NOT_OURS) and (match := COMMAND.search(line.split("#")[0])):
            yield match["words"]


def unknown_part(words: str) -> str | None:
    """Return the first word that the command line does not know as a command or an option; None when all are known."""
    command: Any = typer.main.get_command(app)
    for word in shlex.split(words.replace("...", "").replace("[", " ").replace("]", " ").replace("|", " ")):
        name = word.split("=")[0]
        if word.startswith("-") and (stage := getattr(command, "commands", {}).get(STAGE)):
            command = stage
        if name.startswith("-"):
            options = {option for param in command.params for option in (*param.opts, *param.secondary_opts)}
            if name not in options | {"--help"}:
                return word
        elif known := getattr(command, "commands", None):
            if word.isupper() and STAGE not in known:
                return None
            if word not in known and STAGE not in known:
                return word
            command = known.get(word) or known[STAGE]
    return None


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_every_command_of_a_page_exists(page: Path) -> None:
    wrong = {words: part for words in shown(page) if (part := unknown_part(words))}
    assert wrong == {}


def test_a_wrong_command_or_option_is_found() -> None:
    assert unknown_part("promote projects/NAME.toml --by-hand --version 4") is None
    assert unknown_part("promtoe projects/NAME.toml") == "promtoe"
    assert unknown_part("promote projects/NAME.toml --by-foot") == "--by-foot"
    assert unknown_part("jobs lst") == "lst"
    assert unknown_part("gate NAME --foot") == "--foot"


def test_the_pages_show_commands() -> None:
    assert sum(len(list(shown(page))) for page in pages()) > 60
