"""The account of a project: GPUs, CPUs and currencies are added up separately, from the last entry alone."""

from pathlib import Path

import pytest
from made_requests import made_request

from alignment.contracts.jobs import Device, DevicePrices, Placement
from pipelines.contracts.jobs import ComputeEntry, ComputeTotal, JobRecord
from pipelines.records.compute import account, total_compute
from pipelines.store.storage import open_store


def record(device: Device, seconds: float, prices: DevicePrices | None) -> JobRecord:
    request = made_request(project="tiny", placement=Placement(num_processes=2), prices=prices)
    return JobRecord(request=request, device=device, attempts=1, seconds=seconds)


def test_hours_and_currencies_are_added_up_separately() -> None:
    euros = DevicePrices(currency="EUR", gpu_hour=2.0, cpu_hour=0.1)
    dollars = DevicePrices(currency="USD", gpu_hour=3.0)
    total = ComputeTotal()
    for job in (
        record("gpu", 1800, euros),
        record("cpu", 3600, euros),
        record("gpu", 3600, dollars),
        record("cpu", 1800, dollars),
        record("gpu", 1800, None),
    ):
        total = total.plus(job)
    assert (total.gpu_hours, total.cpu_hours) == (4.0, 3.0)
    assert total.cost == pytest.approx({"EUR": 2.2, "USD": 6.0})


def test_a_job_without_a_price_has_no_cost_and_its_record_no_field_for_one() -> None:
    assert record("gpu", 3600, None).cost is None
    assert record("gpu", 3600, DevicePrices(currency="EUR", cpu_hour=1.0)).cost is None
    assert record("gpu", 3600, DevicePrices(currency="EUR", gpu_hour=0.0)).cost == 0.0
    assert "prices" not in record("gpu", 3600, None).model_dump(mode="json")["request"]


def test_the_total_is_read_from_the_last_entry(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    assert total_compute(store, "tiny") == ComputeTotal()
    for hours in (1.0, 3.0):
        account(store, "tiny").append(
            lambda _number, _last, hours=hours: ComputeEntry(
                job_id="j", attempt=1, job_seconds=1, total=ComputeTotal(gpu_hours=hours)
            )
        )
    assert total_compute(store, "tiny").gpu_hours == 3.0
    assert total_compute(store, "other") == ComputeTotal()
