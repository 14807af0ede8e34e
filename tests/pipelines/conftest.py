"""Settings of a store in a folder of the test, a project, and small Pick-a-Pic shards with rows made to order.

Also a real MLflow server that the session shares, and a model under release. S3 servers are in store/s3_servers.py.
"""

import base64
import datetime
import functools
import hashlib
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw
from pydantic import SecretStr
from safetensors.numpy import save_file

from alignment.catalogues.backbones import StableDiffusion
from alignment.catalogues.rewards import ClipPreference, ClipScore, ImageStatistic
from alignment.contracts.data import DatasetSnapshot
from alignment.contracts.evaluation import EvalReport, EvalSpec, ModelRef, Sampler
from alignment.contracts.jobs import SCORES_FILE
from alignment.contracts.judges import Judge
from alignment.contracts.training import TrainResult
from alignment.statistics.comparison import SCORE_COLUMNS, ScoreTable, compare_all
from alignment.statistics.human_pairs import JudgedPair, PairFacts, ScoredPair, agreements, scores_table
from pipelines.contracts.release import CandidateVersion, GateCheck, GateDecision
from pipelines.project.file import Project, load_project
from pipelines.records.heldout_prompts import evaluation_digest
from pipelines.release.gate import decision_log
from pipelines.release.gate.evidence import read_evidence
from pipelines.release.gate.verdict import decide
from pipelines.release.registration.candidates import register
from pipelines.settings import Settings
from pipelines.store.folders import hash_folder
from pipelines.store.storage import Store, open_store, sha256_file
from pipelines.tracking import runs
from pipelines.workspace import Workspace

ROOT = Path(__file__).parents[2]
S3_SERVERS = str(Path(__file__).parent / "store")
if S3_SERVERS not in sys.path:
    sys.path.insert(0, S3_SERVERS)
START_SECONDS = 150
SESSION_SECONDS = 5400
NUM_PROMPTS = 200
JUDGES, GUARDS = ("taste_a", "taste_b"), ("caption_match", "diversity")
STATISTICS: tuple[Any, ...] = ("brightness", "checkerboard", "contrast", "high_frequency", "saturation")

Row = dict[str, Any]

PROJECT = """
name = "tiny"
[base]
uri = "base"
licence = "Apache-2.0"
backbone = { name = "stable_diffusion", resolution = 64 }
[[sources]]
name = "tiny_pairs"
kind = "pick_a_pic"
uri = "pairs"
licence = "CC0-1.0"
[snapshot]
calibration_share = 0.3
test_share = 0.2
[[train]]
recipe = "diffusion_dpo_shapes"
[evaluation]
prompts = "prompts.tsv"
seeds = [0]
sampler = { steps = 2 }
[[evaluation.judges]]
name = "judge"
uri = "judge"
scorer = { kind = "clip_preference" }
[gate]
minimum_prompts = 1
required_judges = 1
"""

PAIRS_TYPES = {
    "are_different": pa.bool_(),
    "best_image_uid": pa.string(),
    "caption": pa.string(),
    "created_at": pa.timestamp("ns"),
    "has_label": pa.bool_(),
    "image_0_url": pa.string(),
    "jpg_0": pa.binary(),
    "jpg_1": pa.binary(),
    "label_0": pa.float64(),
    "label_1": pa.float64(),
    "model_0": pa.string(),
    "model_1": pa.string(),
    "user_id": pa.int64(),
}


@pytest.fixture(scope="session")
def trained_json() -> Callable[[str], dict[str, Any]]:
    """A finished training as JSON; the letter it is given names its weights."""

    def make(weights: str) -> dict[str, Any]:
        return TrainResult(
            uri=f"file:///store/models/{weights}",
            spec_digest="7" * 64,
            kind="full",
            weights_digest=weights * 64,
            base_digest="b" * 64,
            steps=1,
            num_pairs=1,
            final_metrics={},
        ).model_dump(mode="json")

    return make


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        store_uri=(tmp_path / "store").as_uri(),
        tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}",
        state_dir=tmp_path / "state",
        projects_dir=tmp_path / "projects",
        annotator_salt=SecretStr("a salt for tests"),
    )


