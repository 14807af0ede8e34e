"""Inputs of this host in the store."""

from pathlib import Path

import pytest
from made_requests import made_request

from pipelines.contracts.jobs import JobInput
from pipelines.dispatch.cluster.shipping import ship_inputs
from pipelines.store.folders import hash_folder, sha256_file
from pipelines.store.storage import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store((tmp_path / "store").as_uri())


def shipped(store: Store, item: JobInput) -> JobInput:
    request = made_request(inputs=(item,))
    (answer,) = ship_inputs(request, store).inputs
    return answer


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "base" / "unet").mkdir(parents=True)
    (tmp_path / "base" / "unet" / "weights").write_text("weights")
    return tmp_path / "base"


def test_a_local_model_is_published_once_under_its_digest(store: Store, base: Path, tmp_path: Path) -> None:
    digest, _files = hash_folder(base)
    item = JobInput(content_digest=digest, uri=str(base), manifest=False, alias="model")
    answer = shipped(store, item)
    assert answer == item.model_copy(update={"uri": store.uri("inputs", digest), "manifest": True})
    store.fetch_folder(answer.uri, tmp_path / "node")
    assert (tmp_path / "node/unet/weights").read_text() == "weights"
    (base / "unet" / "weights").write_text("changed, but published before")
    assert shipped(store, item) == answer


def test_a_model_that_changed_since_the_request_is_refused(store: Store, base: Path) -> None:
    item = JobInput(content_digest="b" * 64, uri=base.as_uri(), manifest=False)
    with pytest.raises(ValueError, match="it changed since"):
        shipped(store, item)


def test_links_of_a_hub_cache_become_files(store: Store, base: Path, tmp_path: Path) -> None:
    blob = tmp_path / "blobs" / "abc"
    blob.parent.mkdir()
    (base / "unet" / "weights").rename(blob)
    (base / "unet" / "weights").symlink_to(blob)
    plain = tmp_path / "plain"
    (plain / "unet").mkdir(parents=True)
    (plain / "unet" / "weights").write_text("weights")
    digest, _files = hash_folder(plain)
    answer = shipped(store, JobInput(content_digest=digest, uri=str(base), manifest=False))
    assert answer.uri == store.uri("inputs", digest)


def test_a_prompts_file_is_put_into_the_store(store: Store, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\n")
    digest = sha256_file(prompts)
    answer = shipped(store, JobInput(content_digest=digest, uri=str(prompts), kind="file"))
    assert store.read_bytes(answer.uri) == b"a red circle\n"


def test_inputs_that_nodes_can_reach_stay_as_they_are(store: Store) -> None:
    for uri, manifest in (("s3://bucket/base", False), ("hub://o/n@" + "0" * 40, False), (store.uri("a"), True)):
        item = JobInput(content_digest="a" * 64, uri=uri, manifest=manifest)
        assert shipped(store, item) == item
