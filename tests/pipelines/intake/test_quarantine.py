from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.contracts.pairs import ValidationReport
from pipelines.intake.accepted import accepted_reports
from pipelines.intake.ingestion import ingest, list_source_shards
from pipelines.intake.quarantine import _broken_rules, list_shards, replay, replay_all
from pipelines.intake.snapshot import build_snapshot
from pipelines.intake.validation import validate
from pipelines.project.file import Project
from pipelines.settings import Settings
from pipelines.workspace import Workspace

Make = Callable[..., Any]

pytestmark = pytest.mark.timeout(180)


def with_limits(project: Project, **limits: Any) -> Project:
    return project.model_copy(update={"validation": project.validation.model_copy(update=limits)})


def validate_all(project: Project, settings: Settings) -> ValidationReport:
    (shard,) = list_source_shards(Workspace(project, settings))
    return validate(ingest(shard, Workspace(project, settings)), Workspace(project, settings))


def accepted_rows(report: ValidationReport) -> list[int]:
    path = Path(report.uri.removeprefix("file://")) / "accepted.parquet"
    return pq.read_table(path, columns=["source_row"]).column("source_row").to_pylist()


def count_reasons(report: ValidationReport, settings: Settings) -> dict[str, int]:
    return dict(Counter(rule for rules in _broken_rules(report, settings) for rule in rules))


@pytest.fixture
def dirty(tiny_pairs: Make, tiny_row: Make, tiny_image: Make) -> None:
    """Rows 10 to 13: a large image, a large image with no prompt, a copy of row 0, a copy of row 10."""
    large = tiny_image(500, (100, 40))
    rows = [tiny_row(n) for n in range(10)]
    rows += [tiny_row(10, jpg_0=large), tiny_row(11, jpg_0=large, caption=""), tiny_row(0), tiny_row(10, jpg_0=large)]
    tiny_pairs(rows)


@pytest.mark.usefixtures("dirty")
def test_rows_pass_on_replay_after_the_limit_they_broke_was_raised(tiny_project: Project, settings: Settings) -> None:
    tight = with_limits(tiny_project, max_image_side=60, max_quarantined_share=0.4)
    report = validate_all(tight, settings)
    assert report.num_quarantined == 4
    assert count_reasons(report, settings) == {"image_longest_side": 3, "duplicate_pair": 2, "prompt_length": 1}

    again = replay(report, Workspace(tiny_project, settings))
    assert (again.num_rows, again.num_accepted, again.num_quarantined) == (3, 1, 2)
    assert accepted_rows(again) == [10]
    assert count_reasons(again, settings) == {"prompt_length": 1, "duplicate_pair": 1}
    assert again.passed
    assert replay(report, Workspace(tiny_project, settings)) == again


@pytest.mark.usefixtures("dirty")
def test_replayed_rows_join_the_snapshot_until_their_shard_is_validated_again(
    tiny_project: Project, settings: Settings
) -> None:
    tight = with_limits(tiny_project, max_image_side=60, max_quarantined_share=0.4)
    report = validate_all(tight, settings)
    again = replay(report, Workspace(tiny_project, settings))
    assert {each.uri for each in accepted_reports(Workspace(tiny_project, settings))} == {report.uri, again.uri}
    snapshot = build_snapshot(accepted_reports(Workspace(tiny_project, settings)), Workspace(tiny_project, settings))
    assert sum(snapshot.num_pairs.values()) == 11

    validate_all(tight, settings)
    assert len(accepted_reports(Workspace(tiny_project, settings))) == 2
    whole = validate_all(with_limits(tiny_project, max_quarantined_share=0.4), settings)
    assert accepted_reports(Workspace(tiny_project, settings)) == [whole]
    assert sum(build_snapshot([whole], Workspace(tiny_project, settings)).num_pairs.values()) == 11


@pytest.mark.usefixtures("dirty")
def test_every_shard_is_listed_with_its_reasons_and_replayed(tiny_project: Project, settings: Settings) -> None:
    tight, open_ = (
        with_limits(tiny_project, max_image_side=60, max_quarantined_share=0.4),
        Workspace(tiny_project, settings),
    )
    assert list_shards(open_) == []
    report = validate_all(tight, settings)
    (shard,) = list_shards(open_)
    assert (shard.source, shard.num_rows, shard.num_accepted, shard.num_quarantined) == (report.source, 14, 10, 4)
    assert (shard.num_duplicates, shard.is_replay) == (1, False), "the copy of row 10 breaks another rule too"
    assert shard.shard.endswith(".parquet")
    assert shard.reasons == {"image_longest_side": 3, "duplicate_pair": 2, "prompt_length": 1}
    assert Path(shard.data_docs_uri.removeprefix("file://")).is_file()
    assert pq.read_table(Path(shard.rows_uri.removeprefix("file://"))).num_rows == 4
    (again,) = replay_all(open_)
    assert (again.num_rows, again.num_accepted) == (3, 1)
    assert replay_all(open_) == [again], "the rows of a replay are those of its shard; they are not replayed twice"
    replayed, first = list_shards(open_)
    assert (first, replayed.shard) == (shard, f"{shard.shard} (replayed rows)")
    assert (replayed.is_replay, replayed.num_accepted, replayed.num_duplicates) == (True, 1, 1)
    assert list_shards(Workspace(tiny_project.model_copy(update={"sources": ()}), settings)) == []


@pytest.mark.usefixtures("dirty")
def test_a_batch_that_failed_is_listed_with_the_reason(tiny_project: Project, settings: Settings) -> None:
    validate_all(with_limits(tiny_project, max_image_side=60), settings)
    (shard,) = list_shards(Workspace(tiny_project, settings))
    assert "rows (28.6%) are bad, more than max_quarantined_share = 0.2" in shard.failure


@pytest.mark.usefixtures("dirty")
def test_unchanged_rules_accept_no_quarantined_row(tiny_project: Project, settings: Settings) -> None:
    tight = with_limits(tiny_project, max_image_side=60, max_quarantined_share=0.4)
    again = replay(validate_all(tight, settings), Workspace(tight, settings))
    assert (again.num_rows, again.num_accepted, again.passed) == (3, 0, True)


def test_a_clean_report_is_its_own_replay(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make
) -> None:
    tiny_pairs([tiny_row(0)])
    report = validate_all(tiny_project, settings)
    assert replay(report, Workspace(tiny_project, settings)) == report
    assert count_reasons(report, settings) == {}
