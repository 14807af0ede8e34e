"""Pairs come in: sources, ingestion, facts, rules, quarantine, snapshot."""

__all__ = [
    "data_docs",
    "ingestion",
    "pairs",
    "prompt_lists",
    "quarantine",
    "shard_groups",
    "snapshot",
    "sources",
    "validation",
]
