import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr

from pipelines.contracts.pairs import RawBatch
from pipelines.intake import ingestion
from pipelines.intake.ingestion import ingest, list_source_shards
from pipelines.intake.pairs import PAIRS_SCHEMA, pair_id
from pipelines.project.file import Project
from pipelines.settings import Settings
from pipelines.store.storage import open_store
from pipelines.workspace import Workspace

Make = Callable[..., Any]


def ingest_all(project: Project, settings: Settings) -> list[RawBatch]:
    return [ingest(shard, Workspace(project, settings)) for shard in list_source_shards(Workspace(project, settings))]


def rows_of(batch: RawBatch, settings: Settings) -> list[dict[str, Any]]:
    path = open_store(settings.store_uri).local_path(f"{batch.uri}/pairs.parquet", Path("/nowhere"))
    table = pq.read_table(path)
    assert table.schema == PAIRS_SCHEMA
    return table.to_pylist()


def test_a_shard_becomes_rows_in_our_columns(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make
) -> None:
    given = [tiny_row(number) for number in range(40)]
    tiny_pairs(given, "deep/part 1.parquet")
    (batch,) = ingest_all(tiny_project, settings)
    rows = rows_of(batch, settings)

    assert (batch.source, batch.source_file, batch.num_rows) == ("tiny_pairs", "deep/part 1.parquet", 40)
    assert [row["source_row"] for row in rows] == list(range(40))
    for row, source in zip(rows, given, strict=True):
        assert (row["image_0"], row["image_1"]) == (source["jpg_0"], source["jpg_1"])
        assert row["preference"] == source["label_0"]
        assert (row["licence"], row["source"], row["source_file"]) == ("CC0-1.0", "tiny_pairs", "deep/part 1.parquet")
        assert (row["width_1"], row["height_1"], row["problem_0"], row["format_0"]) == (40, 32, "", "PNG")
        identity = {"prompt": source["caption"], "annotator_id": row["annotator_id"]}
        assert row["pair_id"] == pair_id(row["sha256_0"], row["sha256_1"], **identity)
    assert len({row["pair_id"] for row in rows}) == 40


def test_bad_rows_are_kept_unchanged(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make
) -> None:
    bad = {"jpg_0": None, "jpg_1": b"junk", "caption": None, "label_0": None, "has_label": None, "user_id": None}
    tiny_pairs([tiny_row(0), tiny_row(1, **bad)])
    row = rows_of(ingest_all(tiny_project, settings)[0], settings)[1]
    assert (row["problem_0"], row["problem_1"], row["prompt"], row["annotator_id"]) == (
        "no_bytes",
        "unidentified",
        None,
        "",
    )


def test_annotators_are_keyed_hashes(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make
) -> None:
    tiny_pairs([tiny_row(0, user_id=7), tiny_row(1, user_id=7), tiny_row(2, user_id=8)])
    salts = [settings, settings.model_copy(update={"annotator_salt": SecretStr("another")})]
    batches = [ingest_all(tiny_project, settings)[0] for settings in salts]
    (a, b, c), (other, *_) = ([row["annotator_id"] for row in rows_of(batch, settings)] for batch in batches)
    assert a == b != c
    assert other != a
    assert "7" not in (a, other)


def test_a_shard_ingested_before_returns_the_first_batch_from_any_location(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    path = tiny_pairs([tiny_row(0)])
    (first,) = ingest_all(tiny_project, settings)
    path.parent.rename(tmp_path / "moved")
    source = tiny_project.sources[0].model_copy(update={"uri": str(tmp_path / "moved")})
    moved = tiny_project.model_copy(update={"sources": (source,)})
    monkeypatch.setattr(ingestion, "publish_batch", None)
    assert ingest_all(moved, settings) == [first]


def test_other_limits_or_contents_give_another_batch(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make
) -> None:
    tiny_pairs([tiny_row(0)])
    (first,) = ingest_all(tiny_project, settings)
    limits = tiny_project.validation.model_copy(update={"max_image_side": 39})
    (tight,) = ingest_all(tiny_project.model_copy(update={"validation": limits}), settings)
    tiny_pairs([tiny_row(1)])
    (other,) = ingest_all(tiny_project, settings)
    assert len({first.uri, tight.uri, other.uri}) == 3
    assert rows_of(tight, settings)[0]["problem_0"] == "too_long_side"


def test_without_a_salt_there_is_a_warning(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_pairs([tiny_row(0)])
    with caplog.at_level(logging.WARNING):
        ingest_all(tiny_project, settings.model_copy(update={"annotator_salt": SecretStr("")}))
    assert "PLUMBLINE_ANNOTATOR_SALT is not set" in caplog.text


def test_a_shard_that_vanished_or_was_cut_is_named_and_leaves_nothing(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make
) -> None:
    path = tiny_pairs([tiny_row(number) for number in range(40)])
    (shard,) = list_source_shards(Workspace(tiny_project, settings))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"part-0\.parquet cannot be read as parquet"):
        ingest(shard, Workspace(tiny_project, settings))
    path.unlink()
    with pytest.raises(ValueError, match=r"part-0\.parquet does not exist"):
        ingest(shard, Workspace(tiny_project, settings))
    assert not (settings.state_dir / "scratch").exists() or not list((settings.state_dir / "scratch").iterdir())
    assert open_store(settings.store_uri).list_uris(settings.store_uri) == []


def test_a_store_that_cannot_be_written_is_named(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make, tmp_path: Path
) -> None:
    tiny_pairs([tiny_row(0)])
    (tmp_path / "file").write_text("")
    broken = settings.model_copy(update={"store_uri": (tmp_path / "file").as_uri()})
    with pytest.raises(ValueError, match=r"Store is not writable at file://.*PLUMBLINE_STORE_URI"):
        ingest_all(tiny_project, broken)


def test_an_unknown_source_or_kind_is_named(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make
) -> None:
    tiny_pairs([tiny_row(0)])
    (shard,) = list_source_shards(Workspace(tiny_project, settings))
    with pytest.raises(ValueError, match=r"Unknown source 'tiny_pears'. Did you mean 'tiny_pairs'"):
        ingest(shard.model_copy(update={"source": "tiny_pears"}), Workspace(tiny_project, settings))
    source = tiny_project.sources[0].model_copy(update={"kind": "pickapic"})
    with pytest.raises(ValueError, match="Unknown source kind 'pickapic'"):
        list_source_shards(Workspace(tiny_project.model_copy(update={"sources": (source,)}), settings))
