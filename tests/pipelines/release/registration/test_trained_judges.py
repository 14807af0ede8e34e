"""A trained head becomes a judge under its name, with its lineage and with a report that MLflow shows."""

from pathlib import Path
from typing import Any

import pytest

from alignment.contracts.reward_models import RewardAccuracy, RewardRecipe, RewardTrainResult
from pipelines.project.sections import RewardSection
from pipelines.records import trained_judges
from pipelines.release.registration.trained_judges import _report_on, _table, register
from pipelines.store.storage import open_store
from pipelines.tracking import registry
from pipelines.workspace import Workspace

SECTION = RewardSection.model_validate(
    {
        "name": "people",
        "encoder": "clip",
        "recipe": {"head": {"kind": "pal_a"}, "global_batch": 8, "steps": 2, "seed": 1},
        "trained_on": ["clip_labels"],
    }
)
ACCURACIES = (
    RewardAccuracy(users="seen", labels_per_user=0, num_users=8, num_pairs=40, accuracy=0.8, baseline_accuracy=0.7),
    RewardAccuracy(users="unseen", labels_per_user=5, num_users=2, num_pairs=9, accuracy=0.66, baseline_accuracy=0.5),
)


def finished(uri: str) -> RewardTrainResult:
    return RewardTrainResult(
        uri=uri,
        spec_digest="7" * 64,
        judge_digest="a" * 64,
        head_digest="8" * 64,
        steps=2,
        best_step=1,
        num_pairs=30,
        num_users=8,
        mixture=(0.25, 0.75),
        final_metrics={"loss": 0.5},
        accuracies=ACCURACIES,
    )


def test_the_report_compares_with_one_taste_for_everybody() -> None:
    report = _report_on(finished("file:///r"), SECTION)
    assert (report.head, report.num_users, report.accuracies) == ("pal_a", 8, ACCURACIES)
    assert isinstance(SECTION.recipe, RewardRecipe)
    assert SECTION.recipe.name == "people"


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_registered_judge_carries_its_lineage_and_its_report(world: Any, tmp_path: Path) -> None:
    uri = world.store.uri("rewards", "r")
    folder = tmp_path / "reward"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("")
    world.store.publish_folder(folder, uri, finished(uri).model_dump(mode="json"))
    judge = register(
        finished(uri), SECTION, Workspace(world.project, world.settings), snapshot=world.snapshot, run_id=world.run_id
    )
    assert (judge.number, judge.judge_digest, judge.scorer.kind) == (1, "a" * 64, "pal")
    assert judge.trained_on == ("clip_labels", "shapes_pairs")
    assert judge.snapshot_digest == world.snapshot.content_digest
    assert (
        trained_judges.find("reward://people", world.project.name, open_store(world.settings.store_uri, world.settings))
        == judge
    )
    lines = _table(judge).splitlines()
    assert "| seen | all | 8 | 40 | 0.800 | 0.700 |" in lines
    assert "| unseen | 5 | 2 | 9 | 0.660 | 0.500 |" in lines
    with registry.connect(world.settings.tracking_uri) as client:
        shown = {artifact.path for artifact in client.list_artifacts(world.run_id, "rewards")}
    assert shown == {"rewards/people.json", "rewards/people.md"}
