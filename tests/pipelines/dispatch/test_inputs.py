import json
import socket
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipelines.contracts.jobs import JobInput, SideOutput
from pipelines.dispatch.feature_stream import FeatureStream
from pipelines.dispatch.inputs import link_inputs
from pipelines.settings import Settings, load_settings
from pipelines.store.folders import hash_folder, sha256_file
from pipelines.store.storage import Store, open_store


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    state = {"PLUMBLINE_STATE_DIR": str(tmp_path / "state"), "PLUMBLINE_STORE_URI": (tmp_path / "store").as_uri()}
    return load_settings(state)


@pytest.fixture
def store(settings: Settings, tmp_path: Path) -> Store:
    (tmp_path / "model" / "weights").mkdir(parents=True)
    (tmp_path / "model" / "weights" / "w").write_text("weights")
    (tmp_path / "model" / "metrics.jsonl").write_text("{}")
    store = open_store(settings.store_uri)
    store.publish_folder(tmp_path / "model", store.uri("models", "m"), {})
    return store


def test_only_the_subfolder_is_fetched_and_has_its_own_digest(settings: Settings, store: Store, tmp_path: Path) -> None:
    digest, _ = hash_folder(tmp_path / "model" / "weights")
    link_inputs(
        (JobInput(content_digest=digest, uri=store.uri("models", "m"), subfolder="weights"),), tmp_path / "in", settings
    )
    assert hash_folder(tmp_path / "in" / digest)[0] == digest
    assert not (tmp_path / "in" / digest / ".." / "metrics.jsonl").resolve().exists()


def test_two_jobs_share_one_copy(settings: Settings, store: Store, tmp_path: Path) -> None:
    digest, _ = hash_folder(tmp_path / "model")
    item = JobInput(content_digest=digest, uri=store.uri("models", "m"))
    for name in ("first", "second"):
        link_inputs((item,), tmp_path / name, settings)
    assert (tmp_path / "first" / digest).resolve() == (tmp_path / "second" / digest).resolve()


def test_links_of_an_earlier_attempt_are_replaced(settings: Settings, store: Store, tmp_path: Path) -> None:
    digest, _ = hash_folder(tmp_path / "model")
    item = JobInput(content_digest=digest, uri=store.uri("models", "m"))
    for alias in ("a", "b"):
        link_inputs((item.model_copy(update={"alias": alias}),), tmp_path / "in", settings)
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["b"]


def test_an_input_that_differs_from_its_digest_is_refused(settings: Settings, store: Store, tmp_path: Path) -> None:
    (tmp_path / "prompts.tsv").write_text("changed")
    wrong = "0" * 64
    for item in (
        JobInput(content_digest=wrong, uri=store.uri("models", "m")),
        JobInput(content_digest=wrong, uri=store.uri("models", "m"), subfolder="weights"),
        JobInput(content_digest=wrong, uri=str(tmp_path / "model"), manifest=False),
        JobInput(content_digest=wrong, uri=str(tmp_path / "prompts.tsv"), kind="file"),
    ):
        with pytest.raises(ValueError, match="it changed since"):
            link_inputs((item,), tmp_path / "in", settings)
    with pytest.raises(ValueError, match="was never finished"):
        link_inputs((JobInput(content_digest=wrong, uri=store.uri("models", "n")),), tmp_path / "in", settings)


def test_every_local_input_that_this_host_lacks_is_named_at_once(settings: Settings, tmp_path: Path) -> None:
    items = (
        JobInput(content_digest="0" * 64, uri=str(tmp_path / "base"), manifest=False),
        JobInput(content_digest="0" * 64, uri=(tmp_path / "prompts.tsv").as_uri(), kind="file"),
    )
    with pytest.raises(ValueError, match=f"Host {socket.gethostname()} lacks") as caught:
        link_inputs(items, tmp_path / "in", settings)
    assert f"{tmp_path / 'base'}, {tmp_path / 'prompts.tsv'}," in str(caught.value)


def test_inputs_that_the_cache_has_no_room_for_are_refused(settings: Settings, store: Store, tmp_path: Path) -> None:
    digest, _ = hash_folder(tmp_path / "model")
    item = JobInput(content_digest=digest, uri=store.uri("models", "m"))
    with pytest.raises(ValueError, match="Raise PLUMBLINE_CACHE_GIB"):
        link_inputs((item,), tmp_path / "in", settings.model_copy(update={"cache_gib": 1e-9}))
    link_inputs((item,), tmp_path / "in", settings.model_copy(update={"cache_gib": 1e-6}))


@pytest.mark.parametrize(("limit_bytes", "streamed"), [(9000, True), (20000, False)])
def test_features_larger_than_half_of_the_cache_are_streamed_if_the_caller_can(
    settings: Settings, store: Store, tmp_path: Path, limit_bytes: int, streamed: bool
) -> None:
    out = tmp_path / "features"
    (out / "pairs").mkdir(parents=True)
    (out / "index.json").write_text(json.dumps({"spec": {"shard_pairs": 8}, "captions_per_shard": 8}))
    (out / "pairs" / "00000.safetensors").write_bytes(bytes(8000))
    digest = store.publish_folder(out, store.uri("features", "f"), {}).content_digest
    item = JobInput(content_digest=digest, uri=store.uri("features", "f"))
    small = settings.model_copy(update={"cache_gib": limit_bytes / 1024**3})
    streams: list[FeatureStream] = []
    link_inputs((item,), tmp_path / "in", small, streams)
    assert [stream.folder for stream in streams] == ([(tmp_path / "in" / digest).resolve()] if streamed else [])
    assert (tmp_path / "in" / digest / "index.json").is_file()
    assert (tmp_path / "in" / digest / "stream").is_dir() is streamed
    assert (tmp_path / "in" / digest / "pairs").is_dir() is not streamed
    link_inputs((item,), tmp_path / "other", small.model_copy(update={"cache_gib": 1.0}))
    assert (tmp_path / "other" / digest / "pairs" / "00000.safetensors").is_file()


def test_a_damaged_cached_file_is_fetched_again(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "prompts.tsv").write_text("a circle")
    digest = sha256_file(tmp_path / "prompts.tsv")
    item = JobInput(content_digest=digest, uri=str(tmp_path / "prompts.tsv"), kind="file")
    link_inputs((item,), tmp_path / "in", settings)
    (tmp_path / "in" / digest).resolve().write_text("spoilt")
    link_inputs((item,), tmp_path / "in", settings)
    assert (tmp_path / "in" / digest).read_text() == "a circle"


@pytest.mark.parametrize("field", ["alias", "subfolder"])
@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a\\b", ".."])
def test_an_input_is_linked_and_read_under_plain_names_only(field: str, name: str) -> None:
    with pytest.raises(ValidationError, match="does not stay inside"):
        JobInput.model_validate({"content_digest": "0" * 64, "uri": "s3://b/m", field: name})
    with pytest.raises(ValidationError, match="does not stay inside"):
        SideOutput.model_validate({"path": name, "uri": "s3://b/m"})


def test_an_alias_is_one_name_in_the_inputs_folder() -> None:
    with pytest.raises(ValidationError, match="is not a file name"):
        JobInput(content_digest="0" * 64, uri="s3://b/m", alias="a/b")
