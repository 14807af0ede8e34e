"""Read small files of each layout as a kind of source."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignment.catalogues.lookup import resolve
from pipelines.intake.sources.catalogue import find_source
from pipelines.intake.sources.columns import SOURCE_SCHEMA, UNPAIRED_SCHEMA, VOTES_SCHEMA
from pipelines.intake.sources.interface import OpenShard
from pipelines.project.sections import SourceSection
from pipelines.settings import Settings
from pipelines.store.storage import open_store

Read = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def read(settings: Settings, tmp_path: Path) -> Read:
    """Return the rows of every shard of a folder or file, read as a source of this kind."""

    def read(kind: str, uri: Path | str, rows: int = 3, **fields: Any) -> list[dict[str, Any]]:
        source = SourceSection.model_validate(
            {"name": "votes", "kind": kind, "uri": str(uri), "licence": "CC0-1.0", **fields}
        )
        store = open_store(settings.store_uri)
        reader = resolve(find_source(kind).implementation)()
        found = []
        for shard in reader.list_shards(source, store):
            opened = OpenShard(shard, shard.uri.rpartition("/")[2], source, store, tmp_path / "scratch")
            for batch in reader.read_shard(opened, rows):
                assert batch.schema in (SOURCE_SCHEMA, VOTES_SCHEMA, UNPAIRED_SCHEMA)
                assert 0 < batch.num_rows <= rows
                found += batch.to_pylist()
        facts = reader.inspect(source, store)
        assert facts.num_shards == len(reader.list_shards(source, store))
        return found

    return read


@pytest.fixture
def picture(tmp_path: Path, tiny_image: Callable[..., bytes]) -> Callable[..., bytes]:
    """Write an image to a path below the test's folder and return its bytes."""

    def write(name: str, seed: int) -> bytes:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tiny_image(seed))
        return path.read_bytes()

    return write
