"""A person is asked through a real api-server, and who they are is checked: rejected, too late, one's own, agreed.

The promote DAG is ours; its evaluation is found by digest, so nothing is trained or drawn. One candidate, three runs,
told as one story since every run costs minutes. Ada trains and triggers, Bob may approve, Eve is neither.
"""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from alignment.contracts import DatasetSnapshot, EvalReport, EvalSpec, TrainResult
from alignment.evaluation.calibration import calibrate
from alignment.evaluation.comparison import SCORE_COLUMNS, ScoreTable, compare_all
from pipelines import champion_stages, registry, release_stages, stages
from pipelines.embedded import services
from pipelines.embedded.preparation import prepare_airflow
from pipelines.embedded.rest import AirflowApi
from pipelines.folders import hash_folder, sha256_file
from pipelines.settings import Settings, load_settings
from pipelines.storage import open_store

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.loop,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    # MLflow's own database layer, which is used here without its server.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
    # A service outlives the object that started it, on purpose.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

USERS = {"admin": "admin", "ada": "op", "bob": "user", "eve": "op"}
APPROVAL_TIMEOUT_SECONDS = 90
STEP_TIMEOUT_SECONDS = 420
POLL_SECONDS = 1.0
SETTLE_SECONDS = 5.0
"""An answer in the very second in which the task parks was once lost: Airflow retried the task, which asked anew."""
DAG_ID = "shapes.promote"
NUM_PROMPTS = 200


@dataclass
class World:
    """A platform on which version 1 waits for its promotion."""

    path: str
    settings: Settings
    connections: ExitStack

    def login(self, user: str) -> AirflowApi:
        """Airflow as that user, until the world ends."""
        platform = services.read_platform(self.settings)
        assert platform is not None
        passwords = json.loads((self.settings.state_dir / "airflow" / "passwords.json").read_text())
        api = AirflowApi(platform.airflow.url, user=user, password=passwords[user])
        self.connections.callback(api.close)
        return api


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("approval")
    path = folder / "projects" / "shapes.toml"
    path.parent.mkdir()
    path.write_text(project_text())
    users = ",".join(f"{name}:{role}" for name, role in USERS.items())
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PLUMBLINE_STORE_URI", "MLFLOW_TRACKING_URI", "AIRFLOW_HOME"):
            patch.delenv(name, raising=False)
        patch.setenv("PLUMBLINE_STATE_DIR", str(folder / "state"))
        patch.setenv("PLUMBLINE_PROJECTS_DIR", str(path.parent))
        patch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS", users)
        patch.setenv("OMP_NUM_THREADS", "1")
        settings = load_settings()
        leave_an_evaluated_candidate(str(path), settings, folder)
        platform = services.start(settings)
        try:
            with ExitStack() as connections:
                admin = prepare_airflow(settings, platform)
                connections.callback(admin.close)
                admin.unpause(DAG_ID)
                patch.setenv("MLFLOW_TRACKING_URI", platform.mlflow.url)
                yield World(str(path), settings, connections)
        finally:
            services.stop(settings)


def project_text() -> str:
    """The shapes project with approval, without the curve that would have to be drawn."""
    text = (ROOT / "projects" / "shapes.toml").read_text().replace('"../examples', f'"{ROOT}/examples')
    start, end = text.index("[coverage]"), text.index("[gate]")
    hours = APPROVAL_TIMEOUT_SECONDS / 3600
    approval = f'[approval]\nmode = "required"\napprovers = ["ada", "bob"]\ntimeout_hours = {hours}\n'
    return text[:start] + text[end:] + approval


