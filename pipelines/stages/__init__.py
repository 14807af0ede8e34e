"""Stages that a command and a DAG task both call: JSON in, JSON out. The only room that joins the wings."""

__all__ = ["candidates", "champion", "jobs", "judges", "monitor", "new_project", "pairs", "training", "values"]
