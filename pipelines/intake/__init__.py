"""Pairs come in: sources, ingestion, facts, rules, quarantine, snapshot, data report."""

__all__ = [
    "data_docs",
    "ingestion",
    "pairs",
    "prompt_lists",
    "quarantine",
    "report",
    "snapshot",
    "snapshot_diff",
    "validation",
]
