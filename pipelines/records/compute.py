"""The account of a project: compute/PROJECT/000001.json and following, an entry for each attempt of a job.

Each entry has the total so far, so that the total of a project is read from the last one.
"""

from pipelines.contracts.jobs import ComputeEntry, ComputeTotal
from pipelines.records.series import Series, series_of_models
from pipelines.store.storage import Store


def account(store: Store, project: str) -> Series[ComputeEntry]:
    """Open the account of a project."""
    return series_of_models(store, "compute", project, model=ComputeEntry)


def total_compute(store: Store, project: str) -> ComputeTotal:
    """Return the compute time and cost of all jobs of a project since accounts are kept."""
    _number, last = account(store, project).last()
    return last.total if last else ComputeTotal()