@pytest.fixture
def tiny_project(tmp_path: Path) -> Project:
    """A project whose source is the folder `projects/pairs`, with one held-out prompt."""
    folder = tmp_path / "projects"
    (folder / "pairs").mkdir(parents=True)
    (folder / "tiny.toml").write_text(PROJECT)
    (folder / "prompts.tsv").write_text("prompt\tcategory\nA held-out prompt, please!\tany\n")
    return load_project(folder / "tiny.toml")


@pytest.fixture(scope="session")
def tiny_image() -> Callable[..., bytes]:
    """Return encoded bytes of a noise image; different seeds give different images."""

    def make(seed: int, size: tuple[int, int] = (40, 32), format: str = "PNG") -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        stream = BytesIO()
        Image.fromarray(pixels).save(stream, format)
        return stream.getvalue()

    return make


@pytest.fixture
def tiny_row(tiny_image: Callable[..., bytes]) -> Callable[..., Row]:
    """Return a clean row in the columns of Pick-a-Pic v2: other numbers give other images, prompts and annotators."""

    def make(number: int = 0, **changes: Any) -> Row:
        chosen = number % 2
        row: Row = {
            "are_different": True,
            "best_image_uid": f"uid-{number}",
            "caption": f"prompt number {number}",
            "created_at": datetime.datetime(2024, 1, 2, 3, 4, 5),
            "has_label": True,
            "image_0_url": "http://127.0.0.1:9/never-fetched.png",
            "jpg_0": tiny_image(2 * number),
            "jpg_1": tiny_image(2 * number + 1),
            "label_0": float(chosen),
            "label_1": float(1 - chosen),
            "model_0": "generator-a",
            "model_1": "generator-b",
            "user_id": 1000 + number,
        }
        assert changes.keys() <= {*row, "caption_0", "caption_1"}, "no such column"
        return {**row, **changes}

    return make


@pytest.fixture
def tiny_pairs(tiny_project: Project) -> Callable[..., Path]:
    """Write rows as a shard of the tiny project's source, and return its path."""

    def write(rows: Sequence[Row], name: str = "part-0.parquet", folder: Path | None = None) -> Path:
        path = (folder or Path(tiny_project.sources[0].uri)) / name
        types = {**PAIRS_TYPES, "caption_0": pa.string(), "caption_1": pa.string()}
        schema = pa.schema([(column, types[column]) for column in rows[0]])
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path)
        return path

    return write


# --- MLflow and a model under release -----------------------------------------------------------------------------


