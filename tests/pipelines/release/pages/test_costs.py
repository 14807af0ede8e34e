"""Compute time by job and device, with its cost where the project had a price, and the totals of the project."""

from made_requests import made_request

from alignment.contracts.jobs import DevicePrices, Placement
from pipelines.contracts.jobs import ComputeTotal, JobRecord
from pipelines.release.pages.costs import cost_rows

NOTHING = ComputeTotal()


def record(
    kind: str,
    *,
    device: str,
    seconds: float,
    processes: int,
    attempts: int = 1,
    prices: DevicePrices | None = None,
) -> JobRecord:
    request = made_request(project="p", kind=kind, placement=Placement(num_processes=processes), prices=prices)
    return JobRecord(request=request, device=device, attempts=attempts, seconds=seconds)  # type: ignore[arg-type]


def test_hours_are_wall_time_times_processes_and_a_cpu_is_no_gpu() -> None:
    rows = cost_rows(
        [
            record("encode", device="cpu", seconds=1800, processes=2),
            record("train", device="gpu", seconds=7200, processes=8, attempts=3),
        ],
        NOTHING,
    )
    assert [(row.job, row.device, row.hours, row.cost) for row in rows] == [
        ("features", "CPU", "1.00", ""),
        ("training", "GPU", "16.00", ""),
        ("total, GPU-hours", "", "16.00", ""),
        ("total, CPU process-hours", "", "1.00", ""),
    ]
    assert rows[1].wall == "2 h 00 min in 3 attempts"
    assert cost_rows([], NOTHING) == []


def test_the_cost_of_each_job_is_at_its_price_and_a_total_names_every_currency() -> None:
    euros = DevicePrices(currency="EUR", gpu_hour=2.5)
    dollars = DevicePrices(currency="USD", gpu_hour=100.0)
    jobs = [
        record("train", device="gpu", seconds=7200, processes=8, prices=euros),
        record("evaluate", device="gpu", seconds=36000, processes=1, prices=dollars),
        record("evaluate", device="cpu", seconds=3600, processes=1, prices=dollars),
    ]
    rows = cost_rows(jobs, ComputeTotal(gpu_hours=100.0, cost={"EUR": 250.0}))
    assert [(row.job, row.cost) for row in rows] == [
        ("training", "40.00 EUR"),
        ("evaluation", "1,000.00 USD"),
        ("evaluation", ""),
        ("total, GPU-hours", ""),
        ("total, CPU process-hours", "40.00 EUR, 1,000.00 USD"),
        ("this project so far, GPU-hours", "250.00 EUR"),
    ]


def test_a_job_without_a_title_appears_under_the_name_of_its_kind() -> None:
    [row, _total] = cost_rows([record("turn_upside_down", device="cpu", seconds=60, processes=1)], NOTHING)
    assert row.job == "turn upside down"
