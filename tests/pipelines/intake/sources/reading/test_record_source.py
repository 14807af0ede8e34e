"""Records become pairs: none is lost, whatever a kind makes of them."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from pipelines.contracts.pairs import SourceFacts
from pipelines.intake.sources.interface import OpenShard
from pipelines.intake.sources.reading import record_source
from pipelines.intake.sources.reading.record_source import Pair, RecordSource
from pipelines.intake.sources.reading.votes import Vote
from pipelines.project.sections import SourceSection
from pipelines.settings import Settings
from pipelines.store.storage import open_store


class Repeated(RecordSource):
    """Makes as many pairs of a record as it says."""

    what = "a file of numbers"

    def layouts(self, source: SourceSection) -> tuple[tuple[str, ...], ...]:
        return (("n", "prompt"),)

    def pairs(self, record: dict[str, Any], source: SourceSection) -> Iterable[Pair]:
        return [Pair(record["prompt"], None, None, Vote(0.25, 4))] * int(record["n"])


def rows_of(path: Path, settings: Settings, rows: int) -> list[dict[str, Any]]:
    source = SourceSection(name="s", kind="table", uri=str(path), licence="x")
    store = open_store(settings.store_uri)
    (shard,) = Repeated().list_shards(source, store)
    batches = list(Repeated().read_shard(OpenShard(shard, path.name, source, store, path.parent), rows))
    assert all(batch.num_rows == rows for batch in batches[:-1])
    return [row for batch in batches for row in batch.to_pylist()]


def test_a_record_without_pairs_is_a_row_without_images(tmp_path: Path, settings: Settings) -> None:
    path = tmp_path / "a.jsonl"
    records = [{"n": n, "prompt": prompt} for n, prompt in ((2, "a"), (0, "b"), (3, "\ud800"), (1, 7), (1, ["x"]))]
    path.write_text("\n".join(map(json.dumps, records)))
    found = rows_of(path, settings, 3)
    assert [row["source_row"] for row in found] == [0, 0, 1, 2, 2, 2, 3, 4]
    assert [row["prompt"] for row in found] == ["a", "a", "b", None, None, None, "7", None]
    assert (found[0]["label_0"], found[0]["label_1"], found[0]["num_votes"]) == (0.25, 0.75, 4)
    assert (found[2]["has_label"], found[2]["label_0"], found[2]["weight"]) == (False, None, 1.0)
    assert math.isnan(found[2]["preference"])


def test_rows_are_estimated_from_some_shards(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abcd":
        (tmp_path / f"{name}.jsonl").write_text('{"n": 1, "prompt": "x"}\n' * 5)
    source = SourceSection(name="s", kind="table", uri=str(tmp_path), licence="x")
    monkeypatch.setattr(record_source, "INSPECTED_SHARDS", 2)
    found = Repeated().inspect(source, open_store(settings.store_uri))
    assert found == SourceFacts(num_shards=4, num_rows=20, is_estimate=True)
