"""Facts and identity of rows, and the size of the groups in which they are made."""

from collections.abc import Sequence
from concurrent.futures import Future
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipelines.intake import fact_columns
from pipelines.intake.decoding.pool import EncodedImage, PendingFacts
from pipelines.intake.fact_columns import with_facts
from pipelines.intake.image_facts import DecodingLimits, ImageFacts, image_facts
from pipelines.intake.pairs import FACT_FIELDS, PAIRS_SCHEMA, pair_id, pairs_schema
from pipelines.project.sections import ValidationSection


class HerePool:
    """Decodes in this process and remembers what it was given."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    def submit(self, images: Sequence[EncodedImage], limits: DecodingLimits) -> list[PendingFacts]:
        self.seen += [bytes(image.data) for image in images]
        answer: Future[list[ImageFacts]] = Future()
        answer.set_result([image_facts(bytes(image.data), limits) for image in images])
        return [PendingFacts(answer, place) for place in range(len(images))]


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> HerePool:
    own = HerePool()
    monkeypatch.setattr(fact_columns, "shared_pool", lambda: own)
    return own


def picture(seed: int) -> bytes:
    stream = BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def rows(numbers: range, **changes: Any) -> pa.RecordBatch:
    """Rows of a source in our columns, without facts."""
    own = [
        {
            **{"prompt": f"prompt {n}", "annotator_id": "x", "image_0": picture(n), "image_1": picture(1000 + n)},
            **{"preference": 1.0, "source_row": n, **changes},
        }
        for n in numbers
    ]
    computed = {"pair_id", *(f"{name}_{side}" for name in FACT_FIELDS for side in (0, 1))}
    schema = pa.schema([field for field in PAIRS_SCHEMA if field.name not in computed])
    return pa.RecordBatch.from_pylist(own, schema=schema)


def test_facts_and_identity_are_added_and_rows_stay_in_order(pool: HerePool) -> None:
    batches = [rows(range(0, 3)), rows(range(3, 5)), rows(range(5, 6), image_1=None)]
    (found,) = with_facts(batches, ValidationSection())
    assert found.schema == PAIRS_SCHEMA
    table = found.to_pylist()
    assert [row["source_row"] for row in table] == list(range(6))
    for row in table:
        assert (row["width_0"], row["height_0"], row["converted_0"]) == (36, 40, False)
        assert row["pair_id"] == pair_id(row["sha256_0"], row["sha256_1"], prompt=row["prompt"], annotator_id="x")
    assert [row["problem_1"] for row in table] == [""] * 5 + ["no_bytes"]


def test_a_distinct_image_is_decoded_once(pool: HerePool) -> None:
    found = list(with_facts([rows(range(20), image_0=picture(7)), rows(range(20))], ValidationSection()))
    assert sum(batch.num_rows for batch in found) == 40
    assert len(pool.seen) == len(set(pool.seen)) == 40


def test_few_facts_are_remembered(pool: HerePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fact_columns, "_KNOWN_IMAGES", 5)
    monkeypatch.setattr(fact_columns, "ROWS_TOGETHER", 2)
    (first, *_, last) = list(with_facts([rows(range(n, n + 2)) for n in (0, 2, 4, 0)], ValidationSection()))
    assert first.column("pair_id").to_pylist() == last.column("pair_id").to_pylist()
    assert len(pool.seen) == 16


def test_groups_of_rows_are_bounded_in_rows_and_bytes(pool: HerePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fact_columns, "ROWS_TOGETHER", 4)
    batches = [rows(range(n, n + 2)) for n in range(0, 10, 2)]
    assert [batch.num_rows for batch in with_facts(batches, ValidationSection())] == [4, 4, 2]
    monkeypatch.setattr(fact_columns, "BYTES_TOGETHER", 1)
    assert [batch.num_rows for batch in with_facts(batches, ValidationSection())] == [2] * 5
    assert list(with_facts([], ValidationSection())) == []
    (empty,) = with_facts([rows(range(0))], ValidationSection())
    assert (empty.num_rows, empty.schema) == (0, PAIRS_SCHEMA)


def test_of_a_single_image_only_this_one_is_decoded(pool: HerePool) -> None:
    plain = rows(range(3), image_1=None)
    batch = plain.append_column("kind", pa.array(["unpaired"] * 3))
    (found,) = with_facts([batch], ValidationSection())
    assert found.schema == pairs_schema(["kind"])
    assert len(pool.seen) == 3
    for row in found.to_pylist():
        assert (row["width_0"], row["problem_0"]) == (36, "")
        assert all(row[f"{name}_1"] is None for name in FACT_FIELDS)
        assert row["pair_id"] == pair_id(row["sha256_0"], None, prompt=row["prompt"], annotator_id="x")
