"""`plumbline plan`: memory, pace, hours and cost of a training before it runs."""

from typing import Annotated

import typer

from pipelines.commands.answers import DONE, show
from pipelines.commands.arguments import AsJson, Overrides, Project, Recipe
from pipelines.commands.loop import chosen_recipe
from pipelines.commands.rows import plan_rows


def plan(
    project: Project,
    overrides: Overrides = None,
    *,
    recipe: Recipe = None,
    gpu: Annotated[
        str,
        typer.Option(metavar="NAME", help="Card, e.g. h100 or rtx4090.", show_default="this host's, else all known"),
    ] = "",
    as_json: AsJson = False,
) -> int:
    """Estimate memory, pace, hours and cost of each recipe before it runs.

    Memory is that of one process, in GiB: weights with the reference copy, gradients, optimiser states, activations
    with the copies that autocast makes, and a reserve. `holds` is the largest micro-batch that fits. The
    pace is that of the newest finished training of the project with the same work, placement and card, and its row
    names the job; else it is estimated from the maker's rate of the card at 40 % utilisation. GPU-hours and cost
    follow from it.

    Nothing is fetched: for a base that is not on this host the published one of its family stands.
    """
    from pipelines.stages import plan as stage

    path, remaining = chosen_recipe(project, recipe, overrides)
    found = stage.plan(path, remaining, gpu=gpu)
    show({"recipes": found}, as_json=as_json, rows=plan_rows(found))
    return DONE
