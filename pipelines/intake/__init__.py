"""Pairs come in: sources, ingestion, facts, rules, quarantine, snapshot."""

__all__ = ["ingestion", "pairs", "prompt_lists", "snapshot", "validation"]