def leave_an_evaluated_candidate(path: str, settings: Settings, folder: Path) -> None:
    """Register weights that Ada trained, and publish an evaluation of them under the digest it would have."""
    store = open_store(settings.store_uri, settings)
    weights = folder / "job" / "weights"
    weights.mkdir(parents=True)
    save_file({"lora": np.zeros(4, np.float32)}, weights / "pytorch_lora_weights.safetensors")
    snapshot = publish_snapshot(folder, settings)
    trained = TrainResult(
        uri=store.uri("models", "of_ada"),
        spec_digest="5" * 64,
        kind="lora",
        weights_digest=hash_folder(weights)[0],
        base_digest=hash_folder(ROOT / "examples/shapes/base")[0],
        steps=1,
        num_pairs=8,
        final_metrics={},
    )
    store.publish_folder(weights.parent, trained.uri, trained.model_dump(mode="json"))
    candidate = release_stages.register(
        path, snapshot.model_dump(mode="json"), trained.model_dump(mode="json"), run_key="by hand", trained_by="ada"
    )
    request = stages.job_request(path, "evaluate", {"candidate": candidate})
    report = publish_evaluation(EvalSpec.model_validate(request.spec), request.output_uri, folder, settings)
    assert report.problems == ()


def publish_snapshot(folder: Path, settings: Settings) -> DatasetSnapshot:
    """A snapshot by name: nothing reads its pairs here."""
    content = folder / "snapshot"
    content.mkdir()
    (content / "train.parquet").write_bytes(b"not read")
    store = open_store(settings.store_uri, settings)
    snapshot = DatasetSnapshot(
        uri=store.uri("snapshots", "of_ada"),
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


def publish_evaluation(spec: EvalSpec, uri: str, folder: Path, settings: Settings) -> EvalReport:
    """Scores by which both judges clearly prefer the candidate and the guard does not move."""
    gains = {**{judge.name: 0.6 for judge in spec.judges}, **{guard.name: 0.0 for guard in spec.guards}}
    columns = score_columns(gains, spec.seeds)
    content = folder / "evaluation"
    content.mkdir()
    pq.write_table(pa.table(columns), content / "scores.parquet")
    (content / "contact_sheet.png").write_bytes((ROOT / "examples/shapes/contact_sheet.png").read_bytes())
    comparisons, problems = compare_all(
        ScoreTable.from_columns(columns),
        list(gains),
        tie_thresholds=spec.tie_thresholds,
        confidence=spec.confidence,
    )
    right = [1.0] * 160 + [-1.0] * 40
    calibrations = [
        calibrate(j.name, score_chosen=right, score_rejected=[0.0] * 200, is_human_tie=[False] * 200, confidence=0.95)
        for j in spec.judges
    ]
    report = EvalReport(
        uri=uri,
        spec=spec,
        scores_digest=sha256_file(content / "scores.parquet"),
        num_prompts=NUM_PROMPTS,
        comparisons=tuple(comparisons),
        calibrations=tuple(calibrations),
        problems=tuple(problems),
    )
    open_store(settings.store_uri, settings).publish_folder(content, uri, report.model_dump(mode="json"))
    return report


def score_columns(gains: dict[str, float], seeds: tuple[int, ...]) -> dict[str, list[Any]]:
    """The candidate gains that much per prompt, with a standard deviation of 1; champion and base are alike."""
    rng = np.random.default_rng(0)
    rows: list[tuple[Any, ...]] = []
    for scorer, gain in gains.items():
        level, change = rng.normal(20, 3, NUM_PROMPTS), rng.normal(gain, 1, NUM_PROMPTS)
        for role in ("candidate", "champion", "base"):
            lift = change if role == "candidate" else np.zeros(NUM_PROMPTS)
            rows += [(role, scorer, p, s, level[p] + lift[p] + 0.01 * s) for p in range(NUM_PROMPTS) for s in seeds]
    return {name: [row[i] for row in rows] for i, name in enumerate(SCORE_COLUMNS)}


# --- what the story is told with ------------------------------------------------------------------------------------


def state_of(api: AirflowApi, run_id: str, task_id: str) -> str:
    return next((str(t["state"]) for t in api.tasks(DAG_ID, run_id) if t["task_id"] == task_id), "none")


def wait_until_asked(api: AirflowApi, run_id: str) -> dict[str, Any]:
    """The question, once it is put."""
    deadline = time.monotonic() + STEP_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        if state_of(api, run_id, "approve") == "awaiting_input":
            time.sleep(SETTLE_SECONDS)
            return api.question(DAG_ID, run_id, "approve")
        assert api.run(DAG_ID, run_id)["state"] in ("queued", "running"), failures(api, run_id)
        time.sleep(POLL_SECONDS)
    pytest.fail(f"nobody was asked within {STEP_TIMEOUT_SECONDS} s: {api.tasks(DAG_ID, run_id)}")


def promotion_of(api: AirflowApi, run_id: str) -> dict[str, Any]:
    """What the promote task said, once the run is over."""
    deadline = time.monotonic() + STEP_TIMEOUT_SECONDS
    while (state := api.run(DAG_ID, run_id)["state"]) in ("queued", "running"):
        assert time.monotonic() < deadline, api.tasks(DAG_ID, run_id)
        time.sleep(POLL_SECONDS)
    assert state == "success", failures(api, run_id)
    promotion: dict[str, Any] = api.xcom(DAG_ID, run_id, "promote")
    return promotion


def failures(api: AirflowApi, run_id: str) -> str:
    failed = [task for task in api.tasks(DAG_ID, run_id) if task["state"] in ("failed", "up_for_retry")]
    return "\n".join(api.log_tail(DAG_ID, run_id, task) for task in failed)


def test_nobody_approves_their_own_and_a_rejection_or_silence_moves_nothing(world: World) -> None:
    ada, bob, eve = (world.login(user) for user in ("ada", "bob", "eve"))

    run_id = ada.trigger(DAG_ID)
    question = wait_until_asked(ada, run_id)
    assert question["subject"] == "Make version 1 of shapes the champion?"
    assert "**promote**" in question["body"]
    assert "May not approve: ada" in question["body"]
    assert [user["id"] for user in question["assigned_users"]] == ["bob"]
    for other in (ada, eve):
        with pytest.raises(RuntimeError, match=r"403.*is not a respondent"):
            other.respond(DAG_ID, run_id, "approve", "Approve")
    bob.respond(DAG_ID, run_id, "approve", "Reject")
    with pytest.raises(RuntimeError, match="409"):
        bob.respond(DAG_ID, run_id, "approve", "Approve")
    rejected = promotion_of(ada, run_id)
    assert (rejected["moved"], rejected["outcome"]) == (False, "rejected")
    assert rejected["message"] == "version 1 was not promoted: bob rejected it; nothing was moved"

    late_id = eve.trigger(DAG_ID)
    wait_until_asked(eve, late_id)
    late = promotion_of(eve, late_id)
    assert (late["moved"], late["outcome"]) == (False, "rejected")
    assert "nobody answered within" in late["message"]
    assert champion_stages.history(world.path) == []
    assert registry.aliases(load_settings(), "shapes") == {"candidate": 1}
    tags = registry.version_tags(load_settings(), "shapes", 1)
    assert tags is not None
    assert (tags["trained.by"], tags["approval.answer"]) == ("ada", "timeout")


def test_who_agreed_and_when_is_on_record(world: World) -> None:
    bob = world.login("bob")
    run_id = world.login("ada").trigger(DAG_ID)
    wait_until_asked(bob, run_id)
    bob.respond(DAG_ID, run_id, "approve", "Approve")
    promotion = promotion_of(bob, run_id)
    assert (promotion["moved"], promotion["outcome"], promotion["to_version"]) == (True, "promoted", 1)
    [entry] = champion_stages.history(world.path)
    assert (entry["actor"], entry["approver"], entry["to_version"]) == ("ada", "bob", 1)
    assert entry["approved_at"] < entry["at"]
    tags = registry.version_tags(load_settings(), "shapes", 1)
    assert tags is not None
    assert (tags["approval.answer"], tags["approval.by"]) == ("approve", "bob")
    assert champion_stages.reconcile(world.path, actor="tester")["state"] == "agrees"
