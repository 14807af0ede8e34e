"""The project of words.toml with its files, and value objects that its jobs are made from."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from alignment.contracts.data import DatasetSnapshot
from alignment.contracts.reward_models import RewardTrainResult
from pipelines.contracts.jobs import JobRequest
from pipelines.contracts.judges import RegisteredJudge, RewardReport
from pipelines.contracts.release import CandidateVersion
from pipelines.dispatch.job_kinds import Evaluate
from pipelines.dispatch.requests.judging import comparison_request
from pipelines.project.file import Project, load_project
from pipelines.records import trained_judges
from pipelines.settings import Settings
from pipelines.store.folders import hash_folder
from pipelines.store.storage import open_store
from pipelines.workspace import Workspace


@pytest.fixture
def project(tmp_path: Path) -> Project:
    files = {
        "words.toml": Path(__file__).with_name("words.toml").read_text(),
        "prompts.tsv": "prompt\tcategory\na circle\tshape\n",
        "base/model_index.json": json.dumps({"unet": ["diffusers", "UNet2DConditionModel"]}),
    }
    for folder in ("base/unet", "judge", "guard"):
        files |= {f"{folder}/config.json": folder, f"{folder}/model.safetensors": folder}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return load_project(tmp_path / "words.toml")


@pytest.fixture
def snapshot() -> DatasetSnapshot:
    return DatasetSnapshot(
        uri="file:///store/snapshots/s",
        content_digest="5" * 64,
        num_pairs={"train": 3, "calibration": 1, "test": 1},
        num_ties=0,
        num_prompts=5,
        sources=("pairs",),
        licences=("CC0-1.0",),
        batch_digests=(),
        heldout_prompts_digest="6" * 64,
    )


@pytest.fixture
def make_version(project: Project) -> Callable[..., CandidateVersion]:
    """A registered version with weights whose digest is one letter, repeated."""

    def make(weights: str, **changes: object) -> CandidateVersion:
        fields = {
            "model": "words",
            "version": 1,
            "kind": "full",
            "weights_digest": weights * 64,
            "weights_uri": f"file:///store/models/{weights}",
            "spec_digest": "7" * 64,
            "base_digest": hash_folder(Path(project.base.uri))[0],
            "snapshot_digest": "5" * 64,
            "snapshot_uri": "file:///store/snapshots/s",
            "trained_on": ("pairs",),
            "run_id": "r",
        }
        return CandidateVersion.model_validate(fields | changes)

    return make


@pytest.fixture
def evaluate(settings: Settings, make_version: Callable[..., CandidateVersion]) -> Callable[..., JobRequest]:
    """The request that compares version "c" with a champion, or with the base."""

    def ask(project: Project, champion: CandidateVersion | None = None) -> JobRequest:
        return comparison_request(
            Workspace(project, settings), Evaluate(candidate=make_version("c"), champion=champion)
        )

    return ask


@pytest.fixture
def reward_section() -> str:
    return """
[[rewards]]
name = "people"
encoder = "guard"
mixture = [0.25, 0.75]
[rewards.recipe]
head = { kind = "pal_b" }
global_batch = 8
steps = 2
seed = 1
"""


@pytest.fixture
def register_judge(settings: Settings, tmp_path: Path) -> Callable[[str], RegisteredJudge]:
    """Publish a finished reward training and its judge, whose digest is one letter, repeated."""

    def register(letter: str) -> RegisteredJudge:
        store = open_store(settings.store_uri)
        uri = store.uri("rewards", letter)
        facts = {"spec_digest": "7" * 64, "judge_digest": letter * 64, "mixture": (1.0,), "accuracies": ()}
        sizes = {"num_pairs": 3, "num_users": 2, "best_step": 1}
        result = RewardTrainResult(uri=uri, head_digest="8" * 64, steps=2, final_metrics={}, **facts, **sizes)  # type: ignore[arg-type]
        (tmp_path / letter).mkdir(exist_ok=True)
        (tmp_path / letter / "head.json").write_text("{}")
        store.publish_folder(tmp_path / letter, uri, result.model_dump(mode="json"))
        judge = RegisteredJudge(
            project="words",
            name="people",
            uri=uri,
            judge_digest=letter * 64,
            spec_digest="7" * 64,
            snapshot_digest="5" * 64,
            trained_on=("pairs",),
            report=RewardReport(head="pal_b", mixture=(1.0,), accuracies=(), **sizes),
        )
        return trained_judges.publish(judge, open_store(settings.store_uri, settings))

    return register
