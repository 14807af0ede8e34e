"""Likes and dislikes of single images from their source to the snapshot, its reports, and out of it again."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alignment.contracts.data import SPLITS, DatasetSnapshot
from pipelines.commands import cli
from pipelines.contracts.data_report import DataReport, SnapshotRecord, UnpairedDiff
from pipelines.contracts.pairs import ValidationReport
from pipelines.contracts.withdrawals import Withdrawal
from pipelines.intake.accepted import accepted_reports
from pipelines.intake.ingestion import ingest, list_source_shards, note_shards
from pipelines.intake.lineage import names_of_pair, splits_with
from pipelines.intake.pairs import PAIRS_SCHEMA
from pipelines.intake.purge import plan_purge, purge
from pipelines.intake.quarantine import list_shards, replay
from pipelines.intake.report.rows import BOTH_WAYS, COPY, HELD_OUT
from pipelines.intake.report.write import write_report
from pipelines.intake.snapshot import build_snapshot
from pipelines.intake.snapshot_diff import diff_snapshots
from pipelines.intake.unpaired import UNPAIRED_FILE, UNPAIRED_TABLE_SCHEMA
from pipelines.intake.validation import validate
from pipelines.project.file import Project
from pipelines.project.sections import SourceSection
from pipelines.records.withdrawals import record_withdrawal
from pipelines.settings import Settings
from pipelines.store.storage import hash_folder, sha256_file
from pipelines.workspace import Workspace

Make = Callable[..., Any]
Row = dict[str, Any]

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def like(tiny_image: Make) -> Make:
    """Return a row of likes: other numbers give other images, prompts and people."""

    def make(number: int, **changes: Any) -> Row:
        row = {"prompt": f"single {number}", "image": tiny_image(9000 + number), "liked": str(number % 2)}
        return {**row, "annotator": f"user {number % 3}", **changes}

    return make


@pytest.fixture
def workspace(tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make) -> Workspace:
    """A project with eight pairs and a source of likes, whose folder is still empty."""
    tiny_pairs([tiny_row(number) for number in range(8)])
    likes = SourceSection(name="likes", kind="likes", uri=str(tiny_project.path.parent / "likes"), licence="CC-BY-4.0")
    validation = tiny_project.validation.model_copy(update={"max_quarantined_share": 1.0})
    changes = {"sources": (*tiny_project.sources, likes), "validation": validation}
    return Workspace(tiny_project.model_copy(update=changes), settings)


def write(workspace: Workspace, rows: Sequence[Row], name: str = "likes.parquet") -> None:
    folder = Path(workspace.project.sources[1].uri)
    folder.mkdir(exist_ok=True)
    schema = pa.schema([(column, pa.binary() if column == "image" else pa.string()) for column in rows[0]])
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), folder / name)


def read(workspace: Workspace) -> list[ValidationReport]:
    found = list_source_shards(workspace)
    note_shards(found, workspace)
    return [validate(ingest(shard, workspace), workspace) for shard in found]


def built(workspace: Workspace) -> DatasetSnapshot:
    return build_snapshot(accepted_reports(workspace), workspace)


def without_likes(workspace: Workspace) -> Workspace:
    project = workspace.project
    return Workspace(project.model_copy(update={"sources": project.sources[:1]}), workspace.settings)


def local(uri: str) -> Path:
    return Path(uri.removeprefix("file://"))


def single(snapshot: DatasetSnapshot) -> list[Row]:
    return pq.read_table(local(snapshot.uri) / UNPAIRED_FILE).to_pylist()


def total(snapshot: DatasetSnapshot) -> int:
    return sum((snapshot.num_unpaired or {}).values())


def withdraw(workspace: Workspace, kind: Any, value: str, shard: str = "", *, revoke: bool = False) -> None:
    own = Withdrawal(kind=kind, value=value, shard=shard)
    record_withdrawal(workspace.store, own, reason="asked for it", by="ada", is_revoked=revoke)


# --- snapshots ------------------------------------------------------------------------------------------------------


def test_single_images_have_a_separate_table_and_the_pairs_are_as_without_them(
    workspace: Workspace, like: Make
) -> None:
    alone = without_likes(workspace)
    (before,) = read(alone)
    plain = built(alone)
    rows = [like(number) for number in range(30)]
    write(workspace, rows)
    reports = read(workspace)
    snapshot = built(workspace)

    assert reports[0] == before, "the batch of pairs and its report are as they were"
    for split in SPLITS:
        assert sha256_file(local(snapshot.uri) / f"{split}.parquet") == sha256_file(
            local(plain.uri) / f"{split}.parquet"
        )
    same = {"num_pairs", "num_prompts", "num_ties", "sources", "licences", "num_captioned"}
    assert snapshot.model_dump(include=same) == plain.model_dump(include=same)
    assert snapshot.content_digest == hash_folder(local(snapshot.uri))[0] != plain.content_digest

    table = pq.read_table(local(snapshot.uri) / UNPAIRED_FILE)
    assert table.schema == UNPAIRED_TABLE_SCHEMA
    found = {row["prompt"]: row for row in table.to_pylist()}
    assert snapshot.num_unpaired == {split: [*table["split"].to_pylist()].count(split) for split in SPLITS}
    assert all(snapshot.num_unpaired.values()), "every split has some"
    assert {row["kind"] for row in found.values()} == {"unpaired"}
    for row in rows:
        own = found[row["prompt"]]
        assert (own["image"], own["liked"], own["caption"]) == (row["image"], row["liked"] == "1", row["prompt"])
        assert (own["source"], own["licence"], len(own["annotator_id"])) == ("likes", "CC-BY-4.0", 32)
    assert built(workspace) == snapshot


def test_a_project_without_them_has_the_values_and_files_of_before(workspace: Workspace) -> None:
    alone = without_likes(workspace)
    (report,) = read(alone)
    snapshot = built(alone)
    assert "num_unpaired" not in snapshot.model_dump(mode="json")
    assert "is_unpaired" not in report.model_dump(mode="json")
    assert {path.name for path in local(snapshot.uri).glob("*.parquet")} == {f"{split}.parquet" for split in SPLITS}
    assert pq.read_schema(local(report.uri) / "accepted.parquet") == PAIRS_SCHEMA
    record = write_report(snapshot, accepted_reports(alone), alone)
    figures = json.loads(local(record.figures_uri).read_text())["figures"]
    assert "num_unpaired" not in figures
    assert "unpaired" not in figures["counts"]
    assert "npaired" not in local(record.report_uri).read_text()
    assert "unpaired" not in diff_snapshots(record, record, alone, most=1).model_dump(mode="json")


def test_a_prompt_of_both_sorts_is_in_one_split(workspace: Workspace, like: Make, tiny_row: Make) -> None:
    prompts = [" ".join(f"word{number}part{part}" for part in range(12)) for number in range(8)]
    pairs = [tiny_row(number, caption=prompt) for number, prompt in enumerate(prompts)]
    pq.write_table(pa.Table.from_pylist(pairs), Path(workspace.project.sources[0].uri) / "part-0.parquet")
    early = {"created_at": "2001-01-01T00:00:00Z"}
    spelt = [like(number, prompt=prompt.upper(), **early) for number, prompt in enumerate(prompts)]
    near = [like(50 + number, prompt=f"{prompt} today", **early) for number, prompt in enumerate(prompts)]
    write(workspace, [*spelt, *near])
    read(workspace)
    snapshot = built(workspace)
    split_of = {}
    for split in SPLITS:
        table = pq.read_table(local(snapshot.uri) / f"{split}.parquet")
        split_of |= dict.fromkeys(table["prompt"].to_pylist(), split)
    assert len({*split_of.values()}) > 1
    found = single(snapshot)
    assert len(found) == 16
    assert [row["split"] for row in found] == [split_of[row["prompt"].lower().removesuffix(" today")] for row in found]
    alone = built(without_likes(workspace))
    assert alone.num_pairs == snapshot.num_pairs, "older likes move no pair"


def test_a_snapshot_of_single_images_alone_is_refused_with_one_message(
    workspace: Workspace, like: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = workspace.project
    write(workspace, [like(number) for number in range(4)])
    only = Workspace(project.model_copy(update={"sources": project.sources[1:]}), workspace.settings)
    read(only)
    complaint = "All 4 accepted rows are unpaired: likes and dislikes of single images. No objective can train on these"
    with pytest.raises(ValueError, match=complaint):
        built(only)
    for name, value in (("STORE_URI", workspace.settings.store_uri), ("STATE_DIR", workspace.settings.state_dir)):
        monkeypatch.setenv(f"PLUMBLINE_{name}", str(value))
    text = project.path.read_text().replace(
        '"tiny_pairs"\nkind = "pick_a_pic"\nuri = "pairs"', '"likes"\nkind = "likes"\nuri = "likes"'
    )
    project.path.write_text(text)
    assert cli.main(["snapshot", str(project.path)]) == cli.BAD_INPUT
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count(complaint) == 1


def test_the_command_counts_them_and_names_the_objectives_that_do_not_take_them(
    workspace: Workspace,
    like: Make,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, value in (("STORE_URI", workspace.settings.store_uri), ("STATE_DIR", workspace.settings.state_dir)):
        monkeypatch.setenv(f"PLUMBLINE_{name}", str(value))
    path = workspace.project.path
    write(workspace, [like(number) for number in range(5)])
    assert cli.main(["snapshot", str(path), "--json"]) == cli.DONE
    assert "num_unpaired" not in json.loads(capsys.readouterr().out)
    assert "unpaired" not in caplog.text
    path.write_text(path.read_text() + '[[sources]]\nname = "likes"\nkind = "likes"\nuri = "likes"\nlicence = "x"\n')
    assert cli.main(["snapshot", str(path), "--json"]) == cli.DONE
    assert sum(json.loads(capsys.readouterr().out)["num_unpaired"].values()) == 5
    words = "5 unpaired rows of this snapshot are not used: objective diffusion_dpo does not take likes and dislikes."
    assert caplog.text.count(words) == 1


# --- outcomes -------------------------------------------------------------------------------------------------------


def test_every_row_has_one_outcome_and_the_rules_of_two_images_are_not_run(workspace: Workspace, like: Make) -> None:
    torn = like(20)
    bad: list[tuple[Row, list[str]]] = [
        (like(10, prompt=" "), ["prompt_length"]),
        (like(11, prompt="\u200b\u2800"), ["prompt_visible"]),
        (like(12, prompt="A HELD-OUT prompt, please"), ["prompt_held_out"]),
        (like(13, image=None), ["image_decodable"]),
        (like(14, image=b"\x89PNG and nothing more"), ["image_decodable"]),
        (like(15, liked="7"), ["labels_legal"]),
        (like(16, liked=None), ["labelled"]),
        (torn, ["contradictory_labels"]),
        ({**torn, "liked": "1"}, ["duplicate_pair", "contradictory_labels"]),
        (like(1, prompt="Single  1"), ["duplicate_pair"]),
    ]
    good = [like(number) for number in range(4)]
    good.append(like(1, annotator="somebody else", liked="0"))
    write(workspace, [*good, *(row for row, _ in bad)])
    report = read(workspace)[1]
    assert (report.is_unpaired, report.passed) == (True, True)
    assert (report.num_rows, report.num_accepted, report.num_quarantined, report.num_duplicates) == (15, 5, 10, 1)
    accepted, quarantine = (pq.read_table(local(report.uri) / f"{name}.parquet") for name in ("accepted", "quarantine"))
    assert [sorted(row["reasons"]) for row in quarantine.to_pylist()] == [sorted(reasons) for _, reasons in bad]
    assert accepted["source_row"].to_pylist() == list(range(5))
    assert len({*accepted["pair_id"].to_pylist()}) == 5
    for table in (accepted, quarantine):
        assert {*table["kind"].to_pylist()} == {"unpaired"}
        of_image_1 = [name for name in table.schema.names if name.endswith("_1") and name != "label_1"]
        assert len(of_image_1) == 12
        assert all(table[name].null_count == len(table) for name in of_image_1)
    ran = {result.rule for result in report.rules}
    assert not ran & {"identical_images", "position_bias", "annotator_one_sided", "annotator_prefers_a_side"}
    assert {"image_decodable", "annotator_dominates", "duplicate_pair"} <= ran
    page = (local(report.uri) / "data_docs" / "index.html").read_text()
    assert "The image exists, and decodes to the last pixel." in page
    assert "<td>unpaired</td>" in page
    assert "<td>no image</td>" in page

    again = replay(report, workspace)
    assert (again.is_unpaired, again.num_accepted, again.num_rows) == (True, 0, 9)
    assert {shard.is_replay: shard.num_duplicates for shard in list_shards(workspace) if shard.source == "likes"} == {
        **{False: 1, True: 0}
    }


def test_copies_and_contradictions_across_shards_are_left_out_and_counted(workspace: Workspace, like: Make) -> None:
    torn, copied, held_out = like(1), like(2), like(3, prompt="Prompt NUMBER 5000")
    write(workspace, [torn, copied, like(4), held_out], "a.parquet")
    write(workspace, [{**torn, "liked": "0"}, copied, like(5), like(6, prompt="")], "b.parquet")
    read(workspace)
    prompts = Path(workspace.project.evaluation.prompts)
    prompts.write_text("prompt\tcategory\nPrompt NUMBER 5000\tany\n")
    snapshot = built(workspace)
    assert sorted(row["prompt"] for row in single(snapshot)) == ["single 2", "single 4", "single 5"]
    report = data_report(workspace)
    aside = report.set_aside
    assert aside.left_out == {BOTH_WAYS: 2, COPY: 1, HELD_OUT: 1}
    assert (aside.num_rows, aside.num_in_snapshot, aside.num_quarantined) == (16, 11, 1)
    assert (report.figures.num_pairs, report.figures.num_unpaired) == (8, 3)
    counts = {name: sum(splits.values()) for name, splits in report.figures.counts["unpaired"].items()}
    assert counts == {"likes: disliked": 2, "likes: liked": 1}
    assert {*report.figures.counts["source"]} == {"tiny_pairs"}, "pairs are counted alone"


def record_of(workspace: Workspace) -> SnapshotRecord:
    reports = accepted_reports(workspace)
    return write_report(build_snapshot(reports, workspace), reports, workspace)


def data_report(workspace: Workspace) -> DataReport:
    record = record_of(workspace)
    page = local(record.report_uri).read_text()
    assert "8 pairs and 3 unpaired rows of 16 rows; 5 rows are not in the snapshot" in page
    assert "<b>Unpaired</b>3" in page
    return DataReport.model_validate_json(local(record.figures_uri).read_text())


def test_the_difference_of_two_snapshots_counts_them(workspace: Workspace, like: Make) -> None:
    rows = [like(number) for number in range(6)]
    write(workspace, rows)
    read(workspace)
    before = record_of(workspace)
    write(workspace, [*rows[1:5], {**rows[5], "liked": "0"}, like(7), like(8)])
    read(workspace)
    now = record_of(workspace)
    found = diff_snapshots(before, now, workspace, most=5)
    expected = {"num_before": 6, "num_now": 7, "num_added": 2, "num_left": 1, "num_changed_label": 1}
    assert found.unpaired == UnpairedDiff(**expected, num_changed_split=0)
    assert (found.num_before, found.num_now, found.num_added, found.by_source, found.examples) == (8, 8, 0, {}, ())


# --- withdrawal -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["annotator", "pair", "image", "source", "shard"])
def test_withdrawn_rows_leave_the_next_snapshot_and_come_back(workspace: Workspace, like: Make, kind: str) -> None:
    write(workspace, [like(number) for number in range(6)], "a.parquet")
    write(workspace, [like(number) for number in range(6, 9)], "b.parquet")
    read(workspace)
    before = built(workspace)
    assert total(before) == 9
    victim = next(row for row in single(before) if row["prompt"] == "single 4")
    image = hashlib.sha256(victim["image"]).hexdigest()
    target, left = {
        "annotator": (("annotator", victim["annotator_id"]), 6),
        "pair": (("pair", victim["pair_id"]), 8),
        "image": (("image", image), 8),
        "source": (("source", "likes"), 0),
        "shard": (("source", "likes", "a.parquet"), 3),
    }[kind]
    withdraw(workspace, *target)
    now = built(workspace)
    assert (total(now), now.num_pairs) == (left, before.num_pairs)
    assert (local(now.uri) / UNPAIRED_FILE).exists() == (now.num_unpaired is not None) == bool(left)
    if left:
        assert victim["pair_id"] not in {row["pair_id"] for row in single(now)}
    withdraw(workspace, *target, revoke=True)
    assert built(workspace) == before


def test_a_purge_deletes_them_and_their_lineage_is_known(workspace: Workspace, like: Make) -> None:
    write(workspace, [like(number) for number in range(6)])
    read(workspace)
    before = built(workspace)
    victim = single(before)[0]
    names, _ = names_of_pair(victim["pair_id"], workspace)
    assert splits_with(names, before.uri, workspace) == ("unpaired",)
    withdraw(workspace, "image", hashlib.sha256(victim["image"]).hexdigest())
    after = built(workspace)
    plan = plan_purge(workspace, [workspace.project.name])
    assert Counter(item.kind for item in plan.items) == {"raw batch": 1, "validated batch": 1, "snapshot": 1}
    assert plan.pair_ids == {before.content_digest: (victim["pair_id"],)}
    purge(plan, [workspace], by="ada")
    root = local(workspace.store.root)
    assert not any(victim["image"] in path.read_bytes() for path in root.rglob("*.parquet") if path.is_file())
    assert built(workspace).content_digest == after.content_digest
    assert total(after) == 5
