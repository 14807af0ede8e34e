"""An image is identified by its bytes and its crop."""

import hashlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from alignment.data.distinct_images import Framed, ImageTable, image_table
from alignment.data.pairs import Pair, TrainingPairs


@pytest.fixture
def pairs(tiny_snapshot_dir: Path) -> TrainingPairs:
    return TrainingPairs(tiny_snapshot_dir)


def digests(pairs: TrainingPairs, table: ImageTable) -> list[str]:
    images = [(pairs.pair(index).image_chosen, pairs.pair(index).image_rejected)[side] for index, side in table.first]
    return [hashlib.sha256(image).hexdigest() for image in images]


def test_each_image_is_listed_once_and_pairs_refer_to_their_own(pairs: TrainingPairs) -> None:
    table = image_table(pairs, lambda pair: Framed(0, mirrored=False))
    found = digests(pairs, table)
    assert len(found) == len(set(found)) == len(table)
    assert 24 < len(table) < 48, "some images of the snapshot are in two pairs"
    for index in range(len(pairs)):
        pair, numbers = pairs.pair(index), table.of_pairs_N2[index]
        expected = [hashlib.sha256(image).hexdigest() for image in (pair.image_chosen, pair.image_rejected)]
        assert [found[number] for number in numbers] == expected
    assert table.first == sorted(table.first)


def test_another_crop_is_another_image(pairs: TrainingPairs) -> None:
    def frame(pair: Pair) -> Framed:
        return Framed(int(pair.pair_id, 16) % 2, mirrored=False)

    table = image_table(pairs, frame)
    ids = pq.read_table(pairs.path, columns=["pair_id", "is_tie"]).to_pylist()
    kept = [int(row["pair_id"], 16) % 2 for row in ids if not row["is_tie"]]
    assert table.bucket_N.tolist() == kept
    assert len(table) > len(image_table(pairs, lambda pair: Framed(0, mirrored=False)))
    keys = list(zip(digests(pairs, table), table.framed, strict=True))
    assert len(keys) == len(set(keys))
