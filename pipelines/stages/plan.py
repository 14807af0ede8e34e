"""Stage of `plumbline plan`: the plan of a project's training as plain JSON."""

from pipelines.settings import load_settings
from pipelines.stages.values import Json, read_project, to_json
from pipelines.workspace import Workspace


def plan(path: str, overrides: tuple[str, ...] = (), *, gpu: str = "") -> list[Json]:
    """Return the plan of each recipe; runs nothing. `gpu` is a card's name, as in `dispatch.sizing.cards`.

    ValueError for a bad project, or a card that is not known.
    """
    from pipelines.dispatch.sizing.plan import plan_project

    workspace = Workspace(read_project(path, overrides), load_settings())
    return [to_json(own) for own in plan_project(workspace, gpu)]
