"""Work goes out: kinds of jobs, their requests, engines, the worker, Airflow operators."""

__all__ = [
    "base_facts",
    "conversions",
    "engines",
    "gpus",
    "hub",
    "input_cache",
    "job_kinds",
    "job_list",
    "jobs",
    "judge_import",
    "model_folders",
    "operators",
    "requests",
    "sizing",
    "sweeper",
]
