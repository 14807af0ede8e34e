"""Withdrawn pairs leave the next snapshot as if they had never come, and come back as they were."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from alignment.contracts.data import SPLITS, DatasetSnapshot
from pipelines.contracts.pairs import RawBatch, ValidationReport
from pipelines.contracts.withdrawals import Withdrawal
from pipelines.intake.accepted import accepted_reports
from pipelines.intake.ingestion import annotator_id, ingest, list_source_shards, note_shards
from pipelines.intake.lineage import names_of_pair, purged_with, splits_with
from pipelines.intake.purge import plan_purge, purge
from pipelines.intake.quarantine import list_shards, replay_all
from pipelines.intake.report.rows import WITHDRAWN
from pipelines.intake.report.write import write_report
from pipelines.intake.snapshot import build_snapshot
from pipelines.intake.validation import validate
from pipelines.project.file import Project
from pipelines.project.sections import SnapshotSection
from pipelines.records.withdrawals import purge_series, record_purge, record_withdrawal, unfinished_purges
from pipelines.settings import Settings
from pipelines.store.storage import Store
from pipelines.workspace import Workspace

Make = Callable[..., Any]

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def workspace(tiny_project: Project, settings: Settings) -> Workspace:
    section = SnapshotSection(calibration_share=0.2, test_share=0)
    return Workspace(tiny_project.model_copy(update={"snapshot": section}), settings)


@pytest.fixture
def shards(tiny_pairs: Make, tiny_row: Make) -> list[list[dict[str, Any]]]:
    """Two shards of 8 rows by the users 0 to 3; row 3 of the first has no prompt."""
    rows = [tiny_row(number, user_id=number % 4, caption=f"prompt {number}") for number in range(16)]
    rows[3]["caption"] = ""
    parts = [rows[:8], rows[8:]]
    for number, part in enumerate(parts):
        tiny_pairs(part, f"part-{number}.parquet")
    return parts


def read_all(workspace: Workspace) -> list[RawBatch]:
    found = list_source_shards(workspace)
    note_shards(found, workspace)
    batches = [ingest(shard, workspace) for shard in found]
    for batch in batches:
        validate(batch, workspace)
    return batches


def built(workspace: Workspace) -> DatasetSnapshot:
    return build_snapshot(accepted_reports(workspace), workspace)


def rows_of(snapshot: DatasetSnapshot) -> list[dict[str, Any]]:
    folder = Path(snapshot.uri.removeprefix("file://"))
    return [row for split in SPLITS for row in pq.read_table(folder / f"{split}.parquet").to_pylist()]


def withdraw(workspace: Workspace, kind: Any, value: str, shard: str = "", *, revoke: bool = False) -> None:
    own = Withdrawal(kind=kind, value=value, shard=shard)
    record_withdrawal(workspace.store, own, reason="asked for it", by="ada", is_revoked=revoke)


def person(number: int, workspace: Workspace) -> str:
    return annotator_id(str(number), workspace.settings)


def files_with(text: bytes, store: Store) -> list[str]:
    """Objects of the store that hold these bytes."""
    root = Path(store.root.removeprefix("file://"))
    return [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and text in path.read_bytes()]


# --- snapshots ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("shards")
@pytest.mark.parametrize("kind", ["annotator", "pair", "image", "source", "shard"])
def test_withdrawn_pairs_are_not_in_the_next_snapshot_and_come_back_unchanged(workspace: Workspace, kind: str) -> None:
    read_all(workspace)
    before = built(workspace)
    rows = rows_of(before)
    assert len(rows) == 15
    victim = rows[0]
    source = workspace.project.sources[0].name
    target = {
        "annotator": ("annotator", victim["annotator_id"]),
        "pair": ("pair", victim["pair_id"]),
        "image": ("image", _sha256(victim["image_chosen"])),
        "source": ("source", source),
        "shard": ("source", source, "part-0.parquet"),
    }[kind]
    withdraw(workspace, *target)
    if kind == "source":
        with pytest.raises(ValueError, match="No pair is left to train on"):
            built(workspace)
    else:
        now = {row["pair_id"] for row in rows_of(built(workspace))}
        gone = {row["pair_id"] for row in rows} - now
        first = {row["pair_id"] for row in _shard_rows(workspace, 0)}
        same_person = {row["pair_id"] for row in rows if row["annotator_id"] == victim["annotator_id"]}
        assert gone == {"annotator": same_person, "shard": first}.get(kind, {victim["pair_id"]})
        assert now < {row["pair_id"] for row in rows}
    withdraw(workspace, *target, revoke=True)
    assert built(workspace) == before


def _sha256(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def _shard_rows(workspace: Workspace, number: int) -> list[dict[str, Any]]:
    for report in accepted_reports(workspace):
        rows = pq.read_table(Path(report.uri.removeprefix("file://")) / "accepted.parquet").to_pylist()
        if rows[0]["source_file"] == f"part-{number}.parquet":
            return rows
    raise AssertionError(number)


def test_a_withdrawn_row_does_not_contradict_another(workspace: Workspace, tiny_pairs: Make, tiny_row: Make) -> None:
    """The same person's opposite votes in two shards cancel out; with one shard withdrawn the other counts."""
    row = tiny_row(1, label_0=1.0, label_1=0.0)
    others = [tiny_row(number) for number in range(2, 8)]
    tiny_pairs([row, *others], "part-0.parquet")
    tiny_pairs([{**row, "label_0": 0.0, "label_1": 1.0}, tiny_row(9)], "part-1.parquet")
    read_all(workspace)
    assert len(rows_of(built(workspace))) == 7
    withdraw(workspace, "source", workspace.project.sources[0].name, "part-1.parquet")
    assert len(rows_of(built(workspace))) == 7
    assert row["caption"] in {own["prompt"] for own in rows_of(built(workspace))}


