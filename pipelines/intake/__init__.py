"""Pairs come in: sources, ingestion, facts, rules, quarantine, snapshot, data report."""

__all__ = [
    "accepted",
    "data_docs",
    "ingestion",
    "lineage",
    "pairs",
    "prompt_lists",
    "purge",
    "quarantine",
    "report",
    "scratch",
    "shard_groups",
    "shard_index",
    "snapshot",
    "snapshot_diff",
    "sources",
    "validation",
]
