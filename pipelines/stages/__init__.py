"""Stages that a command and a DAG task both call: JSON in, JSON out. The only room that joins the wings."""

__all__ = [
    "advice",
    "ballots",
    "candidates",
    "champion",
    "export",
    "jobs",
    "judges",
    "monitor",
    "new_project",
    "pairs",
    "plan",
    "pool",
    "training",
    "values",
    "withdrawals",
]