def test_a_withdrawn_vote_leaves_the_merged_votes(workspace: Workspace, tiny_pairs: Make, tiny_row: Make) -> None:
    rows = [tiny_row(1, user_id=user, label_0=float(user < 2), label_1=float(user >= 2)) for user in range(3)]
    tiny_pairs([*rows, *(tiny_row(number) for number in range(2, 6))])
    section = SnapshotSection(calibration_share=0, test_share=0, labels="soft")
    merged = Workspace(workspace.project.model_copy(update={"snapshot": section}), workspace.settings)
    read_all(merged)
    (vote,) = (row for row in rows_of(built(merged)) if row["num_votes"] == 3)
    assert vote["preference"] == pytest.approx(2 / 3)
    withdraw(merged, "annotator", person(2, merged))
    (vote,) = (row for row in rows_of(built(merged)) if row["num_votes"] == 2)
    assert vote["preference"] == 1
    withdraw(merged, "pair", vote["pair_id"])
    assert vote["prompt"] not in {row["prompt"] for row in rows_of(built(merged))}, "the name of the comparison"


@pytest.mark.usefixtures("shards")
def test_the_data_report_counts_withdrawn_rows(workspace: Workspace) -> None:
    read_all(workspace)
    withdraw(workspace, "annotator", person(1, workspace))
    reports = accepted_reports(workspace)
    record = write_report(build_snapshot(reports, workspace), reports, workspace)
    aside = json.loads(workspace.store.read_bytes(record.figures_uri))["set_aside"]
    assert (aside["num_rows"], aside["num_in_snapshot"], aside["num_quarantined"]) == (16, 11, 1)
    assert aside["left_out"] == {WITHDRAWN: 4}


# --- sources that shrink --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("shards")
@pytest.mark.parametrize(("on_removed", "pairs"), [("withdraw", 8), ("keep", 15)])
def test_a_shard_that_is_gone_from_its_source_leaves_the_next_snapshot_unless_kept(
    workspace: Workspace, on_removed: str, pairs: int
) -> None:
    source = workspace.project.sources[0].model_copy(update={"on_removed": on_removed})
    own = Workspace(workspace.project.model_copy(update={"sources": (source,)}), workspace.settings)
    read_all(own)
    before, path = built(own), Path(source.uri) / "part-0.parquet"
    data = path.read_bytes()
    path.unlink()
    read_all(own)
    assert sum(built(own).num_pairs.values()) == pairs
    assert sum(shard.num_rows for shard in list_shards(own)) == (8 if on_removed == "withdraw" else 16)
    path.write_bytes(data)
    read_all(own)
    assert built(own) == before


def test_rows_that_are_gone_from_a_shard_leave_the_next_snapshot(
    workspace: Workspace, shards: list[list[dict[str, Any]]], tiny_pairs: Make
) -> None:
    read_all(workspace)
    tiny_pairs(shards[1][2:], "part-1.parquet")
    read_all(workspace)
    assert sum(built(workspace).num_pairs.values()) == 13


@pytest.mark.usefixtures("shards")
def test_a_store_of_the_version_before_has_no_listing_and_keeps_its_shards(workspace: Workspace) -> None:
    for shard in list_source_shards(workspace):
        validate(ingest(shard, workspace), workspace)
    (Path(workspace.project.sources[0].uri) / "part-0.parquet").unlink()
    assert sum(built(workspace).num_pairs.values()) == 15


