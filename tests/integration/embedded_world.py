"""The embedded platform for a module of tests, and candidates with a ready-made evaluation.

The DAGs, the scheduler, the api-server and the tracking server are real. An evaluation is found by digest, so nothing
is trained or drawn for a candidate.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from alignment.contracts.data import DatasetSnapshot
from alignment.contracts.evaluation import EvalReport, EvalSpec
from alignment.contracts.training import TrainResult
from alignment.statistics.comparison import SCORE_COLUMNS, ScoreTable, compare_all
from alignment.statistics.human_pairs import JudgedPair, PairFacts, ScoredPair, agreements, scores_table
from pipelines.platform import services, supervision
from pipelines.platform.preparation import prepare_airflow
from pipelines.platform.rest import AirflowApi
from pipelines.settings import Settings, load_settings
from pipelines.stages import candidates, jobs, values
from pipelines.store.folders import hash_folder, sha256_file
from pipelines.store.storage import open_store

Json = dict[str, Any]

ROOT = Path(__file__).parents[2]
MARKS = [
    pytest.mark.loop,
    pytest.mark.slow,
    # A service outlives the object that started it, by design.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
STEP_TIMEOUT_SECONDS = 420
POLL_SECONDS = 1.0
NUM_PROMPTS = 200
UNFINISHED = ("queued", "running")


class Airflow(AirflowApi):
    """The demo's client, with requests that only tests need."""

    def pause(self, dag_id: str) -> None:
        """Pause a DAG, so that none of its tasks start."""
        self._call("PATCH", f"/api/v2/dags/{dag_id}", json={"is_paused": True})

    def announce(self, asset: str, extra: Json) -> None:
        """Create an event of an asset, as a person or another program does."""
        [found] = self._call("GET", "/api/v2/assets", params={"name_pattern": asset})["assets"]
        self._call("POST", "/api/v2/assets/events", json={"asset_id": found["id"], "extra": extra})

    def mark_failed(self, dag_id: str, run_id: str) -> None:
        """Mark a run as failed, as a user who stops it does."""
        self._call("PATCH", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}", json={"state": "failed"})

    def patch_task(self, dag_id: str, run_id: str, task: str, state: str) -> None:
        """Mark a task, `TASK_ID` or `TASK_ID/MAP_INDEX`, as failed or as success."""
        self._call("PATCH", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task}", json={"new_state": state})

    def clear(self, dag_id: str, run_id: str, task_id: str) -> None:
        """Clear a task and those after it."""
        body = {"dry_run": False, "only_failed": False, "task_ids": [task_id], "dag_run_id": run_id}
        self._call("POST", f"/api/v2/dags/{dag_id}/clearTaskInstances", json={**body, "include_downstream": True})

    def delete_task(self, dag_id: str, run_id: str, task: str) -> None:
        """Delete the row of a task, `TASK_ID?map_index=N`."""
        self._call("DELETE", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task}")

    def delete_run(self, dag_id: str, run_id: str) -> None:
        """Delete a run with its tasks; the server answers with an empty page."""
        self._http.delete(f"/api/v2/dags/{dag_id}/dagRuns/{run_id}").raise_for_status()

    def causes(self, dag_id: str, run_id: str) -> list[Json]:
        """Asset events that triggered a run."""
        return list(self._call("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/upstreamAssetEvents")["asset_events"])

    def state_of(self, dag_id: str, run_id: str, task_id: str) -> str:
        """State of a task; `none` when it has none yet."""
        return next((str(t["state"]) for t in self.tasks(dag_id, run_id) if t["task_id"] == task_id), "none")

    def end_of(self, dag_id: str, run_id: str) -> str:
        """Wait for a run and return its end state: success or failed."""
        state = wait_for(f"end of {dag_id}", lambda: self._ended(dag_id, run_id))
        return str(state)

    def succeed(self, dag_id: str, run_id: str) -> str:
        """Wait for a run that must succeed; return its id."""
        assert self.end_of(dag_id, run_id) == "success", self.failures(dag_id, run_id)
        return run_id

    def failures(self, dag_id: str, run_id: str) -> str:
        """The last lines of the logs of failed tasks."""
        failed = [task for task in self.tasks(dag_id, run_id) if task["state"] in ("failed", "up_for_retry")]
        return "\n".join(self.log_tail(dag_id, run_id, task) for task in failed)

    def _ended(self, dag_id: str, run_id: str) -> str | None:
        state = str(self.run(dag_id, run_id)["state"])
        return None if state in UNFINISHED else state


