from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from alignment.contracts.data import SPLITS, DatasetSnapshot
from alignment.data.pairs import TrainingPairs, decoded
from alignment.statistics.normal_text import normal_prompt
from pipelines.contracts.pairs import ValidationReport
from pipelines.intake import snapshot as snapshot_module
from pipelines.intake.accepted import accepted_reports
from pipelines.intake.ingestion import ingest, list_source_shards
from pipelines.intake.snapshot import SNAPSHOT_SCHEMA, _split_of, build_snapshot
from pipelines.intake.soft_labels import LABEL_FIELDS
from pipelines.intake.validation import validate
from pipelines.project.columns import ColumnsSection
from pipelines.project.file import Project
from pipelines.project.sections import SnapshotSection, SourceSection
from pipelines.settings import Settings
from pipelines.store.storage import hash_folder, sha256_file
from pipelines.workspace import Workspace

Make = Callable[..., Any]

pytestmark = pytest.mark.timeout(180)


def reports_of(project: Project, settings: Settings) -> list[ValidationReport]:
    shards = list_source_shards(Workspace(project, settings))
    return [validate(ingest(shard, Workspace(project, settings)), Workspace(project, settings)) for shard in shards]


def splits(snapshot: DatasetSnapshot) -> dict[str, list[dict[str, Any]]]:
    folder = Path(snapshot.uri.removeprefix("file://"))
    tables: dict[str, pa.Table] = {split: pq.read_table(folder / f"{split}.parquet") for split in SPLITS}
    assert all(table.schema == SNAPSHOT_SCHEMA for table in tables.values())
    return {split: table.to_pylist() for split, table in tables.items()}


def all_rows(snapshot: DatasetSnapshot) -> dict[str, dict[str, Any]]:
    return {row["prompt"]: row for rows in splits(snapshot).values() for row in rows}


def training_only(project: Project) -> Project:
    section = SnapshotSection(calibration_share=0, test_share=0)
    return project.model_copy(update={"snapshot": section})


def test_chosen_and_rejected_are_those_of_the_labels(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make
) -> None:
    given = [
        tiny_row(1, caption="left", label_0=1.0, label_1=0.0),
        tiny_row(2, caption="right", label_0=0.0, label_1=1.0),
        tiny_row(3, caption="tie", label_0=0.5, label_1=0.5),
    ]
    given = [{**row, "caption_0": f"zero {row['caption']}", "caption_1": None} for row in given]
    tiny_pairs(given)
    project = training_only(tiny_project)
    snapshot = build_snapshot(reports_of(project, settings), Workspace(project, settings))
    left, right, tie = (all_rows(snapshot)[row["caption"]] for row in given)

    assert (left["image_chosen"], left["image_rejected"]) == (given[0]["jpg_0"], given[0]["jpg_1"])
    assert (right["image_chosen"], right["image_rejected"]) == (given[1]["jpg_1"], given[1]["jpg_0"])
    assert (tie["image_chosen"], tie["image_rejected"]) == (given[2]["jpg_0"], given[2]["jpg_1"])
    assert [row["is_tie"] for row in (left, right, tie)] == [False, False, True]
    assert (left["caption_chosen"], left["caption_rejected"]) == ("zero left", "left")
    assert (right["caption_chosen"], right["caption_rejected"]) == ("right", "zero right")
    assert (left["source"], left["licence"]) == ("tiny_pairs", "CC0-1.0")
    assert snapshot.num_pairs == {"train": 3, "calibration": 0, "test": 0}
    assert (snapshot.num_ties, snapshot.num_prompts, snapshot.num_captioned) == (1, 3, 2)
    assert (snapshot.sources, snapshot.licences) == (("tiny_pairs",), ("CC0-1.0",))


def test_no_prompt_is_in_two_splits_however_it_is_spelt(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make
) -> None:
    spellings: Sequence[Callable[[str], str]] = (str, str.upper, lambda p: f"  {p}!", lambda p: p.replace(" ", ", "))
    rows = [tiny_row(4 * n + k, caption=spell(f"thing {n}")) for n in range(40) for k, spell in enumerate(spellings)]
    tiny_pairs(rows)
    snapshot = build_snapshot(reports_of(tiny_project, settings), Workspace(tiny_project, settings))

    groups = {split: {normal_prompt(row["prompt"]) for row in rows} for split, rows in splits(snapshot).items()}
    assert sum(len(group) for group in groups.values()) == len(set().union(*groups.values())) == 40
    assert all(groups.values())
    assert snapshot.num_prompts == 40
    assert snapshot.num_captioned == 0, "prompts alone are no captions"
    assert snapshot.num_pairs == {split: 4 * len(groups[split]) for split in SPLITS}


