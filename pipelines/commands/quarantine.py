"""`plumbline quarantine`: the rows that broke a rule, and their second validation after a rule or limit changed."""

import logging

from pipelines.commands.answers import DONE, show
from pipelines.commands.arguments import AsJson, Project
from pipelines.commands.groups import command_group

log = logging.getLogger(__name__)

COLUMNS = (
    "source",
    "shard",
    "num_rows",
    "num_accepted",
    "num_quarantined",
    "num_duplicates",
    "reasons",
    "data_docs_uri",
)


def show_quarantine(project: Project, as_json: AsJson = False) -> int:
    """List every shard with its accepted and quarantined rows, the reasons, and the address of its Data Docs."""
    from pipelines.stages import pairs

    found = pairs.list_quarantine(project)
    if not found:
        log.warning("No shard was validated yet. Run `plumbline validate %s`.", project)
    show(found, as_json=as_json, columns=COLUMNS)
    return DONE


def replay(project: Project, as_json: AsJson = False) -> int:
    """Validate the quarantined rows again under the project's present rules.

    Rows that pass join the next snapshot. Change the rule or limit under [validation] first.
    """
    from pipelines.stages import pairs

    reports = pairs.replay_quarantine(project)
    accepted = sum(report["num_accepted"] for report in reports)
    rows = sum(report["num_rows"] for report in reports)
    log.info("%d of %d quarantined rows are accepted now.", accepted, rows)
    show({"rows": rows, "accepted": accepted, "reports": reports}, as_json=as_json)
    return DONE


app = command_group({"show": show_quarantine, "replay": replay}, help="See quarantined rows and validate them again.")