def wait_for(
    what: str, condition: Callable[[], Any], seconds: float = STEP_TIMEOUT_SECONDS, *, pause: float = POLL_SECONDS
) -> Any:
    """Poll until the condition returns a truthy value; return it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(pause)
    pytest.fail(f"no {what} within {seconds} s")


@dataclass
class World:
    """A running platform, with the process that supervises it."""

    path: str
    settings: Settings
    patch: pytest.MonkeyPatch
    connections: ExitStack = field(default_factory=ExitStack)
    reports: list[str] = field(default_factory=list)
    """Restarts of parts of the platform."""

    def up(self) -> None:
        """Start the platform, as `plumbline up` does."""
        platform = services.start(self.settings)
        self.connections.enter_context(supervision.running(self.settings, self.reports.append))
        self.connections.callback(prepare_airflow(self.settings, platform).close)
        self.patch.setenv("MLFLOW_TRACKING_URI", platform.mlflow.url)

    def restart_host(self) -> None:
        """Kill every process of platform and jobs at once, and start the platform again."""
        self.connections.close()
        while left := processes_of(self.settings.state_dir):
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        # A killed process that frees its memory has no environment any more, by which it was found, but is not gone.
        platform = services.read_platform(self.settings)
        wait_for("end of all processes", lambda: platform is None or len(platform.dead()) == len(platform.services))
        self.up()

    def login(self, user: str) -> Airflow:
        """A client of Airflow as that user, until the world ends."""
        platform = services.read_platform(self.settings)
        assert platform is not None
        passwords = json.loads((self.settings.state_dir / "airflow" / "passwords.json").read_text())
        api = Airflow(platform.airflow.url, user=user, password=passwords[user])
        self.connections.callback(api.close)
        return api


@contextmanager
def running_world(
    folder: Path,
    project: str,
    *,
    users: Mapping[str, str],
    env: Mapping[str, str],
    before: Callable[[str, Settings], None] | None = None,
) -> Iterator[World]:
    """Start the platform with this text as project `shapes`, all state under `folder`; stop it with all its jobs.

    `before` prepares files that must exist when the servers start.
    """
    path = folder / "projects" / "shapes.toml"
    path.parent.mkdir()
    path.write_text(project)
    with pytest.MonkeyPatch.context() as patch:
        # Set first, so that the end of the test removes even what MLflow writes itself: the address of its registry.
        for name in ("PLUMBLINE_STORE_URI", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "AIRFLOW_HOME"):
            patch.setenv(name, "")
            patch.delenv(name)
        own = {
            "PLUMBLINE_STATE_DIR": str(folder / "state"),
            "PLUMBLINE_PROJECTS_DIR": str(path.parent),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{name}:{role}" for name, role in users.items()),
            "OMP_NUM_THREADS": "1",
        }
        for name, value in {**own, **env}.items():
            patch.setenv(name, value)
        settings = load_settings()
        if before is not None:
            before(str(path), settings)
        world = World(str(path), settings, patch)
        try:
            with world.connections:
                world.up()
                yield world
        finally:
            services.stop(settings)
    assert processes_of(settings.state_dir) == {}


def shapes_project() -> str:
    """The text of the shapes project, readable from another folder; without the coverage curve, which must be drawn."""
    text = (ROOT / "projects" / "shapes.toml").read_text().replace('"../examples', f'"{ROOT}/examples')
    start, end = text.index("[coverage]"), text.index("[gate]")
    return text[:start] + text[end:]


def processes_of(state_dir: Path) -> dict[int, str]:
    """Command lines of the live processes whose environment names this state folder, including a job's ranks."""
    mark = str(state_dir).encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if mark in (entry / "environ").read_bytes():
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
    return found


# --- candidates -----------------------------------------------------------------------------------------------------


