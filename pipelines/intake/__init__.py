"""Pairs come in: sources, ingestion, facts, rules, quarantine, snapshot, data report."""

__all__ = [
    "data_docs",
    "ingestion",
    "pairs",
    "prompt_lists",
    "quarantine",
    "report",
    "shard_groups",
    "snapshot",
    "snapshot_diff",
    "sources",
    "validation",
]
