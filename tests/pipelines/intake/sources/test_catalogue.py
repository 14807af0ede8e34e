import pytest

from alignment.catalogues.lookup import resolve
from pipelines.intake.sources.catalogue import SOURCES, PickAPic, find_source


def test_every_kind_resolves_to_a_source() -> None:
    for entry in SOURCES:
        source = resolve(entry.implementation)()
        assert callable(source.list_shards)
        assert callable(source.read_shard)
        assert find_source(entry().kind) is entry  # type: ignore[attr-defined]


def test_an_unknown_kind_gets_the_nearest_as_a_suggestion() -> None:
    assert find_source("pick_a_pic") is PickAPic
    with pytest.raises(ValueError, match=r"source kind 'pickapic'. Did you mean 'pick_a_pic'"):
        find_source("pickapic")
