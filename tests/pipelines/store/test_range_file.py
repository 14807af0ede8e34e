"""Objects read in parts, as a parquet reader does it."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.store.range_file import RangeFile
from pipelines.store.storage import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path.as_uri())


def test_parts_are_read_from_any_position(store: Store) -> None:
    uri = store.uri("object")
    store.write_bytes(uri, b"0123456789")
    with RangeFile(store, uri) as file:
        assert (file.readable(), file.seekable()) == (True, True)
        assert file.read(3) == b"012"
        assert file.seek(-2, io.SEEK_END) == 8
        assert file.read() == b"89"
        assert (file.tell(), file.read(1)) == (10, b"")
        file.seek(-9, io.SEEK_CUR)
        assert file.read(1) == b"1"


def test_the_index_of_a_parquet_file_is_read_without_the_rest(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"x": [bytes([n % 251]) * 4000 for n in range(1000)]}), buffer, compression="none")
    uri = store.uri("table.parquet")
    store.write_bytes(uri, buffer.getvalue())
    read: list[int] = []
    original = store.read_range

    def counting(uri: str, first: int, num_bytes: int, version: str = "") -> tuple[bytes, str]:
        read.append(num_bytes)
        return original(uri, first, num_bytes, version)

    monkeypatch.setattr(store, "read_range", counting)
    with RangeFile(store, uri) as raw, pq.ParquetFile(pa.PythonFile(raw, mode="r")) as file:
        assert file.metadata.num_rows == 1000
    assert 0 < sum(read) < len(buffer.getvalue()) / 10


def test_an_object_that_does_not_exist_is_named(store: Store) -> None:
    with pytest.raises(ValueError, match="gone does not exist"):
        RangeFile(store, store.uri("gone"))
