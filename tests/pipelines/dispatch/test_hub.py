"""Pushes to a server with the hub's API; test_model_folders.py has the downloads."""

import logging
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from pipelines.dispatch import hub
from pipelines.settings import Settings

TOKEN = "hf_open_sesame"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "export"
    (folder / "unet").mkdir(parents=True)
    (folder / "README.md").write_text('---\nlicense: "mit"\n---\n\n# A card\n')
    (folder / "unet" / "weights.safetensors").write_bytes(bytes(range(256)))
    return folder


@pytest.fixture
def reachable(settings: Settings, hub_server: Any) -> Settings:
    """Settings with a token and the address of the server."""
    return settings.model_copy(update={"hub_token": SecretStr(TOKEN), "hub_endpoint": hub_server.address})


def test_a_folder_becomes_one_commit_in_a_private_repository(
    reachable: Settings, hub_server: Any, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    repository = hub.check_push("hub://owner/name", reachable)
    address = hub.push(folder, repository, reachable, message="Upload shapes-v3")
    assert address == f"{hub_server.address}/owner/name/commit/{'c' * 40}"
    assert hub_server.created == [{"name": "name", "organization": "owner", "visibility": "private"}]
    assert hub_server.messages == ["Upload shapes-v3"]
    expected = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert hub_server.files == expected
    assert hub_server.tokens == {f"Bearer {TOKEN}"}
    assert TOKEN not in caplog.text


def test_a_refused_push_is_one_error_without_the_token(
    reachable: Settings, hub_server: Any, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub_server.refuses = True
    with pytest.raises(RuntimeError, match=r"The push to owner/name failed: .*403") as raised:
        hub.push(folder, "owner/name", reachable, message="m")
    assert TOKEN not in str(raised.value) + caplog.text
    assert hub_server.files == {}


@pytest.mark.parametrize("uri", ["owner/name", "hub://name", "hub://owner/name@main", "hub://owner/name/more"])
def test_other_addresses_are_refused(uri: str, reachable: Settings) -> None:
    with pytest.raises(ValueError, match=r"is not the address of a repository\. Write hub://owner/name"):
        hub.check_push(uri, reachable)


def test_a_push_needs_a_token(settings: Settings) -> None:
    with pytest.raises(ValueError, match="Set HF_TOKEN"):
        hub.check_push("hub://owner/name", settings)
