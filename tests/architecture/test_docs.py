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
    assert named == {*cli.STAGES, "doctor", "judges", "prompts", "canary", "up", "down", "demo"}


def test_readme_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", (ROOT / "README.md").read_text())) <= targets


def test_decision_records_have_a_number_each() -> None:
    """Numbers are handed out before a record is written, so one may be missing for a while; none is used twice."""
    names = sorted(path.name for path in (ROOT / "docs" / "decisions").glob("*.md"))
    numbers = [name[:4] for name in names if re.match(r"\d{4}-", name)]
    assert len(numbers) == len(names)
    assert len(set(numbers)) == len(numbers)