@dataclass
class MlflowServer:
    """A running `mlflow server` on loopback."""

    uri: str
    database: Path
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """Kill the server and its workers."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=10)


def start_mlflow_server(folder: Path, database_url: str = "") -> MlflowServer:
    """Start a server on a free port, on SQLite or on the database given, and wait until it responds."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    database, log = folder / "mlflow.db", folder / "server.log"
    # A session that is itself killed leaves the server to its own time limit.
    command = ["timeout", str(SESSION_SECONDS), sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", database_url or f"sqlite:///{database}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    # Without the last, seven more processes start, to run evaluations of language models.
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment = {**os.environ, **quiet}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
    server = MlflowServer(f"http://127.0.0.1:{port}", database, process)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{server.uri}/health", timeout=2):
                return server
        except OSError:
            time.sleep(0.2)
    server.kill()
    raise RuntimeError(f"mlflow server did not answer within {START_SECONDS} s:\n{log.read_text()[-3000:]}")


@pytest.fixture(autouse=True)
def _no_server_of_another_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the addresses that MLflow writes to the environment whenever one is set in a test before."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """One server for the session. Tests use different project names to stay separate."""
    server = start_mlflow_server(tmp_path_factory.mktemp("mlflow"))
    yield server
    server.kill()


@pytest.fixture(scope="session")
def mlflow_on_postgres(tmp_path_factory: pytest.TempPathFactory, postgres: Any) -> Iterator[MlflowServer]:
    """The same on PostgreSQL, where several connections write at once."""
    server = start_mlflow_server(tmp_path_factory.mktemp("mlflow"), postgres.url("mlflow"))
    yield server
    server.kill()


@pytest.fixture
def tracked(settings: Settings, mlflow_server: MlflowServer) -> Settings:
    """Settings whose runs and models go to the session's server."""
    return settings.model_copy(update={"tracking_uri": mlflow_server.uri})


@dataclass
class ReleaseWorld:
    """A project with trained weights, versions and decisions, in a separate store and on the shared server."""

    project: Project
    settings: Settings
    run_id: str
    folder: Path
    snapshot: DatasetSnapshot
    base_digest: str = "b" * 64

    @property
    def store(self) -> Store:
        return open_store(self.settings.store_uri, self.settings)

    def train(self, name: str, kind: Literal["lora", "full"] = "lora") -> TrainResult:
        """Return a finished training job whose weights depend on the name only."""
        weights_dir = self.folder / name / "weights"
        file = weights_dir / ("pytorch_lora_weights.safetensors" if kind == "lora" else "unet/model.safetensors")
        file.parent.mkdir(parents=True)
        seed = int.from_bytes(name.encode(), "little") % 2**31
        save_file({"lora": np.random.default_rng(seed).normal(size=8).astype(np.float32)}, file)
        result = TrainResult(
            uri=self.store.uri("jobs", name),
            spec_digest="5bec" * 16,
            kind=kind,
            weights_digest=hash_folder(weights_dir)[0],
            base_digest=self.base_digest,
            steps=100,
            num_pairs=400,
            final_metrics={"loss": 0.6},
        )
        self.store.publish_folder(weights_dir.parent, result.uri, result.model_dump(mode="json"))
        return result

    def register(self, name: str) -> CandidateVersion:
        """Train and register."""
        return register(
            self.train(name), Workspace(self.project, self.settings), snapshot=self.snapshot, run_id=self.run_id
        )

    def evaluate(self, candidate: CandidateVersion, champion: CandidateVersion | None) -> EvalReport:
        """Return an evaluation in the store whose judges clearly prefer the candidate, and whose guards do not move."""
        prompts = evaluation_digest(self.project, open_store(self.settings.store_uri, self.settings))
        folder = self.folder / f"scores-{uuid.uuid4().hex[:8]}"
        folder.mkdir()
        columns = better_scores()
        pq.write_table(pa.table(columns), folder / "scores.parquet")
        (folder / "contact_sheet.png").write_bytes((ROOT / "examples/shapes/contact_sheet.png").read_bytes())
        spec = eval_spec(candidate, champion, prompts)
        scorers = [scorer.name for scorer in (*spec.judges, *spec.guards)]
        table = ScoreTable.from_columns(columns)
        comparisons, problems = compare_all(table, scorers, tie_thresholds={}, confidence=spec.confidence)
        pairs = [ScoredPair(str(i), 1.0 if i < 96 else -1.0, 0.0, False) for i in range(120)]
        rows = [JudgedPair(name, pair) for name in JUDGES for pair in pairs]
        facts = {pair.pair_id: PairFacts("panel") for pair in pairs}
        pq.write_table(scores_table(rows, facts), folder / "calibration_scores.parquet")
        report = EvalReport(
            uri=self.store.uri("evaluations", folder.name),
            spec=spec,
            scores_digest=sha256_file(folder / "scores.parquet"),
            calibration_scores_digest=sha256_file(folder / "calibration_scores.parquet"),
            num_prompts=NUM_PROMPTS,
            comparisons=tuple(comparisons),
            calibrations=tuple(agreements(spec.judges, rows, facts, confidence=0.95)[0]),
            problems=tuple(problems),
        )
        self.store.publish_folder(folder, report.uri, report.model_dump(mode="json"))
        return report

    def decide(self, candidate: CandidateVersion, champion: CandidateVersion | None, **changes: Any) -> GateDecision:
        """Return the gate's decision on such an evaluation, kept in the store; `changes` replace fields of it."""
        report = self.evaluate(candidate, champion)
        evidence = read_evidence(
            report,
            self.store.read_bytes(f"{report.uri}/{SCORES_FILE}"),
            candidate,
            champion_version=champion.version if champion else None,
            champion_weights_digest=champion.weights_digest if champion else self.base_digest,
            workspace=Workspace(self.project, self.settings),
        )
        page = {"report_uri": f"{report.uri.replace('/scores-', '/reports/scores-')}.html"}
        return self.kept(decide(evidence).model_copy(update={**page, **changes}))

    def kept(self, decision: GateDecision) -> GateDecision:
        """Return the decision, in the store as the gate leaves it there."""
        decision_log.save_decision(decision, Workspace(self.project, self.settings))
        return decision


@functools.cache
def better_scores() -> dict[str, list[Any]]:
    """Two judges by which the candidate gains 0.6 standard deviations, guards and image statistics that do not move."""
    rng = np.random.default_rng(0)
    rows: list[tuple[Any, ...]] = []
    for scorer, gain in {**dict.fromkeys(JUDGES, 0.6), **dict.fromkeys((*GUARDS, *STATISTICS), 0.0)}.items():
        level, change = rng.normal(20, 3, NUM_PROMPTS), rng.normal(gain, 1, NUM_PROMPTS)
        for role in ("candidate", "champion", "base"):
            lift = change if role == "candidate" else 0 * level
            rows += [
                (role, scorer, p, s, level[p] + lift[p] + 0.01 * s, f"prompt {p}", "even" if p % 2 == 0 else "odd")
                for p in range(NUM_PROMPTS)
                for s in (0, 1)
            ]
    names = (*SCORE_COLUMNS, "prompt", "category")
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


def eval_spec(candidate: CandidateVersion, champion: CandidateVersion | None, prompts_digest: str) -> EvalSpec:
    """Candidate, champion and base by the scorers of the shapes project."""

    def judge(name: str, scorer: Any, *trained_on: str) -> Judge:
        return Judge(
            name=name, scorer=scorer, weights_digest=hashlib.sha256(name.encode()).hexdigest(), trained_on=trained_on
        )

    incumbent = champion.weights_digest if champion else candidate.base_digest
    return EvalSpec(
        candidate=ModelRef(kind=candidate.kind, weights_digest=candidate.weights_digest),
        champion=ModelRef(kind=champion.kind if champion else "base", weights_digest=incumbent),
        base_digest=candidate.base_digest,
        backbone=StableDiffusion(resolution=64),
        prompts_digest=prompts_digest,
        seeds=(0, 1),
        sampler=Sampler(steps=20, guidance_scale=3.0),
        judges=tuple(judge(name, ClipPreference(), f"panel_{name}") for name in JUDGES),
        guards=(
            *(judge(name, ClipScore()) for name in GUARDS),
            *(judge(name, ImageStatistic(statistic=name, better="more")) for name in STATISTICS),
        ),
        snapshot_digest=candidate.snapshot_digest,
    )


@pytest.fixture
def world(tracked: Settings, tmp_path: Path, make_snapshot: Callable[..., DatasetSnapshot]) -> ReleaseWorld:
    """A project used by no other test, with an open training run."""
    project = load_project(ROOT / "projects/shapes.toml").model_copy(update={"name": f"shapes_{uuid.uuid4().hex[:8]}"})
    run_id = runs.parent_run(tracked, project=project.name, key="1", tags={"airflow.run_id": "run-1"})
    snapshot = make_snapshot(
        num_pairs={"train": 8, "calibration": 2, "test": 1}, num_ties=1, num_prompts=4, sources=("shapes_pairs",)
    )
    return ReleaseWorld(project, tracked, run_id, tmp_path / "jobs", snapshot)


# --- a hub ----------------------------------------------------------------------------------------------------------


@dataclass
class HubServer:
    """The part of the hub's API that a push uses. It keeps what it received."""

    address: str = ""
    refuses: bool = False
    created: list[dict[str, Any]] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    tokens: set[str | None] = field(default_factory=set)

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        """Return the JSON of a POST."""
        if path == "/api/repos/create":
            known = ("name", "organization", "visibility")
            self.created.append({name: value for name, value in json.loads(body).items() if name in known})
            return {"url": f"{self.address}/owner/name"}
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if path.endswith("/preupload/main"):
            names = [own["path"] for own in json.loads(body)["files"]]
            return {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
        assert path == "/api/models/owner/name/commit/main", path
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "header":
                self.messages.append(line["value"]["summary"])
            else:
                self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        oid = "c" * 40
        return {"success": True, "commitOid": oid, "commitUrl": f"{self.address}/owner/name/commit/{oid}"}


@pytest.fixture
def hub_server() -> Iterator[HubServer]:
    """A server with the hub's API on loopback."""
    hub = HubServer()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            hub.tokens.add(self.headers["Authorization"])
            content = json.dumps({} if hub.refuses else hub.answer(self.path.partition("?")[0], body)).encode()
            self.send_response(403 if hub.refuses else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            del format, arguments

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        hub.address = f"http://127.0.0.1:{server.server_port}"
        yield hub
        server.shutdown()
        thread.join()


# --- a judged candidate and its images ------------------------------------------------------------------------------


@dataclass
class JudgedProject:
    """A project with a feedback source, a decision and the images of its evaluation; nothing is tracked."""

    path: Path
    store: Store
    report: EvalReport
    decision: GateDecision
    images: dict[str, dict[str, bytes]]
    """Images by weights digest and file name."""

    @property
    def votes(self) -> Path:
        """The SQLite file of the feedback source."""
        return self.path.parent / "votes.db"


JUDGED_PROMPTS = 60
FEEDBACK = """
[[sources]]
name = "votes"
kind = "feedback"
uri = "votes.db"
licence = "CC0-1.0"
"""


@pytest.fixture
def judged_project(
    tiny_project: Project, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> JudgedProject:
    """The candidate draws circles, the champion squares, on 60 prompts and two seeds; the judge likes every third."""
    monkeypatch.setenv("PLUMBLINE_STORE_URI", settings.store_uri)
    monkeypatch.setenv("PLUMBLINE_STATE_DIR", str(settings.state_dir))
    monkeypatch.setenv("PLUMBLINE_ANNOTATOR_SALT", "a salt for tests")
    path, store = tiny_project.path, open_store(settings.store_uri, settings)
    path.write_text(path.read_text() + FEEDBACK)
    prompts = [f"a picture, number {number}" for number in range(JUDGED_PROMPTS)]
    (path.parent / "prompts.tsv").write_text("prompt\tcategory\n" + "".join(f"{p}\tany\n" for p in prompts))
    candidate = CandidateVersion(
        **{"model": "tiny", "version": 2, "kind": "lora", "weights_uri": "", "trained_on": (), "run_id": ""},
        **{"weights_digest": "c" * 64, "spec_digest": "1" * 64, "base_digest": "b" * 64, "snapshot_digest": "e" * 64},
    )
    spec = eval_spec(candidate, None, "d" * 64)
    images = {
        model.weights_digest: publish_samples(store, spec.sample_spec(model).digest, spec.seeds, model.weights_digest)
        for model in (spec.candidate, spec.champion)
    }
    folder, uri = tmp_path / "evaluation", store.uri("evaluations", "1")
    folder.mkdir()
    rows = [
        (role, judge, i, prompts[i], i, seed, float(i % 3 == 0) if role == "candidate" else 0.5)
        for role in ("candidate", "champion")
        for judge in JUDGES
        for i in range(JUDGED_PROMPTS)
        for seed in spec.seeds
    ]
    names = ("role", "scorer", "prompt_index", "prompt", "group", "seed", "score")
    pq.write_table(pa.table(dict(zip(names, zip(*rows, strict=True), strict=True))), folder / SCORES_FILE)
    digests = {"scores_digest": "f" * 64, "num_prompts": JUDGED_PROMPTS}
    report = EvalReport(uri=uri, spec=spec, comparisons=(), calibrations=(), **digests)
    store.publish_folder(folder, uri, report.model_dump(mode="json"))
    decision = GateDecision(
        verdict="hold",
        mode="enforce",
        checks=(GateCheck(kind="may_vote", subject=JUDGES[0], measured=None, passed=True, explanation=""),),
        reasons=(),
        candidate=candidate,
        champion_version=None,
        **{"champion_weights_digest": "b" * 64, "report_digest": report.digest, "evaluation_uri": uri},
        **{"report_uri": "", "scores_digest": "f" * 64, "policy_digest": "3" * 64},
    )
    decision_log.save_decision(decision, Workspace(tiny_project, settings))
    return JudgedProject(path, store, report, decision, images)


def publish_samples(store: Store, digest: str, seeds: Sequence[int], weights: str) -> dict[str, bytes]:
    """Publish the images of a model: circles if its digest begins with c, else squares."""
    import tempfile

    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for index in range(JUDGED_PROMPTS):
            for seed in seeds:
                file = Path(scratch) / f"{index:05d}_{seed}.png"
                image = Image.new("RGB", (512, 512), (230 - index, 225, 200 + 20 * seed))
                drawing = ImageDraw.Draw(image)
                shape = drawing.ellipse if weights.startswith("c") else drawing.rectangle
                shape((100, 100 + index, 400, 400), fill=(40 + 3 * index, 90, 160))
                image.save(file)
                found[file.name] = file.read_bytes()
        store.publish_folder(Path(scratch), store.uri("evaluations", "samples", digest), {})
    return found