# --- ingest after a withdrawal --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("shards")
def test_withdrawn_rows_are_not_stored_when_a_shard_is_read_later(workspace: Workspace) -> None:
    withdraw(workspace, "annotator", person(1, workspace))
    batches = read_all(workspace)
    assert [(batch.num_rows, batch.num_withdrawn) for batch in batches] == [(6, 2), (6, 2)]
    assert read_all(workspace) == batches, "the second ingest finds the first"
    holders = files_with(person(1, workspace).encode(), workspace.store)
    assert all(name.startswith(("withdrawals/", "raw/withheld/")) for name in holders), "no table names the person"
    short = built(workspace)
    withdraw(workspace, "annotator", person(1, workspace), revoke=True)
    assert [(batch.num_rows, batch.num_withdrawn) for batch in read_all(workspace)] == [(8, 0), (8, 0)]
    assert sum(built(workspace).num_pairs.values()) == sum(short.num_pairs.values()) + 4


# --- lineage and purge ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("shards")
def test_a_purge_deletes_every_copy_and_keeps_the_other_rows(workspace: Workspace) -> None:
    read_all(workspace)
    before, store = built(workspace), workspace.store
    reports = accepted_reports(workspace)
    write_report(before, reports, workspace)
    replay_all(workspace)
    victim = rows_of(before)[0]
    gone = {row["pair_id"] for row in rows_of(before) if row["annotator_id"] == victim["annotator_id"]}
    image, who = victim["image_chosen"], victim["annotator_id"].encode()
    withdraw(workspace, "annotator", victim["annotator_id"])
    after = built(workspace)
    plan = plan_purge(workspace, [workspace.project.name])
    assert {item.kind for item in plan.items} == {"raw batch", "validated batch", "snapshot", "data report"}
    assert len([item for item in plan.items if item.kind == "raw batch"]) == 2
    assert set(plan.pair_ids) == {before.content_digest}
    assert set(plan.pair_ids[before.content_digest]) == gone
    assert files_with(image, store)

    purge(plan, [workspace], by="ada")
    assert files_with(image, store) == []
    assert {name.partition("/")[0] for name in files_with(who, store)} <= {"withdrawals", "raw"}
    assert all("/withheld/" in name or name.startswith("withdrawals") for name in files_with(who, store))
    assert built(workspace).content_digest == after.content_digest, "the other rows stay in use"
    assert rows_of(built(workspace)) == rows_of(after)
    assert [batch.num_withdrawn for batch in read_all(workspace)] == [2, 2], "the source still has them"
    assert built(workspace).content_digest == after.content_digest
    assert plan_purge(workspace, [workspace.project.name]).items == ()
    assert purged_with([victim["pair_id"]], workspace) == {before.content_digest}
    assert splits_with({victim["pair_id"]}, before.uri, workspace) == ()

    withdraw(workspace, "annotator", victim["annotator_id"], revoke=True)
    read_all(workspace)
    assert built(workspace).content_digest == before.content_digest, "the source gave them back"


@pytest.mark.usefixtures("shards")
def test_an_interrupted_purge_is_finished_by_the_next(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    read_all(workspace)
    victim = rows_of(built(workspace))[0]
    withdraw(workspace, "annotator", victim["annotator_id"])
    plan = plan_purge(workspace, [workspace.project.name])
    deleted, delete = [], Store.delete

    def stop_after_three(store: Store, uri: str) -> None:
        if len(deleted) == 3:
            raise KeyboardInterrupt
        deleted.append(uri)
        delete(store, uri)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "delete", stop_after_three)
        with pytest.raises(KeyboardInterrupt):
            purge(plan, [workspace], by="ada")
    again = plan_purge(workspace, [workspace.project.name])
    purge(again, [workspace], by="ada")
    assert files_with(victim["image_chosen"], workspace.store) == []
    assert unfinished_purges(workspace.store) == []
    assert sum(built(workspace).num_pairs.values()) == 11
    assert plan_purge(workspace, [workspace.project.name]).items == ()


@pytest.mark.usefixtures("shards")
def test_a_purge_frees_the_entries_of_a_project_without_a_file(workspace: Workspace) -> None:
    other = Workspace(workspace.project.model_copy(update={"name": "other"}), workspace.settings)
    read_all(workspace)
    read_all(other)
    withdraw(workspace, "annotator", person(0, workspace))
    plan = plan_purge(workspace, [workspace.project.name])
    assert plan.other_projects == ("other",)
    purge(plan, [workspace], by="ada")
    assert sum(built(workspace).num_pairs.values()) == 11
    assert accepted_reports(other) == []
    read_all(other)
    assert sum(built(other).num_pairs.values()) == 11


