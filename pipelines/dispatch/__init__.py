"""Work goes out: kinds of jobs, their requests, engines, the worker, Airflow operators."""

__all__ = [
    "conversions",
    "engines",
    "hub",
    "job_kinds",
    "jobs",
    "judge_import",
    "model_folders",
    "operators",
    "requests",
    "sweeper",
]