def test_new_data_moves_no_prompt_and_the_seed_does(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make
) -> None:
    tiny_pairs([tiny_row(n) for n in range(30)], "a.parquet")
    before = build_snapshot(reports_of(tiny_project, settings), Workspace(tiny_project, settings))
    tiny_pairs([tiny_row(n) for n in range(30, 60)], "b.parquet")
    after = build_snapshot(reports_of(tiny_project, settings), Workspace(tiny_project, settings))
    placed = [{r["prompt"]: split for split, rows in splits(s).items() for r in rows} for s in (before, after)]
    assert placed[0].items() <= placed[1].items()
    assert len(placed[1]) == 60
    assert before.uri != after.uri

    section = tiny_project.snapshot
    other = section.model_copy(update={"seed": 1})
    groups = [f"prompt {n}" for n in range(2000)]
    assert [_split_of(group, section) for group in groups] != [_split_of(group, other) for group in groups]
    share = sum(_split_of(group, section) == "calibration" for group in groups) / len(groups)
    assert share == pytest.approx(section.calibration_share, abs=0.04)


def test_a_pair_in_two_batches_is_used_once_and_not_at_all_where_they_contradict(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make
) -> None:
    project = training_only(tiny_project)
    shown = tiny_row(2, label_0=1.0, label_1=0.0)
    turned = {**shown, "jpg_0": shown["jpg_1"], "jpg_1": shown["jpg_0"]}
    agreeing = {**turned, "label_0": 0.0, "label_1": 1.0}
    torn = tiny_row(3, label_0=1.0, label_1=0.0)
    tiny_pairs([tiny_row(1), shown, torn], "a.parquet")
    tiny_pairs([tiny_row(1), agreeing, {**torn, "label_0": 0.0, "label_1": 1.0}, tiny_row(4)], "b.parquet")
    rows = all_rows(build_snapshot(reports_of(project, settings), Workspace(project, settings)))
    assert sorted(rows) == ["prompt number 1", "prompt number 2", "prompt number 4"]
    assert rows["prompt number 2"]["image_chosen"] == shown["jpg_0"]


def test_prompts_that_are_nearly_the_same_share_a_split_and_near_held_out_ones_do_not_enter(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make
) -> None:
    words = "the portrait of a very old gecko number {} with a train conductor hat"
    styles = ("", " please", " painted")
    rows = [
        tiny_row(3 * n + k, caption=words.format(f"n{n} m{n}") + s) for n in range(20) for k, s in enumerate(styles)
    ]
    tiny_pairs(rows)
    reports = reports_of(tiny_project, settings)
    snapshot = build_snapshot(reports, Workspace(tiny_project, settings))
    found = {split: [row["prompt"] for row in own] for split, own in splits(snapshot).items()}
    numbers = {split: {prompt.split()[8] for prompt in prompts} for split, prompts in found.items()}
    assert all(numbers.values())
    assert sum(map(len, numbers.values())) == 20, "the three prompts of a number are in one split"

    Path(tiny_project.evaluation.prompts).write_text(f"prompt\tcategory\n{words.format('n3 m3')} drawn\tany\n")
    held = build_snapshot(reports, Workspace(tiny_project, settings))
    assert {prompt.split()[8] for prompt in all_rows(held)} == {f"n{n}" for n in range(20) if n != 3}


def test_a_file_with_images_that_readers_convert_states_the_ground(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make
) -> None:
    project = training_only(tiny_project)
    tiny_pairs([tiny_row(1), tiny_row(2)], "a.parquet")
    folder = Path(
        build_snapshot(reports_of(project, settings), Workspace(project, settings)).uri.removeprefix("file://")
    )
    assert pq.read_schema(folder / "train.parquet").metadata is None

    stream = BytesIO()
    Image.new("RGBA", (40, 40), (255, 0, 0, 128)).save(stream, "PNG")
    tiny_pairs([tiny_row(3, jpg_0=stream.getvalue())], "b.parquet")
    validation = project.validation.model_copy(update={"ground": "#0000FF"})
    project = project.model_copy(update={"validation": validation})
    folder = Path(
        build_snapshot(reports_of(project, settings), Workspace(project, settings)).uri.removeprefix("file://")
    )
    pairs = TrainingPairs(folder)
    assert pairs.ground == (0, 0, 255)
    pair = pairs.pair(pairs.prompts.index("prompt number 3"))
    (half_red,) = (own for own in (pair.image_chosen, pair.image_rejected) if own == stream.getvalue())
    assert decoded(half_red, "image", pairs.ground).getpixel((0, 0)) == (128, 0, 127)


