"""The project whose requests are tested, and what its requests are made of."""

from pathlib import Path

from alignment.contracts.reward_models import RewardTrainResult
from pipelines.contracts.jobs import JobRequest
from pipelines.contracts.judges import RegisteredJudge, RewardReport
from pipelines.contracts.release import CandidateVersion
from pipelines.dispatch.evaluation_requests import evaluate_request
from pipelines.project.file import Project
from pipelines.records import trained_judges
from pipelines.settings import Settings
from pipelines.store.folders import hash_folder
from pipelines.store.storage import open_store

SNAPSHOT_URI = "file:///store/snapshots/s"
SNAPSHOT_DIGEST = "5" * 64


PROJECT = """
name = "words"
[base]
uri = "base"
licence = "Apache-2.0"
backbone = { name = "stable_diffusion", resolution = 64 }
[[sources]]
name = "pairs"
kind = "pick_a_pic"
uri = "pairs"
licence = "CC0-1.0"
[[train]]
recipe = "diffusion_dpo_shapes"
[evaluation]
prompts = "prompts.tsv"
seeds = [0, 1]
sampler = { steps = 4 }
[[evaluation.judges]]
name = "taste"
uri = "judge"
scorer = { kind = "clip_preference" }
[[evaluation.guards]]
name = "caption"
uri = "guard"
scorer = { kind = "clip_score" }
[placement.evaluate]
micro_batch = 5
[gate]
required_judges = 1
[gate.guards]
caption = { margin = 1.0 }
"""


def make_version(project: Project, weights: str, **changes: object) -> CandidateVersion:
    base, _ = hash_folder(Path(project.base.uri))
    fields = {
        "model": "words",
        "version": 1,
        "kind": "full",
        "weights_digest": weights * 64,
        "weights_uri": f"file:///store/models/{weights}",
        "spec_digest": "7" * 64,
        "base_digest": base,
        "snapshot_digest": SNAPSHOT_DIGEST,
        "snapshot_uri": SNAPSHOT_URI,
        "trained_on": ("pairs",),
        "run_id": "r",
        **changes,
    }
    return CandidateVersion.model_validate({k: v for k, v in fields.items() if k in CandidateVersion.model_fields})


def evaluate(project: Project, settings: Settings, champion: CandidateVersion | None = None) -> JobRequest:
    candidate = make_version(project, "c")
    return evaluate_request(
        project,
        settings,
        candidate=candidate,
        champion=champion,
        snapshot_uri=SNAPSHOT_URI,
        snapshot_digest=SNAPSHOT_DIGEST,
    )


def names(request: JobRequest) -> list[str]:
    return [item.alias or item.content_digest for item in request.inputs]


REWARD = """
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


def register_judge(settings: Settings, folder: Path, letter: str) -> RegisteredJudge:
    """Publish a finished reward training and its judge."""
    store = open_store(settings.store_uri)
    uri = store.uri("rewards", letter)
    facts = {"spec_digest": "7" * 64, "judge_digest": letter * 64, "mixture": (1.0,), "accuracies": ()}
    sizes = {"num_pairs": 3, "num_users": 2, "best_step": 1}
    result = RewardTrainResult(uri=uri, head_digest="8" * 64, steps=2, final_metrics={}, **facts, **sizes)  # type: ignore[arg-type]
    (folder / letter).mkdir(exist_ok=True)
    (folder / letter / "head.json").write_text("{}")
    store.publish_folder(folder / letter, uri, result.model_dump(mode="json"))
    return trained_judges.publish(
        RegisteredJudge(
            project="words",
            name="people",
            uri=uri,
            judge_digest=letter * 64,
            spec_digest="7" * 64,
            snapshot_digest="5" * 64,
            trained_on=("pairs",),
            report=RewardReport(head="pal_b", mixture=(1.0,), accuracies=(), **sizes),
        ),
        settings,
    )
