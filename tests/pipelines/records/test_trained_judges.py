"""A name refers to the newest registered judge, whose training must be in the store."""

from pathlib import Path
from typing import Any

import pytest

from alignment.contracts.reward_models import RewardTrainResult
from pipelines.contracts.judges import RegisteredJudge, RewardReport
from pipelines.records import trained_judges
from pipelines.settings import Settings
from pipelines.store.storage import open_store


@pytest.fixture
def trained(settings: Settings, tmp_path: Path) -> Any:
    """A function that publishes a finished reward training; the judge's digest repeats the letter."""

    def make(letter: str) -> RegisteredJudge:
        store = open_store(settings.store_uri, settings)
        uri = store.uri("rewards", letter)
        result = RewardTrainResult(
            uri=uri,
            spec_digest="7" * 64,
            judge_digest=letter * 64,
            head_digest="8" * 64,
            steps=2,
            best_step=1,
            num_pairs=3,
            num_users=2,
            mixture=(0.5, 0.5),
            final_metrics={},
            accuracies=(),
        )
        if store.read_manifest(uri) is None:
            folder = tmp_path / letter
            folder.mkdir()
            (folder / "head.json").write_text("{}")
            store.publish_folder(folder, uri, result.model_dump(mode="json"))
        report = RewardReport(head="pal_b", num_pairs=3, num_users=2, best_step=1, mixture=(0.5, 0.5), accuracies=())
        return RegisteredJudge(
            project="tiny",
            name="people",
            uri=uri,
            judge_digest=letter * 64,
            spec_digest="7" * 64,
            snapshot_digest="5" * 64,
            trained_on=("tiny_pairs",),
            report=report,
        )

    return make


def test_the_newest_is_found_by_name_and_numbers_go_up(settings: Settings, trained: Any) -> None:
    first = trained_judges.publish(trained("a"), open_store(settings.store_uri, settings))
    second = trained_judges.publish(trained("b"), open_store(settings.store_uri, settings))
    assert (first.number, second.number) == (1, 2)
    assert trained_judges.find("reward://people", "tiny", open_store(settings.store_uri, settings)) == second
    again = trained_judges.publish(trained("a"), open_store(settings.store_uri, settings))
    assert again.number == 3, "going back to an earlier judge is a new registration"
    assert (
        trained_judges.find("reward://people", "tiny", open_store(settings.store_uri, settings)).judge_digest
        == "a" * 64
    )


def test_registering_the_newest_again_changes_nothing(settings: Settings, trained: Any) -> None:
    first = trained_judges.publish(trained("a"), open_store(settings.store_uri, settings))
    assert trained_judges.publish(trained("a"), open_store(settings.store_uri, settings)) == first
    store = open_store(settings.store_uri, settings)
    assert len(store.list_uris(store.uri("judges", "tiny", "people"))) == 1


def test_the_error_for_an_unknown_name_shows_how_to_train_it(settings: Settings, trained: Any) -> None:
    trained_judges.publish(trained("a"), open_store(settings.store_uri, settings))
    with pytest.raises(ValueError, match=r"No judge 'person' is registered yet\. Run `plumbline reward projects/tiny"):
        trained_judges.find("reward://person", "tiny", open_store(settings.store_uri, settings))
    with pytest.raises(ValueError, match="No judge 'people'"):
        trained_judges.find("reward://people", "other", open_store(settings.store_uri, settings))


def test_a_judge_that_is_not_in_the_store_is_not_registered(settings: Settings, trained: Any) -> None:
    judge = trained("a")
    for wrong in ({"judge_digest": "c" * 64}, {"uri": f"{judge.uri}-nowhere"}):
        with pytest.raises(ValueError, match="Train the reward again"):
            trained_judges.publish(judge.model_copy(update=wrong), open_store(settings.store_uri, settings))
    assert trained_judges.newest("tiny", "people", open_store(settings.store_uri, settings)) is None
