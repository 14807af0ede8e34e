"""Metrics served to a real HTTP client: what each source found, and nothing of a source that fails."""

import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipelines.platform.exporter.catalogue import SOURCES, Source
from pipelines.platform.exporter.metrics import Metric, Reading, Sample
from pipelines.platform.exporter.server import METRICS, Exporter, listen
from pipelines.release.promotion.promote import promote
from pipelines.settings import Settings
from pipelines.tracking import registry
from pipelines.workspace import Workspace

ROOT = Path(__file__).parents[4]
HEIGHT = Metric("test_height", "Height.", ("project",))
TICKS = Metric("test_ticks_total", "Ticks.")

Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@contextmanager
def listening(exporter: Exporter) -> Iterator[str]:
    """Serve an exporter on a free port; give its address."""
    server, thread = listen(exporter, host="127.0.0.1", port=0)
    try:
        yield f"http://127.0.0.1:{server.server_port}/metrics"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def scrape(url: str) -> Values:
    """Read the metrics as Prometheus does: name and labels to value."""
    with urllib.request.urlopen(url, timeout=10) as response:
        text = response.read().decode()
    families = text_string_to_metric_families(text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def labelled(values: Values, name: str, **labels: str) -> float | None:
    """Return the value of one sample; None if there is none."""
    return values.get((name, tuple(sorted(labels.items()))))


def source(name: str, read: Callable[[Reading], Sequence[Sample]], *, per_project: bool = False) -> Source:
    return Source(name, read, (HEIGHT, TICKS), every_seconds=0.05, per_project=per_project)


def fails(_: Reading) -> list[Sample]:
    raise RuntimeError("the store is away")


def test_a_source_that_fails_hides_no_other_and_its_last_samples_go(settings: Settings) -> None:
    answers: list[Callable[[], list[Sample]]] = [lambda: [HEIGHT.of(3, "a")], lambda: fails(Reading(settings))]
    tall = source("tall", lambda _: answers.pop(0)())
    steady = source("steady", lambda _: [TICKS.of(7)])
    exporter = Exporter(settings, (tall, steady))
    with listening(exporter) as url:
        exporter.read(tall)
        exporter.read(steady)
        first = scrape(url)
        exporter.read(tall)
        second = scrape(url)
    assert labelled(first, "test_height", project="a") == 3
    assert labelled(second, "test_height", project="a") is None
    assert labelled(first, "test_ticks_total") == labelled(second, "test_ticks_total") == 7
    up = "plumbline_exporter_source_up"
    assert labelled(first, up, source="tall", project="") == 1
    assert labelled(second, up, source="tall", project="") == 0
    assert labelled(second, up, source="steady", project="") == 1


def test_a_fault_is_logged_when_it_begins_or_changes(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    faults = iter(["away", "away", "away", "refused", "", "refused"])

    def read(_: Reading) -> list[Sample]:
        fault = next(faults)
        if fault:
            raise ValueError(fault)
        return []

    found = source("store", read)
    exporter = Exporter(settings, (found,))
    for _ in range(6):
        exporter.read(found)
    assert [record.args[-1] for record in caplog.records if record.args] == ["away", "refused", "refused"]


def test_a_fault_in_one_project_hides_no_other_and_a_removed_project_goes(settings: Settings) -> None:
    for name in ("one", "two"):
        write_project(settings, name)
    (settings.projects_dir / "bad.toml").write_text("name = 3")

    def read(reading: Reading) -> list[Sample]:
        name = reading.workspace.project.name
        return fails(reading) if name == "one" else [HEIGHT.of(1, name)]

    found = source("heights", read, per_project=True)
    exporter = Exporter(settings, (found,))
    with listening(exporter) as url:
        exporter.read(found)
        first = scrape(url)
        (settings.projects_dir / "two.toml").unlink()
        exporter.read(found)
        second = scrape(url)
    assert labelled(first, "test_height", project="two") == 1
    assert labelled(first, "plumbline_exporter_source_up", source="heights", project="one") == 0
    assert labelled(first, "plumbline_exporter_source_up", source="heights", project="two") == 1
    assert labelled(first, "plumbline_exporter_unreadable_projects") == 1
    assert labelled(second, "test_height", project="two") is None
    assert labelled(second, "plumbline_exporter_source_up", source="heights", project="two") is None


def test_a_slow_source_delays_no_scrape_and_others_are_renewed(settings: Settings) -> None:
    released, ticks, seen = threading.Event(), iter(range(10_000)), threading.Event()

    def wait(_: Reading) -> list[Sample]:
        released.wait(30)
        return []

    def tick(_: Reading) -> list[Sample]:
        value = next(ticks)
        if value > 3:
            seen.set()
        return [TICKS.of(value)]

    exporter = Exporter(settings, (source("slow", wait), source("ticking", tick)))
    exporter.start()
    try:
        assert seen.wait(20), "the source beside the slow one was not read again"
        with listening(exporter) as url:
            values = scrape(url)
    finally:
        exporter.stop()
        released.set()
    assert (labelled(values, "test_ticks_total") or 0) > 2
    assert labelled(values, "plumbline_exporter_source_up", source="slow", project="") is None


def test_memory_is_kept_between_readings_of_one_project(settings: Settings) -> None:
    for name in ("one", "two"):
        write_project(settings, name)

    def read(reading: Reading) -> list[Sample]:
        reading.memory["count"] = reading.memory.get("count", 0) + 1
        return [HEIGHT.of(reading.memory["count"], reading.workspace.project.name)]

    found = source("heights", read, per_project=True)
    exporter = Exporter(settings, (found,))
    exporter.read(found)
    exporter.read(found)
    assert [sample.value for sample in exporter.samples() if sample.metric == HEIGHT] == [2, 2]


def test_a_port_in_use_is_named(settings: Settings) -> None:
    exporter = Exporter(settings, ())
    with listening(exporter) as url, pytest.raises(ValueError, match=r"127\.0\.0\.1:\d+ cannot be used .* --port"):
        listen(exporter, host="127.0.0.1", port=int(url.rpartition(":")[2].partition("/")[0]))


def test_every_metric_has_one_name_and_one_source() -> None:
    names = [metric.name for source in SOURCES for metric in source.metrics] + [metric.name for metric in METRICS]
    assert len(names) == len(set(names))
    assert all(name.startswith("plumbline_") for name in names)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_real_release_is_served(world: Any) -> None:
    write_project(world.settings, world.project.name)
    workspace = Workspace(world.project, world.settings)
    first = world.register("a")
    decision = world.decide(first, None)
    promote(decision, workspace, "tester")
    exporter = Exporter(world.settings)
    with listening(exporter) as url:
        read_all(exporter)
        values = scrape(url)
        name = world.project.name
        assert labelled(values, "plumbline_ledger_agrees", project=name) == 1
        assert labelled(values, "plumbline_ledger_entries", project=name) == 1
        assert labelled(values, "plumbline_champion_version", project=name) == 1
        assert labelled(values, "plumbline_gate_decisions_total", project=name, verdict="promote") == 1
        assert labelled(values, "plumbline_gate_last_verdict", project=name, verdict="promote") == 1
        assert labelled(values, "plumbline_gate_last_verdict", project=name, verdict="hold") == 0
        states = {
            s.name: labelled(values, "plumbline_exporter_source_up", source=s.name, project=name) for s in SOURCES
        }
        assert states == {s.name: (1 if s.per_project else None) for s in SOURCES}
        assert labelled(values, "plumbline_exporter_source_up", source="airflow", project="") == 0, "none is known here"
        world.register("b")
        registry.set_alias(world.settings, name, "champion", 2)
        read_all(exporter)
        assert labelled(scrape(url), "plumbline_ledger_agrees", project=name) == 0


IN_A_FRESH_PROCESS = """
import json, sys, time
from pipelines.platform.exporter.catalogue import SOURCES
from pipelines.platform.exporter.server import Exporter
from pipelines.settings import load_settings

sources = [source for source in SOURCES if source.per_project]
exporter = Exporter(load_settings(), sources)
exporter.start()
deadline = time.monotonic() + 100
up = {}
while len(up) < len(sources) and time.monotonic() < deadline:
    time.sleep(0.1)
    up = {s.labels[0]: s.value for s in exporter.samples() if s.metric.name == "plumbline_exporter_source_up"}
exporter.stop()
print(json.dumps(up))
"""


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_sources_that_begin_together_import_mlflow_once(tracked: Settings) -> None:
    """Two threads that import MLflow for the first time end in a deadlock, and MLflow stays unusable."""
    write_project(tracked, "one")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PLUMBLINE_STATE_DIR": str(tracked.state_dir),
        "PLUMBLINE_STORE_URI": tracked.store_uri,
        "PLUMBLINE_PROJECTS_DIR": str(tracked.projects_dir),
        "MLFLOW_TRACKING_URI": tracked.tracking_uri,
    }
    done = subprocess.run(
        [sys.executable, "-c", IN_A_FRESH_PROCESS], env=environment, capture_output=True, text=True, timeout=150
    )
    assert json.loads(done.stdout) == {source.name: 1 for source in SOURCES if source.per_project}, done.stderr


def read_all(exporter: Exporter) -> None:
    """Read every source once."""
    for found in exporter.sources:
        exporter.read(found)


def write_project(settings: Settings, name: str) -> None:
    """Write a project file that is the shapes project under another name."""
    settings.projects_dir.mkdir(exist_ok=True)
    text = f'name = "{name}"\nextends = ["{ROOT / "projects" / "shapes.toml"}"]\n'
    (settings.projects_dir / f"{name}.toml").write_text(text)