def publish_evaluated_candidate(
    path: str, settings: Settings, folder: Path, *, snapshot: Json, trained_by: str, number: int = 1
) -> Json:
    """Register weights and publish an evaluation of them under its expected digest; return the CandidateVersion.

    Both judges clearly prefer it to the current champion. `number` makes the weights unique.
    """
    store = open_store(settings.store_uri, settings)
    weights = folder / f"job_{number}" / "weights"
    weights.mkdir(parents=True)
    save_file({"lora": np.full(4, number, np.float32)}, weights / "pytorch_lora_weights.safetensors")
    trained = TrainResult(
        uri=store.uri("models", f"candidate_{number}"),
        spec_digest="5" * 64,
        kind="lora",
        weights_digest=hash_folder(weights)[0],
        base_digest=hash_folder(ROOT / "examples/shapes/base")[0],
        steps=1,
        num_pairs=8,
        final_metrics={},
    )
    store.publish_folder(weights.parent, trained.uri, trained.model_dump(mode="json"))
    result = trained.model_dump(mode="json")
    candidate = candidates.register(path, snapshot, result, run_key="by hand", trained_by=trained_by)
    publish_evaluation(path, settings, folder, candidate)
    return candidate


def publish_snapshot(folder: Path, settings: Settings) -> DatasetSnapshot:
    """A snapshot that exists only by name, for tests that do not read its pairs."""
    content = folder / "snapshot"
    content.mkdir()
    (content / "train.parquet").write_bytes(b"not read")
    store = open_store(settings.store_uri, settings)
    snapshot = DatasetSnapshot(
        uri=store.uri("snapshots", "by_name"),
        content_digest=hash_folder(content)[0],
        num_pairs={"train": 8, "calibration": 2, "test": 1},
        num_ties=0,
        num_prompts=8,
        sources=("shapes_pairs",),
        licences=("CC0-1.0",),
        batch_digests=(),
        heldout_prompts_digest="7" * 64,
    )
    store.publish_folder(content, snapshot.uri, snapshot.model_dump(mode="json"))
    return snapshot


def publish_evaluation(path: str, settings: Settings, folder: Path, candidate: Json) -> Json:
    """Write scores by which both judges prefer the candidate and the guards do not move; return the EvalReport."""
    request = jobs.job_request(path, "evaluate", {"candidate": candidate})
    spec, uri = EvalSpec.model_validate(request.spec), request.output_uri
    gains = {**{judge.name: 0.6 for judge in spec.judges}, **{guard.name: 0.0 for guard in spec.guards}}
    columns = score_columns(gains, spec.seeds)
    content = folder / f"evaluation_{candidate['version']}"
    content.mkdir()
    pq.write_table(pa.table(columns), content / "scores.parquet")
    (content / "contact_sheet.png").write_bytes((ROOT / "examples/shapes/contact_sheet.png").read_bytes())
    comparisons, problems = compare_all(
        ScoreTable.from_columns(columns),
        list(gains),
        tie_thresholds=spec.tie_thresholds,
        confidence=spec.confidence,
    )
    pairs = [ScoredPair(str(i), 1.0 if i < 160 else -1.0, 0.0, False) for i in range(200)]
    rows = [JudgedPair(judge.name, pair) for judge in spec.judges for pair in pairs]
    facts = {pair.pair_id: PairFacts("panel") for pair in pairs}
    pq.write_table(scores_table(rows, facts), content / "calibration_scores.parquet")
    calibrations, _ = agreements(spec.judges, rows, facts, confidence=0.95)
    report = EvalReport(
        uri=uri,
        spec=spec,
        scores_digest=sha256_file(content / "scores.parquet"),
        calibration_scores_digest=sha256_file(content / "calibration_scores.parquet"),
        num_prompts=NUM_PROMPTS,
        comparisons=tuple(comparisons),
        calibrations=tuple(calibrations),
        problems=tuple(problems),
    )
    open_store(settings.store_uri, settings).publish_folder(content, uri, report.model_dump(mode="json"))
    assert report.problems == ()
    return values.to_json(report)


def score_columns(gains: dict[str, float], seeds: tuple[int, ...]) -> dict[str, list[Any]]:
    """Scores: the candidate gains that much per prompt, with a standard deviation of 1; champion and base are equal."""
    rng = np.random.default_rng(0)
    rows: list[tuple[Any, ...]] = []
    for scorer, gain in gains.items():
        level, change = rng.normal(20, 3, NUM_PROMPTS), rng.normal(gain, 1, NUM_PROMPTS)
        for role in ("candidate", "champion", "base"):
            lift = change if role == "candidate" else np.zeros(NUM_PROMPTS)
            rows += [(role, scorer, p, s, level[p] + lift[p] + 0.01 * s) for p in range(NUM_PROMPTS) for s in seeds]
    return {name: [row[i] for row in rows] for i, name in enumerate(SCORE_COLUMNS)}
