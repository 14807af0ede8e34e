"""Prepare compute time and cost for the report and the model card: a row for each job, a total, and the project's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.contracts.jobs import ComputeTotal, JobKind, JobRecord
from pipelines.release.pages.wording import duration

_JOB_TITLES = {
    "label": "labels",
    "draw_pairs": "drawing pairs",
    "encode": "features",
    "reference_errors": "errors of the base",
    "train": "training",
    "soup": "averaging",
    "train_reward": "reward model",
    "evaluate": "evaluation",
    "coverage": "best of several",
}
"""Titles shown instead of a job kind's name."""


@dataclass(frozen=True)
class _CostRow:
    """The compute time of one job, or a total."""

    job: str
    device: str
    processes: str
    wall: str
    hours: str
    cost: str
    """Amount and currency; empty without a price."""


def cost_rows(records: Sequence[JobRecord], project: ComputeTotal) -> list[_CostRow]:
    """Return the finished jobs, a total for each kind of device, and the totals of the project so far."""
    rows = [
        _CostRow(
            job=_job_title(record.request.kind),
            device="GPU" if record.device == "gpu" else "CPU",
            processes=str(record.request.placement.num_processes),
            wall=duration(record.seconds) + (f" in {record.attempts} attempts" if record.attempts > 1 else ""),
            hours=f"{record.device_hours:.2f}",
            cost=_amounts(candidate_total([record]).cost),
        )
        for record in records
    ]
    return [*rows, *_total_rows("total", candidate_total(records)), *_total_rows("this project so far", project)]


def candidate_total(records: Sequence[JobRecord]) -> ComputeTotal:
    """Add up the jobs that led to a candidate."""
    total = ComputeTotal()
    for record in records:
        total = total.plus(record)
    return total


def _total_rows(title: str, total: ComputeTotal) -> list[_CostRow]:
    """Return a row for each kind of device that was used, the cost of both in the last."""
    hours = [("GPU-hours", total.gpu_hours), ("CPU process-hours", total.cpu_hours)]
    used = [(unit, value) for unit, value in hours if value]
    last = used[-1][0] if used else ""
    return [
        _CostRow(f"{title}, {unit}", "", "", "", f"{value:.2f}", _amounts(total.cost) if unit == last else "")
        for unit, value in used
    ]


def _amounts(cost: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:,.2f} {currency}" for currency, amount in sorted(cost.items()))


def _job_title(kind: JobKind) -> str:
    return _JOB_TITLES.get(kind, kind.replace("_", " "))
