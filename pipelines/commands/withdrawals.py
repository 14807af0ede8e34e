"""Commands for consent and deletion requests: `plumbline withdraw`, `lineage` and `purge`."""

import logging
from typing import Annotated

import typer

from pipelines.commands.answers import DONE, show
from pipelines.commands.arguments import AsJson, Project

log = logging.getLogger(__name__)

COLUMNS = ("number", "at", "by", "withdrawal", "is_revoked", "reason")


def withdraw(
    annotator: Annotated[
        str | None, typer.Option(metavar="ID", help="A person, by the id that the source has for them.")
    ] = None,
    annotator_hash: Annotated[
        str | None, typer.Option(metavar="HASH", help="A person, by annotator_id in tables and data reports.")
    ] = None,
    pair: Annotated[str | None, typer.Option(metavar="ID", help="A pair, by pair_id in tables and reports.")] = None,
    image: Annotated[
        str | None, typer.Option(metavar="SHA256", help="An image, by the sha256 of its file: all pairs that show it.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(metavar="NAME[:SHARD]", help="A source, or one shard of it by its path there.")
    ] = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Reason, kept in the record.")] = "",
    revoke: Annotated[bool, typer.Option("--revoke", help="End the withdrawal: the pairs may be used again.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List all withdrawals and do nothing else.")] = False,
    as_json: AsJson = False,
) -> int:
    """Withdraw pairs from use in every project of the store, e.g. because a person asks for it.

    The next snapshot does not contain them, and nothing that is ingested later may contain them. Models that were
    trained on them stay; `plumbline lineage` lists these. `plumbline purge` deletes the data that is stored already.
    """
    from pipelines.stages import withdrawals

    targets = {"annotator": annotator, "annotator_hash": annotator_hash, "pair": pair, "image": image, "source": source}
    if list_:
        show(withdrawals.list_withdrawals(), as_json=as_json, columns=COLUMNS)
        return DONE
    record = withdrawals.withdraw(targets, reason=reason, revoke=revoke)
    log.info("Recorded. The next snapshot follows it; `plumbline purge` deletes stored copies of withdrawn pairs.")
    show(record, as_json=as_json)
    return DONE


def lineage(
    project: Project,
    pair: Annotated[str, typer.Option(metavar="ID", help="A pair, by pair_id.")] = "",
    snapshot: Annotated[
        str, typer.Option(metavar="SNAPSHOT", help="Beginning of a snapshot's digest, or last or previous.")
    ] = "",
    as_json: AsJson = False,
) -> int:
    """List the snapshots that hold a pair, and the model versions that were trained on it or on a snapshot."""
    from pipelines.stages import withdrawals

    found = withdrawals.lineage(project, pair=pair, snapshot=snapshot)
    show(found, as_json=as_json, columns=("version", "aliases", "snapshot_digest", "splits"))
    return DONE


def purge(
    yes: Annotated[bool, typer.Option("--yes", help="Delete. Without it, the command only lists.")] = False,
    as_json: AsJson = False,
) -> int:
    """List everything in the store that holds a withdrawn pair, and delete it with --yes.

    Batches are replaced by ones without the withdrawn rows. Snapshots, features and data reports are deleted; the next
    run builds new ones. Registered models, and copies on other hosts, are not touched.
    """
    from pipelines.stages import withdrawals

    plan = withdrawals.plan_purge()
    for other in plan["other_projects"] if plan["items"] else ():
        log.warning("Project %s has no file here: its shards leave its snapshots until its next ingest.", other)
    pages = withdrawals.purge(plan)["pages"] if yes else []
    if not yes and plan["items"]:
        log.warning("Nothing was deleted. Run `plumbline purge --yes` to delete these %d folders.", len(plan["items"]))
    shown = {"deleted": yes, "items": plan["items"], "snapshots": sorted(plan["pair_ids"]), "pages": pages}
    show(shown, as_json=as_json, columns=("kind", "uri", "num_pairs", "num_bytes"))
    return DONE
