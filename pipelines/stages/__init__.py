"""Stages that a command and a DAG task both call: JSON in, JSON out. The only room that joins the wings."""

__all__ = [
    "candidates",
    "champion",
    "export",
    "jobs",
    "judges",
    "monitor",
    "pairs",
    "training",
    "values",
]
