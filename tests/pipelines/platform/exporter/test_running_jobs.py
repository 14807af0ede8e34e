"""Running jobs: start and speed, by unit, from their MLflow runs."""

from typing import Any

import pytest

from pipelines.platform.exporter import running_jobs
from pipelines.platform.exporter.metrics import Reading
from pipelines.tracking import run_stream, runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def test_speed_and_start_of_an_open_run_are_given_until_it_ends(world: Any) -> None:
    name = world.project.name
    target = runs.job_run(
        world.settings, project=name, request_job_id="shapes-train-1", kind="train", parent_key="1", config={}
    )
    stream = run_stream.RunStream(world.settings.tracking_uri, target.run_id)
    stream.log_metrics(1, 1.8e9, {"pairs_per_second": 12.5, "loss": 0.7})
    stream.flush()
    reading = Reading(world.settings, world.project)
    found = {(s.metric.name, *s.labels): s.value for s in running_jobs.read(reading)}
    labels = (name, "train", "shapes-train-1")
    assert found["plumbline_job_items_per_second", *labels, "pairs"] == 12.5
    assert found["plumbline_job_started_timestamp_seconds", *labels] > 1.7e9
    assert len(found) == 2
    runs.finish_run(world.settings, target.run_id, "FINISHED")
    assert running_jobs.read(reading) == []
