import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from s3_servers import KEYS, plain_client, serve_localbucket

from alignment.catalogues.rewards import ClipHead, ClipPreference, Pal
from pipelines.dispatch import model_folders
from pipelines.dispatch.hub import HUB_FILES, HUB_LEFT_OUT
from pipelines.dispatch.model_folders import (
    check_base_folder,
    check_remote,
    check_scorer_folder,
    fact_folder,
    is_here,
    local_folder,
)
from pipelines.settings import Settings, load_settings
from pipelines.store.storage import open_store

SHA = "0123456789abcdef0123456789abcdef01234567"
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "safety_checker": [None, None],
    "requires_safety_checker": False,
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
}
FILES = [
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/tokenizer_config.json",
    "tokenizer_2/tokenizer_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings({"PLUMBLINE_STATE_DIR": str(tmp_path / "state")})


@pytest.fixture
def base(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / "base" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "base" / name).write_text("{}")
    (tmp_path / "base" / "model_index.json").write_text(json.dumps(INDEX))
    return tmp_path / "base"


def test_a_complete_base_passes(base: Path) -> None:
    check_base_folder(base)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(base: Path, name: str) -> None:
    (base / name).unlink()
    component = name.split("/")[0]
    expected = f"{component}/*.safetensors" if name.endswith(".safetensors") else name
    with pytest.raises(ValueError, match="is not complete") as raised:
        check_base_folder(base)
    assert f"lacks {expected}. Copy" in str(raised.value)


def test_parts_that_the_index_leaves_out_may_be_absent_and_no_other(base: Path) -> None:
    """SD3 without its third encoder; the index also contains settings of the pipeline."""
    index = {**INDEX, "text_encoder_3": [None, None], "tokenizer_3": [None, None], "force_zeros_for_empty_prompt": True}
    (base / "model_index.json").write_text(json.dumps(index))
    check_base_folder(base)
    index |= {"text_encoder_3": ["transformers", "T5EncoderModel"], "tokenizer_3": ["transformers", "T5TokenizerFast"]}
    (base / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"text_encoder_3/config\.json, .*tokenizer_3/tokenizer_config\.json"):
        check_base_folder(base)


def test_every_missing_file_is_named_at_once(base: Path) -> None:
    for name in FILES:
        (base / name).unlink()
    with pytest.raises(ValueError, match=r"scheduler_config.*unet/config\.json, unet/\*\.safetensors"):
        check_base_folder(base)


def test_a_missing_shard_of_split_weights_is_named(base: Path) -> None:
    shards = {"weight_map": {"a": "w-1.safetensors", "b": "w-2.safetensors"}}
    (base / "unet" / "w.safetensors.index.json").write_text(json.dumps(shards))
    (base / "unet" / "w-1.safetensors").write_text("w")
    with pytest.raises(ValueError, match=r"lacks unet/w-2\.safetensors\."):
        check_base_folder(base)


def test_weights_in_a_pickle_do_not_count(base: Path) -> None:
    (base / "unet" / "diffusion_pytorch_model.safetensors").rename(base / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match=r"lacks unet/\*\.safetensors"):
        check_base_folder(base)


def test_a_folder_without_an_index_or_with_a_broken_one_is_refused(base: Path) -> None:
    (base / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        check_base_folder(base)
    (base / "model_index.json").unlink()
    with pytest.raises(ValueError, match=r"has no model_index\.json"):
        check_base_folder(base)


def test_a_judge_needs_its_config_and_safetensors(base: Path) -> None:
    check_scorer_folder(base / "unet", ClipPreference())
    with pytest.raises(ValueError, match=r"lacks config\.json, \*\.safetensors"):
        check_scorer_folder(base / "scheduler", ClipPreference())


def test_a_judge_of_parts_needs_each_of_them(base: Path) -> None:
    (base / "unet").rename(base / "embedder")
    with pytest.raises(ValueError, match=r"lacks head\.json, head\.safetensors\."):
        check_scorer_folder(base, ClipHead())
    for name in ("head.json", "head.safetensors"):
        (base / name).touch()
    check_scorer_folder(base, Pal())
    with pytest.raises(ValueError, match=r"lacks embedder/config\.json"):
        check_scorer_folder(base / "embedder", ClipHead())


def test_a_local_folder_is_used_in_place(base: Path, settings: Settings) -> None:
    assert local_folder(str(base), settings) == base
    assert local_folder(base.as_uri(), settings) == base
    with pytest.raises(ValueError, match="does not exist"):
        local_folder(str(base / "nowhere"), settings)
    with pytest.raises(ValueError, match="gs://"):
        local_folder("gs://bucket/model", settings)


@pytest.mark.parametrize("uri", ["hub://owner/name", "hub://owner/name@main", f"hub://name@{SHA}", "hub://o/n@ABC"])
def test_a_hub_model_must_be_pinned_to_a_commit(uri: str, settings: Settings) -> None:
    with pytest.raises(ValueError, match="40 hex digits"):
        local_folder(uri, settings)


@pytest.mark.timeout(60)
def test_an_unreachable_hub_is_a_clear_error_and_leaves_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=f"hub://owner/name@{SHA} could not be downloaded"):
        local_folder(f"hub://owner/name@{SHA}", settings)
    assert list((tmp_path / "state" / "models").iterdir()) == []


def test_a_hub_download_fetches_folders_and_not_their_copies() -> None:
    from huggingface_hub.utils import filter_repo_objects

    wanted = [
        "model_index.json",
        "unet/diffusion_pytorch_model.safetensors",
        "text_encoder_3/model-00001-of-00002.safetensors",
        "text_encoder_3/model.safetensors.index.json",
        "transformer/diffusion_pytorch_model-00001-of-00003.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "model.safetensors",
    ]
    copies = [
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder_3/model.fp16-00001-of-00002.safetensors",
        "text_encoders/t5xxl_fp16.safetensors",
        "sd_xl_base_1.0_0.9vae.safetensors",
        "sd3.5_large.safetensors",
        "flux1-dev.safetensors",
        "ae.safetensors",
        "unet/diffusion_pytorch_model.bin",
    ]
    found = filter_repo_objects([*wanted, *copies], allow_patterns=list(HUB_FILES), ignore_patterns=list(HUB_LEFT_OUT))
    assert list(found) == wanted


def test_a_complete_download_is_not_fetched_again(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def download(uri: str, folder: Path, _settings: Settings) -> None:
        calls.append(uri)
        (folder / "config.json").write_text("{}")
        if len(calls) == 1:
            raise ValueError("the line went dead")

    monkeypatch.setattr(model_folders, "_download_prefix", download)
    with pytest.raises(ValueError, match="went dead"):
        local_folder("s3://bucket/model", settings)
    first = local_folder("s3://bucket/model", settings)
    assert local_folder("s3://bucket/model", settings) == first
    assert len(calls) == 2
    assert [path.name for path in first.iterdir()] == ["config.json"]


def test_a_download_that_was_cut_off_continues(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = Listing("a.json", "b.json")
    monkeypatch.setattr(model_folders, "open_store", lambda uri, _settings: listing)
    monkeypatch.setattr(listing, "breaks_at", "b.json")
    with pytest.raises(ConnectionError):
        local_folder("s3://bucket/model", settings)
    monkeypatch.setattr(listing, "breaks_at", "none")
    found = local_folder("s3://bucket/model", settings)
    assert {path.name for path in found.iterdir()} == {"a.json", "b.json"}
    assert sorted(listing.fetched) == ["s3://bucket/model/a.json", "s3://bucket/model/b.json"]


def test_a_head_on_an_encoder_is_a_judge_too(tmp_path: Path) -> None:
    for name in ("head.json", "head.safetensors", "embedder/config.json", "embedder/model.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    check_scorer_folder(tmp_path, Pal())
    (tmp_path / "head.safetensors").unlink()
    (tmp_path / "embedder" / "config.json").unlink()
    with pytest.raises(ValueError, match=r"it lacks embedder/config\.json, head\.safetensors"):
        check_scorer_folder(tmp_path, Pal())


class Listing:
    """A store whose listing contains any keys; each fetched file contains its own URI."""

    def __init__(self, *keys: str) -> None:
        self.uris = [f"s3://bucket/model/{key}" for key in keys]
        self.breaks_at = "none"
        self.fetched: list[str] = []

    def list_uris(self, uri: str) -> list[str]:
        return self.uris

    def fetch_file(self, uri: str, path: Path) -> None:
        if path.name == self.breaks_at:
            raise ConnectionError(uri)
        self.fetched.append(uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(uri)


@pytest.mark.parametrize("key", ["../../evil", "unet/../../../evil", "{tmp_path}/evil", "a\\b", "C:/evil"])
def test_a_key_of_a_listing_is_not_written_outside_the_models_folder(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str
) -> None:
    key = key.format(tmp_path=tmp_path)
    monkeypatch.setattr(model_folders, "open_store", lambda uri, _settings: Listing("unet/config.json", key))
    with pytest.raises(ValueError, match="does not stay inside") as caught:
        local_folder("s3://bucket/model/", settings)
    assert repr(key) in str(caught.value)
    assert "s3://bucket/model" in str(caught.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("shard", ["../../secret.safetensors", "/secret.safetensors", "link.safetensors"])
def test_a_shard_outside_the_base_is_refused(base: Path, shard: str) -> None:
    (base.parent / "secret.safetensors").write_text("secret")
    (base / "unet" / "link.safetensors").symlink_to("../../secret.safetensors")
    (base / "unet" / "w.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(ValueError, match="does not stay inside") as caught:
        check_base_folder(base)
    assert "w.safetensors.index.json" in str(caught.value)


def test_a_component_outside_the_base_is_refused(base: Path) -> None:
    (base / "model_index.json").write_text(json.dumps({**INDEX, "../unet": ["diffusers", "UNet2DConditionModel"]}))
    with pytest.raises(ValueError, match="does not stay inside") as caught:
        check_base_folder(base)
    assert "model_index.json" in str(caught.value)


def test_a_snapshot_of_the_hubs_cache_passes(base: Path, tmp_path: Path) -> None:
    """Every file of a snapshot is a link into `blobs`."""
    repository = tmp_path / "models--x--tiny"
    snapshot = repository / "snapshots" / SHA
    (repository / "blobs").mkdir(parents=True)
    for number, name in enumerate([*FILES, "model_index.json"]):
        (base / name).rename(repository / "blobs" / str(number))
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(Path("../" * (2 + name.count("/"))) / "blobs" / str(number))
    check_base_folder(snapshot)


def test_facts_are_read_in_place_and_a_folder_that_is_gone_is_not_here(
    base: Path, settings: Settings, tmp_path: Path
) -> None:
    assert fact_folder(str(base), settings, tmp_path / "scratch") == base
    assert is_here(str(base), settings)
    assert not is_here(str(tmp_path / "gone"), settings)
    assert not is_here(f"hub://owner/name@{SHA}", settings)
    assert not (tmp_path / "scratch").exists()


@pytest.mark.timeout(60)
def test_a_hub_that_cannot_be_reached_is_named(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    uri = f"hub://owner/name@{SHA}"
    with pytest.raises(ValueError, match=f"{uri} could not be reached: .* Check the network"):
        check_remote(uri, settings)
    fetched = model_folders._fetch_target(uri, settings)
    fetched.mkdir(parents=True)
    assert check_remote(uri, settings) == f"{uri} was fetched to this host"
    with pytest.raises(ValueError, match="40 hex digits"):
        check_remote("hub://owner/name@main", settings)


@pytest.mark.timeout(60)
def test_a_revision_of_the_hub_that_exists_can_be_reached(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    asked = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            data = json.dumps({"id": "owner/name", "sha": SHA, "siblings": []}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        assert check_remote(f"hub://owner/name@{SHA}", settings) == f"hub://owner/name@{SHA} can be reached"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    # The client of the hub may ask for other things first.
    assert [path for path in asked if "/models/" in path] == [f"/api/models/owner/name/revision/{SHA}"]


@pytest.mark.timeout(60)
def test_a_prefix_without_objects_is_named_and_facts_are_fetched_alone(
    settings: Settings, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with serve_localbucket(tmp_path / "server") as endpoint:
        on_s3 = settings.model_copy(update={"s3_endpoint_url": endpoint})
        plain_client(endpoint).create_bucket(Bucket="bucket")
        store = open_store("s3://bucket/models", on_s3)
        for name in ("model_index.json", "unet/config.json", "unet/weights.safetensors", "README.md"):
            store.write_bytes(f"s3://bucket/models/base/{name}", b"{}")
        assert check_remote("s3://bucket/models/base", on_s3) == "s3://bucket/models/base can be read"
        assert check_remote("s3://bucket/models/base/README.md", on_s3).endswith("README.md can be read")
        with pytest.raises(ValueError, match="There is nothing under s3://bucket/models/gone"):
            check_remote("s3://bucket/models/gone", on_s3)
        folder = fact_folder("s3://bucket/models/base", on_s3, tmp_path / "facts")
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert found == ["README.md", "model_index.json", "unet/config.json"]
