"""Airflow's scheduler with the slow imports of our tasks done once: `python -m pipelines.platform.warm_scheduler`.

The LocalExecutor forks a process for each task from the scheduler, so a task finds these modules loaded. That saves
each short task two to three CPU-seconds. None of them starts a thread when it is imported, which a fork would lose.
"""

import importlib
import logging
import runpy
import sys

log = logging.getLogger(__name__)

PRELOADED = (
    "great_expectations.expectations",  # ingest_shard
    "pipelines.intake.validation",
    "mlflow",  # every task that reads or writes the registry or a run
    "mlflow.pyfunc",
    "pipelines.release.judge_candidate",
)


def preload() -> None:
    """Import the modules; one that is not installed or fails stays for the task that needs it."""
    from pipelines.tracking.runs import load_client

    load_client()  # with our environment of MLflow
    for name in PRELOADED:
        try:
            importlib.import_module(name)
        except Exception:
            log.warning("%s was not loaded ahead of the tasks", name, exc_info=True)


if __name__ == "__main__":
    preload()
    sys.argv = ["airflow", "scheduler", *sys.argv[1:]]
    runpy.run_module("airflow", run_name="__main__")
