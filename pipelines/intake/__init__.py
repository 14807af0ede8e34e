"""Pairs come in: sources, ingestion, facts, rules, quarantine, snapshot."""

__all__ = ["data_docs", "ingestion", "pairs", "prompt_lists", "quarantine", "snapshot", "sources", "validation"]