@pytest.mark.usefixtures("shards")
def test_what_jobs_made_of_a_snapshot_is_purged_with_it(workspace: Workspace, tmp_path: Path) -> None:
    read_all(workspace)
    snapshot, store = built(workspace), workspace.store
    out = tmp_path / "out"
    out.mkdir()
    uris = [store.uri("features", name) for name in ("1" * 64, f"{'2' * 64}.g1", "3" * 64)]
    for uri, digest in zip(uris, (snapshot.content_digest, snapshot.content_digest, "f" * 64), strict=True):
        (out / "index.json").write_text(json.dumps({"spec": {"snapshot_digest": digest}}))
        store.publish_folder(out, uri, {})
    labelled = store.uri("snapshots", f"{'4' * 64}.g2")
    store.fetch_folder(snapshot.uri, tmp_path / "labelled")
    (tmp_path / "labelled/manifest.json").unlink()
    store.publish_folder(tmp_path / "labelled", labelled, {})
    withdraw(workspace, "annotator", rows_of(snapshot)[0]["annotator_id"])
    plan = plan_purge(workspace, [workspace.project.name])
    assert {item.uri for item in plan.items if item.kind == "features"} == {*uris[:2]}
    assert {item.uri for item in plan.items if item.kind == "snapshot"} == {snapshot.uri, labelled}
    purge(plan, [workspace], by="ada")
    assert [store.read_manifest(uri) is not None for uri in (*uris, labelled)] == [False, False, True, False]


@pytest.mark.usefixtures("shards")
def test_without_a_withdrawal_nothing_is_purged(workspace: Workspace) -> None:
    read_all(workspace)
    assert plan_purge(workspace, []).items == ()
    assert purge_series(workspace.store).entries() == []
    record_purge(workspace.store, plan_purge(workspace, []), by="ada")
    assert len(unfinished_purges(workspace.store)) == 1


@pytest.mark.usefixtures("shards")
def test_the_lineage_of_a_pair_names_its_splits_and_withdrawals(workspace: Workspace) -> None:
    read_all(workspace)
    snapshot = built(workspace)
    row = rows_of(snapshot)[0]
    names, withdrawals = names_of_pair(row["pair_id"], workspace)
    assert row["pair_id"] in names
    assert withdrawals == set()
    assert splits_with(names, snapshot.uri, workspace) == ("train",)
    withdraw(workspace, "annotator", row["annotator_id"])
    assert names_of_pair(row["pair_id"], workspace)[1] == {f"annotator {row['annotator_id']}"}


def test_reports_are_value_objects_as_before(workspace: Workspace, shards: object) -> None:
    """A field that is zero is not written, so records and digests of the version before stay."""
    (batch, *_) = read_all(workspace)
    assert "num_withdrawn" not in batch.model_dump(mode="json")
    (report, *_) = accepted_reports(workspace)
    assert "num_withdrawn" not in report.model_dump(mode="json")
    assert isinstance(report, ValidationReport)


def test_rows_that_were_accepted_on_replay_stay_in_use_after_a_purge(
    workspace: Workspace, tiny_pairs: Make, tiny_row: Make, tiny_image: Make
) -> None:
    large = tiny_image(500, (100, 40))
    tiny_pairs([*(tiny_row(number, user_id=number % 4) for number in range(8)), tiny_row(8, user_id=2, jpg_0=large)])
    limits = workspace.project.validation.model_copy(update={"max_image_side": 60})
    tight = Workspace(workspace.project.model_copy(update={"validation": limits}), workspace.settings)
    read_all(tight)
    assert [again.num_accepted for again in replay_all(workspace)] == [1]
    assert sum(built(workspace).num_pairs.values()) == 9
    withdraw(workspace, "annotator", person(1, workspace))
    purge(plan_purge(workspace, [workspace.project.name]), [tight], by="ada")
    assert sum(built(workspace).num_pairs.values()) == 6, "the row of the replay breaks the limit that holds now"
    purge(plan_purge(workspace, [workspace.project.name]), [workspace], by="ada")
    withdraw(workspace, "annotator", person(0, workspace))
    purge(plan_purge(workspace, [workspace.project.name]), [workspace], by="ada")
    assert sum(built(workspace).num_pairs.values()) == 5, "validated again under wider limits, it is accepted"
