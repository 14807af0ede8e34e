"""The only room that names mlflow: runs and the model registry."""

__all__ = [
    "errors",
    "first_use",
    "open_runs",
    "pages",
    "pipeline_run",
    "registry",
    "run_stream",
    "runs",
    "withdrawn_pages",
]
