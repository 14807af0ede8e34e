"""Splits by file names and folders."""

import pytest

from pipelines.intake.sources.reading.splits import _split_of


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train-00000-of-00646-35ae2bf0a4e1be48.parquet", "train"),
        ("data/validation_unique-00000-of-00001.parquet", "validation_unique"),
        ("train_0001-00000-of-00001.parquet", "train"),
        ("train.json", "train"),
        ("metadata-test.parquet", "test"),
        ("test/part-0.parquet", "test"),
        ("train/test/a.parquet", "test"),
        ("train/part.parquet", "train"),
        ("part-0.parquet", ""),
        ("training-set-of-mine.parquet", ""),
        ("trainers/a.parquet", ""),
        ("deep/a.parquet", ""),
    ],
)
def test_the_split_of_a_file(path: str, split: str) -> None:
    assert _split_of(path) == split
