"""Every rule fires on the rows made for it and on no other, through ingest and Great Expectations."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hostile_images import jpeg_with_scans

from pipelines.contracts.pairs import RawBatch, ValidationReport
from pipelines.intake import validation
from pipelines.intake.ingestion import ingest, list_source_shards
from pipelines.intake.pairs import PAIRS_SCHEMA, QUARANTINE_SCHEMA
from pipelines.intake.rules import columns_present, pair_rules
from pipelines.intake.validation import validate
from pipelines.project.file import Project
from pipelines.project.sections import ValidationSection
from pipelines.settings import Settings
from pipelines.store.storage import hash_folder, open_store
from pipelines.workspace import Workspace

Make = Callable[..., Any]

pytestmark = pytest.mark.timeout(180)


def validate_rows(rows: list[Any], project: Project, settings: Settings, tiny_pairs: Make) -> ValidationReport:
    tiny_pairs(rows)
    (shard,) = list_source_shards(Workspace(project, settings))
    return validate(ingest(shard, Workspace(project, settings)), Workspace(project, settings))


def table(report: ValidationReport, name: str) -> Any:
    return pq.read_table(Path(report.uri.removeprefix("file://")) / name)


def reasons(report: ValidationReport) -> dict[int, list[str]]:
    return {row["source_row"]: row["reasons"] for row in table(report, "quarantine.parquet").to_pylist()}


def with_limits(project: Project, **limits: Any) -> Project:
    return project.model_copy(update={"validation": project.validation.model_copy(update=limits)})


def test_each_critical_row_rule_fires_on_the_rows_made_for_it_and_on_no_other(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make, tiny_image: Make
) -> None:
    project = with_limits(
        tiny_project, max_quarantined_share=1.0, max_image_bytes=30_000, max_image_pixels=7_000, max_image_side=150
    )
    animation = animated_webp()
    png = tiny_image(900)
    same = {"caption": "said twice", "jpg_0": tiny_image(901), "jpg_1": tiny_image(902), "user_id": 5}
    turned = {**same, "jpg_0": same["jpg_1"], "jpg_1": same["jpg_0"]}
    torn = {"caption": "of two minds", "jpg_0": tiny_image(903), "jpg_1": tiny_image(904), "user_id": 6}
    torn_turned = {**torn, "jpg_0": torn["jpg_1"], "jpg_1": torn["jpg_0"]}
    left, right, tie = [{"label_0": a, "label_1": 1 - a} for a in (1.0, 0.0, 0.5)]
    dirt: list[tuple[dict[str, Any], list[str]]] = [
        ({}, []),
        ({"jpg_0": None}, ["image_decodable"]),
        ({"jpg_1": png[: len(png) // 2]}, ["image_decodable"]),
        ({"jpg_1": b"<html>"}, ["image_decodable"]),
        ({"jpg_0": animation}, ["image_single_frame"]),
        ({"jpg_0": jpeg_with_scans(150)}, ["decode_too_slow"]),
        ({"jpg_0": tiny_image(1, (40, 40), "GIF")}, ["image_format"]),
        ({"jpg_1": tiny_image(2, (40, 40), "BMP")}, ["image_format"]),
        ({"jpg_0": bytes(30_001)}, ["image_bytes"]),
        ({"jpg_0": tiny_image(3, (100, 71))}, ["image_pixels"]),
        ({"jpg_0": tiny_image(4, (151, 40))}, ["image_longest_side"]),
        ({"jpg_1": tiny_image(5, (40, 31))}, ["image_shortest_side"]),
        ({"caption": None}, ["prompt_length"]),
        ({"caption": " \n "}, ["prompt_length"]),
        ({"caption": "x" * 10_001}, ["prompt_length"]),
        ({"caption": "x" * 10_000}, []),
        ({"caption": "two\nlines\tand more"}, []),
        ({"caption": "\u200b\u2060\ufe0f"}, ["prompt_visible"]),
        ({"caption": "bell \x07"}, ["prompt_characters"]),
        ({"caption": "turned \u202e round"}, ["prompt_characters"]),
        ({"caption": "a held out PROMPT - please"}, ["prompt_held_out"]),
        ({"has_label": False}, ["labelled"]),
        ({"has_label": None, "label_0": None, "label_1": None}, ["labelled"]),
        ({"label_0": 1.0, "label_1": 1.0}, ["labels_legal"]),
        ({"label_0": 0.7, "label_1": 0.3}, ["labels_legal"]),
        ({"label_0": math.nan, "label_1": 0.5}, ["labels_legal"]),
        ({"label_0": None, "label_1": None}, ["labels_legal"]),
        ({"jpg_0": png, "jpg_1": png, **left}, ["identical_images"]),
        ({"jpg_0": png, "jpg_1": png, **tie}, []),
        ({**same, **left}, []),
        ({**same, **left}, ["duplicate_pair"]),
        ({**turned, **right}, ["duplicate_pair"]),
        ({**same, "user_id": 55, **right}, []),
        ({**torn, **left}, ["contradictory_labels"]),
        ({**torn, **right}, ["duplicate_pair", "contradictory_labels"]),
        ({**torn_turned, **right}, ["duplicate_pair", "contradictory_labels"]),
        ({**torn, "user_id": 66, **left}, []),
        ({**torn_turned, "user_id": 66, **right}, ["duplicate_pair"]),
        (
            {"caption": "", "jpg_0": b"junk", "jpg_1": tiny_image(6, (10, 10)), "label_0": 9.0},
            ["image_decodable", "image_shortest_side", "prompt_length", "labels_legal"],
        ),
    ]
    rows = [tiny_row(number, **changes) for number, (changes, _) in enumerate(dirt)]
    report = validate_rows(rows, project, settings, tiny_pairs)

    assert reasons(report) == {row: why for row, (_, why) in enumerate(dirt) if why}
    accepted = table(report, "accepted.parquet")
    assert accepted.column("source_row").to_pylist() == [row for row, (_, why) in enumerate(dirt) if not why]
    assert accepted.schema == PAIRS_SCHEMA
    assert (report.num_rows, report.num_accepted, report.num_quarantined) == (
        len(dirt),
        accepted.num_rows,
        len(reasons(report)),
    )
    assert report.num_duplicates == sum(why == ["duplicate_pair"] for _, why in dirt)
    failed = {rule.rule: rule.failed for rule in report.rules}
    assert failed == {rule.rule: sum(rule.rule in why for _, why in dirt) for rule in report.rules}
    assert {rule.rule: rule.example_rows for rule in report.rules}["prompt_length"] == (12, 13, 14, 38)


@pytest.mark.parametrize(
    ("broken", "found"),
    [
        ([], validation.ACCEPTED),
        (["duplicate_pair"], validation.DUPLICATE),
        (["prompt_length"], validation.QUARANTINED),
        (["duplicate_pair", "contradictory_labels"], validation.QUARANTINED),
    ],
)
def test_every_row_has_one_outcome(broken: list[str], found: str) -> None:
    assert validation.outcome(broken) == found


def test_the_verdict_names_each_outcome(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    rows = [tiny_row(n) for n in range(8)] + [tiny_row(0), tiny_row(0), tiny_row(9, caption="")]
    report = validate_rows(rows, with_limits(tiny_project, max_quarantined_share=0.5), settings, tiny_pairs)
    assert (report.num_rows, report.num_accepted, report.num_quarantined, report.num_duplicates) == (11, 8, 3, 2)
    verdict = "8 of 11 rows accepted; 1 broke a rule and is in quarantine; 2 only repeat another row."
    assert verdict in caplog.text


def test_a_lost_row_is_noticed(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = validation.read_batches
    monkeypatch.setattr(validation, "read_batches", lambda path: (batch.slice(1) for batch in every(path)))
    with pytest.raises(AssertionError, match="of 3 rows"):
        validate_rows([tiny_row(n) for n in range(3)], tiny_project, settings, tiny_pairs)


def animated_webp() -> bytes:
    from io import BytesIO

    from PIL import Image

    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    stream = BytesIO()
    frames[0].save(stream, "WEBP", save_all=True, append_images=frames[1:])
    return stream.getvalue()


def test_every_rule_is_named_after_its_function_and_reported(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make
) -> None:
    report = validate_rows([tiny_row(0)], tiny_project, settings, tiny_pairs)
    rules = [columns_present([]), *pair_rules(ValidationSection())]
    assert [(r.rule, r.severity) for r in report.rules] == [(rule.name, rule.severity) for rule in rules]
    assert report.passed
    assert all(rule.failed == 0 for rule in report.rules)
    assert all(rule.checked == 1 for rule in report.rules)


def test_warnings_report_and_quarantine_nothing(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make
) -> None:
    lefty = [tiny_row(2 * n + 1, user_id=1) for n in range(20)]  # odd numbers prefer image 0
    # A flood of both labels; nineteen of one side; ties only; many rows without an annotator.
    flood = [tiny_row(n, user_id=2) for n in range(100, 190)]
    few = [tiny_row(2 * n, user_id=3) for n in range(100, 119)]
    ties = [tiny_row(n, user_id=4, label_0=0.5, label_1=0.5) for n in range(300, 325)]
    report = validate_rows([*lefty, *flood, *few, *ties], tiny_project, settings, tiny_pairs)

    found = {rule.rule: rule for rule in report.rules}
    assert (found["annotator_one_sided"].failed, found["annotator_one_sided"].severity) == (20, "warning")
    assert found["annotator_one_sided"].example_rows == (0, 1, 2, 3, 4)
    assert found["annotator_flood"].failed == 90
    assert report.passed
    assert report.num_quarantined == 0


def test_rows_of_an_annotator_who_gives_most_labels_are_set_aside_and_the_others_pass(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make, caplog: pytest.LogCaptureFixture
) -> None:
    flood = [tiny_row(n, user_id=9) for n in range(40)]
    rest = [tiny_row(100 + 10 * who + n, user_id=who) for who in range(4) for n in range(6)]
    with caplog.at_level("WARNING"):
        report = validate_rows([*flood, *rest], tiny_project, settings, tiny_pairs)
    assert report.passed
    assert (report.num_accepted, report.num_quarantined) == (24, 40)
    assert set(map(tuple, reasons(report).values())) == {("annotator_dominates",)}
    assert "40 rows break annotator_dominates" in caplog.text

    section = tiny_project.validation.model_copy(update={"annotator_severity": "warn"})
    lenient = tiny_project.model_copy(update={"validation": section})
    assert validate_rows([*flood, *rest], lenient, settings, tiny_pairs).num_accepted == 64


def test_unnamed_annotators_are_no_flood(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make
) -> None:
    rows = [tiny_row(2 * n, user_id=None) for n in range(25)]
    report = validate_rows(rows, tiny_project, settings, tiny_pairs)
    assert sum(rule.failed for rule in report.rules) == 0


def test_a_source_without_licence_loses_every_row(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make
) -> None:
    source = tiny_project.sources[0].model_copy(update={"licence": "  "})
    project = tiny_project.model_copy(update={"sources": (source,)})
    report = validate_rows([tiny_row(0), tiny_row(1)], project, settings, tiny_pairs)
    assert reasons(report) == {0: ["licence_present"], 1: ["licence_present"]}
    assert not report.passed


def test_too_much_quarantine_fails_the_batch_and_unlabelled_rows_do_not_count(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make
) -> None:
    rows = [tiny_row(n) for n in range(8)] + [tiny_row(n, has_label=False) for n in range(10, 20)]
    two_bad = [tiny_row(20, jpg_0=b"junk"), tiny_row(21, caption="", jpg_0=b"junk")]
    report = validate_rows([*rows, *two_bad], tiny_project, settings, tiny_pairs)
    assert (report.passed, report.failure, report.num_quarantined) == (True, "", 12)

    report = validate_rows([*rows[1:], *two_bad], tiny_project, settings, tiny_pairs)
    assert not report.passed
    assert report.failure == (
        "2 of 9 labelled rows (22.2%) are bad, more than max_quarantined_share = 0.2; most often"
        " image_decodable (2), prompt_length (1)."
    )


def test_an_empty_shard_fails(tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make) -> None:
    path = tiny_pairs([tiny_row(0)])
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    (shard,) = list_source_shards(Workspace(tiny_project, settings))
    report = validate(ingest(shard, Workspace(tiny_project, settings)), Workspace(tiny_project, settings))
    assert not report.passed
    assert report.failure == "rows_present failed: found 0."


def test_a_batch_with_other_columns_fails_before_its_rows_are_judged(
    tiny_project: Project, settings: Settings, tmp_path: Path, tiny_pairs: Make, tiny_row: Make
) -> None:
    tiny_pairs([tiny_row(0)])
    (shard,) = list_source_shards(Workspace(tiny_project, settings))
    good = ingest(shard, Workspace(tiny_project, settings))
    store = open_store(settings.store_uri)
    pairs = pq.read_table(store.local_path(f"{good.uri}/pairs.parquet", tmp_path))
    (tmp_path / "out").mkdir()
    pq.write_table(pairs.drop_columns(["prompt"]), tmp_path / "out" / "pairs.parquet")
    batch = good.model_copy(update={"uri": store.uri("raw/other"), "content_digest": hash_folder(tmp_path / "out")[0]})
    store.publish_folder(tmp_path / "out", batch.uri, batch.model_dump(mode="json"))

    report = validate(batch, Workspace(tiny_project, settings))
    assert not report.passed
    assert report.failure == "columns_present failed: missing or of another type: prompt: string."
    assert (report.num_accepted, [rule.rule for rule in report.rules]) == (0, ["columns_present"])
    assert table(report, "accepted.parquet").num_rows == 0


def test_quarantine_names_where_each_row_came_from(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make
) -> None:
    rows = [tiny_row(n) for n in range(9)] + [tiny_row(9, caption="")]
    report = validate_rows(rows, tiny_project, settings, tiny_pairs)
    quarantine = table(report, "quarantine.parquet")
    assert quarantine.schema == QUARANTINE_SCHEMA
    assert quarantine.column_names[:4] == ["source_file", "source_row", "pair_id", "reasons"]
    (row,) = quarantine.to_pylist()
    assert (row["source_file"], row["source_row"], row["reasons"]) == ("part-0.parquet", 9, ["prompt_length"])
    assert row["image_0"] == rows[9]["jpg_0"]


def test_the_same_batch_under_the_same_rules_returns_the_first_report(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = validate_rows([tiny_row(0)], tiny_project, settings, tiny_pairs)
    loose = validate_rows([tiny_row(0)], with_limits(tiny_project, max_prompt_chars=5000), settings, tiny_pairs)
    monkeypatch.setattr(validation, "judge", None)
    assert validate_rows([tiny_row(0)], tiny_project, settings, tiny_pairs) == first
    assert loose.uri != first.uri


def test_two_stores_give_the_same_bytes_data_docs_included(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make, tmp_path: Path
) -> None:
    rows = [tiny_row(n) for n in range(5)] + [tiny_row(5, caption="")]
    other = settings.model_copy(update={"store_uri": (tmp_path / "other store").as_uri()})
    digests = {validate_rows(rows, tiny_project, each, tiny_pairs).content_digest for each in (settings, other)}
    assert len(digests) == 1


def test_data_docs_contain_no_prompt_no_person_and_no_link(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make
) -> None:
    rows = [tiny_row(n, caption=f"secretword{n} \x07", user_id=77) for n in range(30)]
    report = validate_rows(rows, with_limits(tiny_project, max_quarantined_share=0.5), settings, tiny_pairs)
    page = (Path(report.uri.removeprefix("file://")) / "data_docs" / "index.html").read_text()
    people = set(table(report, "quarantine.parquet").column("annotator_id").to_pylist())
    assert "secretword" not in page
    assert "secretword" not in report.model_dump_json()
    assert not any(person in page for person in people)
    assert "http" not in page
    assert "<script" not in page
    assert "Control characters in the prompt" in page
    assert "tiny_pairs: part-0.parquet" in page
    assert "30 of 30 labelled rows (100.0%) are bad" in page


def test_a_damaged_batch_is_named(tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make) -> None:
    tiny_pairs([tiny_row(0)])
    (shard,) = list_source_shards(Workspace(tiny_project, settings))
    batch = ingest(shard, Workspace(tiny_project, settings))
    open_store(settings.store_uri).write_bytes(f"{batch.uri}/pairs.parquet", b"PAR1")
    with pytest.raises(ValueError, match=r"pairs\.parquet was changed or damaged"):
        validate(batch, Workspace(tiny_project, settings))
    gone = batch.model_copy(update={"uri": f"{batch.uri}0"})
    with pytest.raises(ValueError, match="is not finished"):
        validate(gone, Workspace(tiny_project, settings))


def test_an_image_skipped_under_an_old_limit_does_not_pass_under_a_new_one(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make
) -> None:
    tight = with_limits(tiny_project, max_image_side=39, max_quarantined_share=1.0)
    tiny_pairs([tiny_row(0)])
    (shard,) = list_source_shards(Workspace(tight, settings))
    batch: RawBatch = ingest(shard, Workspace(tight, settings))
    assert reasons(validate(batch, Workspace(tight, settings))) == {0: ["image_longest_side"]}
    loose = with_limits(tiny_project, max_quarantined_share=1.0)
    assert reasons(validate(batch, Workspace(loose, settings))) == {0: ["image_decodable"]}


def test_a_batch_of_people_who_prefer_one_side_fails(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make
) -> None:
    rows = [tiny_row(n, label_0=float(n % 10 < 8), label_1=float(n % 10 >= 8)) for n in range(150)]
    report = validate_rows(rows, tiny_project, settings, tiny_pairs)
    found = {rule.rule: rule for rule in report.rules}["position_bias"]
    assert (found.failed, found.severity, report.passed) == (1, "critical", False)
    tolerant = with_limits(tiny_project, max_position_bias=0.4)
    assert validate_rows(rows, tolerant, settings, tiny_pairs).passed