def test_rows_are_in_the_order_of_their_shards_whatever_their_facts(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make
) -> None:
    project = training_only(tiny_project)
    for name, first in (("c", 0), ("a", 3), ("b", 6), ("d", 9)):
        tiny_pairs([tiny_row(first + n) for n in range(3)], f"{name}.parquet")
    reports = reports_of(project, settings)
    snapshot = build_snapshot(reports, Workspace(project, settings))
    numbers = [int(row["prompt"].split()[-1]) for row in splits(snapshot)["train"]]
    assert numbers == [3, 4, 5, 6, 7, 8, 0, 1, 2, 9, 10, 11]


def test_prompts_held_out_since_do_not_enter(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make
) -> None:
    project = training_only(tiny_project)
    tiny_pairs([tiny_row(n) for n in range(4)])
    reports = reports_of(project, settings)
    path = Path(project.evaluation.prompts)
    path.write_text("prompt\tcategory\nPrompt number 2?\tany\n")
    snapshot = build_snapshot(reports, Workspace(project, settings))
    assert sorted(all_rows(snapshot)) == ["prompt number 0", "prompt number 1", "prompt number 3"]
    assert snapshot.heldout_prompts_digest == sha256_file(path)


def test_the_same_inputs_give_the_same_bytes_in_any_order_and_the_first_snapshot(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name, rows in (("a", range(40)), ("b", range(40, 80))):
        tiny_pairs([tiny_row(n) for n in rows], f"{name}.parquet")
    reports = reports_of(tiny_project, settings)
    snapshot = build_snapshot(reports, Workspace(tiny_project, settings))
    other = settings.model_copy(update={"store_uri": (tmp_path / "other").as_uri()})
    elsewhere = build_snapshot(reports_of(tiny_project, other)[::-1], Workspace(tiny_project, other))

    assert elsewhere.content_digest == snapshot.content_digest
    assert elsewhere.uri.rsplit("/", 1)[1] == snapshot.uri.rsplit("/", 1)[1]
    assert hash_folder(Path(snapshot.uri.removeprefix("file://")))[0] == snapshot.content_digest
    monkeypatch.setattr(snapshot_module, "_build", None)
    assert build_snapshot(reports[::-1], Workspace(tiny_project, settings)) == snapshot


def test_failed_batches_are_left_out_and_an_empty_snapshot_is_reported(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make
) -> None:
    tiny_pairs([tiny_row(0), tiny_row(1, caption="")])
    (failed,) = reports_of(tiny_project, settings)
    assert not failed.passed
    assert accepted_reports(Workspace(tiny_project, settings)) == []
    with pytest.raises(ValueError, match="No pair is left to train on: 0 accepted batches"):
        build_snapshot([failed], Workspace(tiny_project, settings))


def test_accepted_reports_are_the_newest_of_each_shard_of_the_projects_sources(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make
) -> None:
    assert accepted_reports(Workspace(tiny_project, settings)) == []
    tiny_pairs([tiny_row(0)], "deep/a b.parquet")
    tiny_pairs([tiny_row(1)], "b.parquet")
    first = reports_of(tiny_project, settings)
    assert sorted(r.uri for r in accepted_reports(Workspace(tiny_project, settings))) == sorted(r.uri for r in first)

    tiny_pairs([tiny_row(2)], "b.parquet")
    second = reports_of(tiny_project, settings)
    assert sorted(r.uri for r in accepted_reports(Workspace(tiny_project, settings))) == sorted(r.uri for r in second)
    assert {r.uri for r in first} != {r.uri for r in second}

    tiny_pairs([tiny_row(2, caption="")], "b.parquet")
    reports_of(tiny_project, settings)
    assert len(accepted_reports(Workspace(tiny_project, settings))) == 1
    source = tiny_project.sources[0].model_copy(update={"name": "other"})
    assert accepted_reports(Workspace(tiny_project.model_copy(update={"sources": (source,)}), settings)) == []
    assert accepted_reports(Workspace(tiny_project.model_copy(update={"name": "another"}), settings)) == []


# --- labels -----------------------------------------------------------------------------------------------------------


def voted(project: Project, tiny_image: Make, rows: Sequence[tuple[str, str, float, int]], **policy: Any) -> Project:
    """Return the project with a source of votes: (prompt, annotator, share for image 0, number of votes)."""
    folder = project.path.parent / "votes"
    folder.mkdir(exist_ok=True)
    seeds = {prompt: 5000 + 2 * n for n, prompt in enumerate(dict.fromkeys(prompt for prompt, *_ in rows))}
    table = [
        {"prompt": p, "left": tiny_image(seeds[p]), "right": tiny_image(seeds[p] + 1), "who": w, "share": s, "n": n}
        for p, w, s, n in rows
    ]
    pq.write_table(pa.Table.from_pylist(table), folder / "votes.parquet")
    columns = {"image_0": "left", "image_1": "right", "preference": "share", "num_votes": "n", "annotator": "who"}
    source = SourceSection(
        name="votes", kind="table", uri=str(folder), licence="CC0-1.0", columns=ColumnsSection(**columns)
    )
    section = SnapshotSection(calibration_share=0, test_share=0, **policy)
    return project.model_copy(update={"sources": (source,), "snapshot": section})


def trained(project: Project, settings: Settings) -> tuple[DatasetSnapshot, dict[str, list[dict[str, Any]]]]:
    """Return the snapshot and its rows by prompt."""
    snapshot = build_snapshot(reports_of(project, settings), Workspace(project, settings))
    table = pq.read_table(Path(snapshot.uri.removeprefix("file://")) / "train.parquet")
    assert table.schema == pa.schema([*SNAPSHOT_SCHEMA, *LABEL_FIELDS])
    by_prompt: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        by_prompt.setdefault(row["prompt"], []).append(row)
    return snapshot, by_prompt


VOTES = [
    *(("fox", who, share, 1) for who, share in (("a", 1.0), ("b", 1.0), ("c", 0.0))),
    *(("owl", who, share, 1) for who, share in (("a", 0.0), ("b", 1.0))),
    ("bee", "", 0.2, 10),
]


def test_soft_labels_are_the_share_of_all_votes_on_a_comparison(
    tiny_project: Project, settings: Settings, tiny_image: Make, caplog: pytest.LogCaptureFixture
) -> None:
    snapshot, rows = trained(voted(tiny_project, tiny_image, VOTES, labels="soft"), settings)
    assert {prompt: len(found) for prompt, found in rows.items()} == {"fox": 1, "owl": 1, "bee": 1}
    (fox,), (owl,), (bee,) = rows["fox"], rows["owl"], rows["bee"]
    assert (fox["preference"], fox["num_votes"], fox["is_tie"]) == (pytest.approx(2 / 3), 3, False)
    assert (owl["preference"], owl["num_votes"], owl["is_tie"]) == (0.5, 2, True)
    assert (bee["preference"], bee["num_votes"], bee["image_chosen"]) == (0.8, 10, tiny_image(5005))
    assert (snapshot.num_soft, snapshot.num_ties) == (2, 1)
    assert "2 pairs have a share of votes as label. No objective uses the share yet" in caplog.text


def test_hard_labels_keep_each_annotator_and_the_majority_does_not(
    tiny_project: Project, settings: Settings, tiny_image: Make
) -> None:
    hard, rows = trained(voted(tiny_project, tiny_image, VOTES, label_threshold=0.9), settings)
    assert {prompt: len(found) for prompt, found in rows.items()} == {"fox": 3, "owl": 2, "bee": 1}
    assert [row["is_tie"] for row in rows["bee"]] == [True], "0.8 is less than the threshold"
    assert (hard.num_soft, hard.num_ties) == (0, 1)
    majority, rows = trained(voted(tiny_project, tiny_image, VOTES, labels="majority"), settings)
    assert [(row["preference"], row["num_votes"]) for row in rows["fox"]] == [(1.0, 3)]
    assert [row["is_tie"] for row in rows["owl"]] == [True]
    assert [(row["preference"], row["image_chosen"]) for row in rows["bee"]] == [(1.0, tiny_image(5005))]
    assert len({hard.uri, majority.uri}) == 2


def test_snapshots_without_votes_have_no_columns_of_votes_and_the_digest_of_before(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make
) -> None:
    tiny_pairs([tiny_row(n) for n in range(4)])
    project = training_only(tiny_project)
    snapshot = build_snapshot(reports_of(project, settings), Workspace(project, settings))
    assert splits(snapshot)["train"], "of the schema of before"
    assert "num_soft" not in snapshot.model_dump()
    assert snapshot_module._label_inputs(project) == {}
    assert project.snapshot.model_dump(mode="json", exclude=snapshot_module._NOT_SPLIT) == {
        **{"calibration_share": 0.0, "test_share": 0.0, "seed": 0}
    }
    strict = project.model_copy(update={"snapshot": project.snapshot.model_copy(update={"label_threshold": 0.9})})
    again = build_snapshot(reports_of(strict, settings), Workspace(strict, settings))
    assert again.uri == snapshot.uri, "a threshold without votes changes nothing"
