"""Write the winner as a recipe file; its header states how it was found and what was measured."""

from datetime import UTC, datetime
from pathlib import Path

from alignment.config import load_recipe, recipe_toml
from alignment.contracts.judges import Judge
from alignment.contracts.training import Recipe
from alignment.files.durable import write_bytes
from pipelines.project.file import Project
from pipelines.search.ranking import TrialReport

MARK = "# Found by `plumbline search`"
"""First line of a file that a search may overwrite."""
RECIPES_FOLDER = "recipes"
"""Folder beside the project files, not among them: every TOML file there is read as a project."""


def default_path(project: Project) -> Path:
    """Return the default path of the winner's recipe."""
    return project.path.parent / RECIPES_FOLDER / f"{project.name}_search.toml"


def check_path(path: Path) -> None:
    """Raise ValueError when the winner cannot be written there, or would overwrite a file that a person wrote."""
    if path.suffix != ".toml":
        raise ValueError(f"--out is {path}; a recipe file must end in .toml.")
    if path.is_dir() or (path.exists() and not path.read_text(encoding="utf-8").startswith(MARK)):
        raise ValueError(f"{path} exists and was not written by a search. Name another file with --out.")


def chosen(recipe: Recipe, judge: Judge) -> Recipe:
    """Return the recipe with the lineage that keeps the judge from voting on what it trains."""
    return recipe.model_copy(
        update={"selected_by": tuple(dict.fromkeys((*recipe.selected_by, *judge.training_sources)))}
    )


def write_winner(path: Path, recipe: Recipe, header: str) -> None:
    """Write the recipe file in one step, and read it back."""
    check_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, recipe_toml(recipe, header).encode())
    written = load_recipe(str(path))
    assert written == recipe.model_copy(update={"name": path.stem}), f"{path} does not read back as it was written"


def header(project: Project, recipe: Recipe, report: TrialReport, *, number: int, trials: int, judge: str) -> str:
    """Return the file's header; every figure is of the trial except the two that are labelled otherwise."""
    c = report.against_base
    assert c is not None
    placement = project.placement.train
    changes = ", ".join(report.changes) or "nothing changed"
    beats = "" if c.mean_difference_low > 0 else " That is within the noise: the search has not shown it to be better."
    rate = f"{c.win_rate:.3f} ({c.win_rate_low:.3f} to {c.win_rate_high:.3f})"
    gain = f"{c.mean_difference:+.4f} ({c.mean_difference_low:+.4f} to {c.mean_difference_high:+.4f})"
    return "\n".join(
        [
            f"{MARK} for project {project.name} on {datetime.now(UTC):%Y-%m-%d}: trial {number} of {trials},",
            f"# {report.recipe} with {changes}.",
            f"# Expected: after a few steps {judge} preferred it to the base on {c.num_prompts} validation prompts,",
            f"# win rate {rate}, mean gain {gain}.{beats}",
            "# The result of the complete run was not measured.",
            f"# Cost: {report.final_run_hours or 0:.3f} hours predicted for {recipe.steps} steps, at the measured"
            f" {report.items_per_second or 0:.2f} a second; peak memory measured {report.peak_memory_gib or 0:.2f} GiB",
            f"# with micro_batch = {report.micro_batch} in {placement.num_processes} process(es) on engine"
            f" {placement.engine}; weights and optimiser states {report.memory_floor_gib or 0:.2f} GiB"
            " (estimate).",
            "# selected_by: the judge that chose this recipe, which may not vote on what it trains.",
        ]
    )
