"""The documents name what exists."""

import re
from pathlib import Path

from alignment.config import known_recipes
from alignment.objectives.catalogue import OBJECTIVES
from pipelines import cli

ROOT = Path(__file__).parents[2]


def test_every_objective_has_a_row_that_points_at_its_file_and_recipe() -> None:
    text = (ROOT / "docs" / "objectives.md").read_text()
    for objective in OBJECTIVES:
        name = objective.model_fields["name"].default
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}`"))
        file = objective.implementation.partition(":")[0].replace(".", "/") + ".py"
        assert f"`{file}`" in row
        assert re.findall(r"`(\w+_shapes)`", row)[0] in known_recipes()


def test_readme_names_every_command_and_no_other() -> None:
    text = (ROOT / "README.md").read_text()
    named = set(re.findall(r"^\| `plumbline (\w+)", text, flags=re.MULTILINE))
    assert named == {*cli.STAGES, "doctor", "up", "down", "demo"}


def test_readme_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", (ROOT / "README.md").read_text())) <= targets


def test_decision_records_are_numbered_in_turn() -> None:
    names = sorted(path.name for path in (ROOT / "docs" / "decisions").glob("*.md"))
    assert [name[:4] for name in names] == [f"{number:04d}" for number in range(1, len(names) + 1)]
