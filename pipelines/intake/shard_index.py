"""The index of a project's validated shards, and the shards that a source no longer has."""

from collections.abc import Sequence
from urllib.parse import unquote

from pipelines.contracts.pairs import ValidationReport
from pipelines.records.withdrawals import read_listing
from pipelines.workspace import Workspace


def index_entries(workspace: Workspace) -> list[tuple[str, ValidationReport]]:
    """Return (entry, newest report) of every shard that was validated, and of replays of its quarantine."""
    store = workspace.store
    entries = store.list_uris(store.uri("raw/index", workspace.project.name))
    return [(own, ValidationReport.model_validate_json(store.read_bytes(own))) for own in sorted(entries)]


def shard_of_entry(uri: str) -> str:
    """Return the path, in its source, of the shard of an entry of the index: .../SOURCE/QUOTED SHARD/NAME.json."""
    folder = uri.rsplit("/", 2)[-2]
    return unquote(unquote(folder) if uri.startswith("file://") else folder)


def removed_shards(workspace: Workspace, shards: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return those of (source, shard) that the source no longer had when it was listed last.

    Shards of sources with `on_removed = "keep"`, and of sources that were never listed, are not removed.
    """
    removed = set()
    for source in workspace.project.sources:
        listing = read_listing(workspace.store, workspace.project.name, source.name)
        if listing is not None and source.on_removed == "withdraw":
            now = set(listing)
            removed |= {own for own in shards if own[0] == source.name and own[1] not in now}
    return removed
