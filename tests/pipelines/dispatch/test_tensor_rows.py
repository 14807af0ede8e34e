"""Rows of a safetensors object, read by range, are those that the library reads."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pipelines.dispatch import tensor_rows
from pipelines.dispatch.tensor_rows import ShardRows, write_row
from pipelines.store.storage import Store, open_store

NUM_PAIRS = 5


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store((tmp_path / "store").as_uri())


def put(store: Store, tmp_path: Path, tensors: dict[str, np.ndarray]) -> str:
    save_file(tensors, tmp_path / "shard")
    store.write_bytes(store.uri("shard"), (tmp_path / "shard").read_bytes())
    return store.uri("shard")


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


def test_a_row_is_written_as_a_file_of_one_row(store: Store, tmp_path: Path) -> None:
    tensors = {
        "chosen_mean_BCHW": floats(NUM_PAIRS, 4, 3, 2),
        "caption_chosen_B": np.arange(10, 10 + NUM_PAIRS),
        "chosen_image_size": floats(NUM_PAIRS, 2).astype(np.float16),
    }
    shard = ShardRows.open(store, put(store, tmp_path, tensors))
    assert shard.integers(3, "caption_chosen_B", "prompt_B") == [13]
    for row in range(NUM_PAIRS):
        write_row(tmp_path / "row", shard.read_row(row, None))
        found = load_file(tmp_path / "row")
        assert found.keys() == tensors.keys()
        for name, rows in tensors.items():
            np.testing.assert_array_equal(found[name], rows[row : row + 1])
        assert (tmp_path / "row").stat().st_size <= shard.row_bytes(None)


def test_a_pair_of_a_bucket_has_the_tensors_of_its_bucket(store: Store, tmp_path: Path) -> None:
    tensors = {
        "bucket_B": np.array([0, 1, 0, 1, 1]),
        "place_B": np.array([0, 0, 1, 1, 2]),
        "caption_chosen_B": np.arange(NUM_PAIRS),
        "64x64/chosen_mean_BCHW": floats(2, 4, 8, 8),
        "80x48/chosen_mean_BCHW": floats(3, 4, 6, 10),
    }
    shard = ShardRows.open(store, put(store, tmp_path, tensors))
    write_row(tmp_path / "row", shard.read_row(4, "80x48/"))
    found = load_file(tmp_path / "row")
    assert found.keys() == tensors.keys() - {"64x64/chosen_mean_BCHW"}
    np.testing.assert_array_equal(found["80x48/chosen_mean_BCHW"], tensors["80x48/chosen_mean_BCHW"][2:])
    assert (int(found["bucket_B"][0]), int(found["place_B"][0]), int(found["caption_chosen_B"][0])) == (1, 0, 4)


def test_a_long_header_and_integers_far_from_it_are_read(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_rows, "HEAD_BYTES", 16)
    tensors = {"a_B": np.arange(NUM_PAIRS), "b_B": floats(NUM_PAIRS), "c_B": np.arange(NUM_PAIRS) * 7}
    shard = ShardRows.open(store, put(store, tmp_path, tensors))
    assert shard.integers(2, "a_B", "c_B") == [2, 14]


def test_a_shard_that_was_replaced_or_is_something_else_is_refused(store: Store, tmp_path: Path) -> None:
    uri = put(store, tmp_path, {"b_B": floats(NUM_PAIRS)})
    shard = ShardRows.open(store, uri)
    put(store, tmp_path, {"b_B": floats(NUM_PAIRS + 1)})
    with pytest.raises(ValueError, match="was replaced while it was read"):
        shard.read_row(0, None)
    store.write_bytes(uri, b"\xff" * 100)
    with pytest.raises(ValueError, match="is not a safetensors file"):
        ShardRows.open(store, uri)
