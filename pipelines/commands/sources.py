"""`plumbline sources` and `plumbline feedback`: the kinds of preference data, and the table for votes."""

from pipelines.commands.answers import DONE, show
from pipelines.commands.arguments import AsJson, Project
from pipelines.commands.groups import command_group

COLUMNS = ("kind", "reads", "example")


def sources(as_json: AsJson = False) -> int:
    """List the kinds of preference data, each with what it reads and a minimal [[sources]] table."""
    from pipelines.stages import pairs

    show(pairs.list_source_kinds(), as_json=as_json, columns=COLUMNS)
    return DONE


def init(project: Project, as_json: AsJson = False) -> int:
    """Create the table of votes of each feedback source of a project, if it does not exist."""
    from pipelines.stages import pairs

    show(pairs.init_feedback(project), as_json=as_json)
    return DONE


feedback_app = command_group({"init": init}, help="Make the table in which an application records votes.")
