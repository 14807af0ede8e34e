"""Twenty kills with SIGKILL at random moments of the loop, of its jobs, its services and its database.

The loop is turned once undisturbed, then disturbed several times. Each disturbed loop ends with the same digests, one
folder and one MLflow run for each job, one version and one promotion, and leaves no process and no open run.
`PLUMBLINE_FAULT_SEED` repeats a plan of kills.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from embedded_world import MARKS, processes_of
from installation import Installation
from kills import KILLS_PER_LOOP, NUM_KILLS, TARGETS, plan_kills
from small_project import NAME, write_project

from pipelines.records.compute import total_compute
from pipelines.settings import Settings, load_settings
from pipelines.store.storage import open_store
from pipelines.tracking import open_runs, runs

DEFAULT_SEED = 20261128
NUM_LOOPS = NUM_KILLS // KILLS_PER_LOOP
pytestmark = [
    pytest.mark.faults,
    *(mark for mark in MARKS if mark.name != "loop"),
    pytest.mark.timeout(1800),
]


@dataclass(frozen=True)
class Ending:
    """All of a finished loop that has to be equal, whatever happened on the way."""

    digests: dict[str, Any]
    jobs: tuple[str, ...]
    champion: int
    verdict: str
    ledger_entries: int
    versions: int


def seed() -> int:
    return int(os.environ.get("PLUMBLINE_FAULT_SEED", DEFAULT_SEED))


def settings_of(installation: Installation) -> Settings:
    return load_settings({"PLUMBLINE_STATE_DIR": str(installation.state_dir)})


def ending(installation: Installation) -> Ending:
    """Read the end of a loop from the store, the registry and the ledger."""
    settings = settings_of(installation)
    store = open_store(settings.store_uri, settings)
    digests: dict[str, Any] = {}
    wanted = {"snapshots": "content_digest", "features": "content_digest", "models": "weights_digest"}
    wanted |= {"evaluations": "scores_digest"}
    for folder, name in wanted.items():
        for uri in store.list_uris(store.uri(folder)):
            manifest = (
                store.read_manifest(uri.removesuffix("/manifest.json")) if uri.endswith("/manifest.json") else None
            )
            if manifest is not None and name in manifest.value:
                digests[uri.removeprefix(store.uri(folder))] = manifest.value[name]
    status = installation.command("status", str(installation.project), "--json")
    assert status["problems"] == []
    with runs.connect(settings.tracking_uri) as client:
        versions = len(client.search_model_versions(f"name = '{NAME}'"))
    return Ending(
        digests=digests,
        jobs=tuple(installation.job_attempts()),
        champion=status["champion"]["version"],
        verdict=status["last_decision"]["verdict"],
        ledger_entries=status["ledger"]["entries"],
        versions=versions,
    )


@pytest.fixture(scope="module")
def began() -> Iterator[float]:
    start = time.monotonic()
    yield start
    print(f"\n  all loops: {(time.monotonic() - start) / 60:.1f} min")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("faults") / "projects")


@pytest.fixture(scope="module")
def undisturbed(began: float, project: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """An installation whose loop was turned without a kill."""
    installation = Installation(project, tmp_path_factory.mktemp("undisturbed"))
    start = time.monotonic()
    installation.turn([])
    assert installation.starts == 1
    print(f"\n  undisturbed: {time.monotonic() - start:.0f} s, {len(installation.done)} tasks, jobs", end=" ")
    print(", ".join(f"{kind} {seconds:.0f} s" for kind, seconds in installation.seen_seconds.items()), flush=True)
    return installation


@pytest.mark.parametrize("number", range(NUM_LOOPS))
def test_a_loop_with_kills_ends_as_the_undisturbed_one(
    undisturbed: Installation, tmp_path_factory: pytest.TempPathFactory, number: int
) -> None:
    expected = ending(undisturbed)
    assert (expected.verdict, expected.champion, expected.ledger_entries, expected.versions) == ("promote", 1, 1, 1)
    kills = plan_kills(seed(), len(undisturbed.done))[number]
    print(f"\n  loop {number + 1} of {NUM_LOOPS}, PLUMBLINE_FAULT_SEED={seed()}", flush=True)
    installation = Installation(
        undisturbed.project, tmp_path_factory.mktemp(f"loop_{number}"), usual_seconds=undisturbed.seen_seconds
    )
    start = time.monotonic()
    installation.turn(kills)
    print(f"    {time.monotonic() - start:.0f} s, the demo was started {installation.starts} times", flush=True)
    assert processes_of(installation.state_dir) == {}
    assert ending(installation) == expected
    check_runs(installation)


def check_runs(installation: Installation) -> None:
    """Check that each job has one MLflow run with one curve, and that reconcile closes what a crash left open."""
    settings = settings_of(installation)
    installation.command("reconcile", str(installation.project), "--json")
    left = open_runs.list_open_runs(settings, NAME)
    assert [run.name for run in left if not run.dag_run_id] == []
    with runs.connect(settings.tracking_uri) as client:
        experiment = client.get_experiment_by_name(NAME).experiment_id
        for job_id, attempts in installation.job_attempts().items():
            [run] = client.search_runs([experiment], f"tags.`plumbline.job_id` = '{job_id}'")
            assert run.info.status == "FINISHED", job_id
            assert int(run.data.tags["plumbline.attempts"]) <= attempts
            for name in run.data.metrics:
                steps = [point.step for point in client.get_metric_history(run.info.run_id, name)]
                assert name.startswith("cost/") or steps == sorted(set(steps)), (job_id, name, steps)
    total = total_compute(open_store(settings.store_uri, settings), NAME)
    assert total.cpu_hours > 0
    assert total.cost["EUR"] == pytest.approx(total.cpu_hours)


@pytest.mark.parametrize("other_seed", [1, 2, DEFAULT_SEED])
def test_the_plan_has_twenty_kills_of_every_target(other_seed: int) -> None:
    plan = plan_kills(other_seed, 20)
    targets = [kill.target for loop in plan for kill in loop]
    assert len(targets) == NUM_KILLS == KILLS_PER_LOOP * NUM_LOOPS
    assert all(targets.count(target) >= 2 for target in TARGETS)
    assert [[str(kill) for kill in loop] for loop in plan_kills(other_seed, 20)] == [
        list(map(str, loop)) for loop in plan
    ]
