"""The Hugging Face Hub: download a pinned revision, upload a folder. The only file that uses huggingface_hub."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.settings import Settings

SCHEME = "hub://"
HUB_URI = re.compile(r"^hub://(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>[0-9a-f]{40})$")
PUSH_URI = re.compile(r"^hub://(?P<repo>[\w.-]+/[\w.-]+)$")
HUB_FILES = ("*.safetensors", "*.json", "*.txt", "*.model")
HUB_LEFT_OUT = (
    *("*.fp16.safetensors", "*.fp16-*.safetensors", "*.non_ema.safetensors", "*.msgpack.*", "*.onnx*", "*openvino*"),
    *("sd_xl_*.safetensors", "sd3*.safetensors", "flux1-*.safetensors", "ae.safetensors", "text_encoders/*"),
)
"""Other copies of the weights; the second line is the single files beside the folders of SDXL, SD3 and FLUX."""
_TIMEOUT_SECONDS = 15


def download(uri: str, folder: Path, _settings: Settings) -> None:
    """Download a hub revision's safetensors, JSON and text files; no code and no pickle."""
    download_files(uri, folder, HUB_FILES)


def download_files(uri: str, folder: Path, patterns: Sequence[str]) -> None:
    """Download the files of a hub revision that match a pattern; ValueError when the hub cannot be reached."""
    match, hub = _pinned(uri), _library(uri)
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        hub.snapshot_download(
            match["repo"],
            revision=match["revision"],
            local_dir=folder,
            allow_patterns=list(patterns),
            ignore_patterns=list(HUB_LEFT_OUT),
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise _unreachable(uri, error, "downloaded") from error
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the downloader's own log messages, which contain times


def check_reachable(uri: str) -> None:
    """Raise ValueError when a pinned revision is not on the hub, or the hub cannot be reached."""
    match, hub = _pinned(uri), _library(uri)
    try:
        hub.HfApi().model_info(match["repo"], revision=match["revision"], timeout=_TIMEOUT_SECONDS)
    except Exception as error:  # The hub's client raises errors of its HTTP library, which differs by version.
        raise _unreachable(uri, error, "reached") from error


def _pinned(uri: str) -> re.Match[str]:
    match = HUB_URI.match(uri)
    if match is None:
        raise ValueError(f"{uri!r} is not pinned. Write hub://owner/name@REVISION with the 40 hex digits of a commit.")
    return match


def _unreachable(uri: str, error: Exception, done: str) -> ValueError:
    return ValueError(
        f"{uri} could not be {done}: {_first_line(error)} Check the network, the name and HF_TOKEN, or fetch the model"
        " by hand and give its folder."
    )


def check_push(uri: str, settings: Settings) -> str:
    """Return `owner/name` of the repository to push to. ValueError for another address, or without a token."""
    match = PUSH_URI.match(uri)
    if match is None:
        raise ValueError(f"--push {uri!r} is not the address of a repository. Write hub://owner/name.")
    if not settings.hub_token.get_secret_value():
        raise ValueError(f"A push to {uri} needs a token that may write there. Set HF_TOKEN in the environment.")
    _library(uri)
    return match["repo"]


def push(folder: Path, repository: str, settings: Settings, *, message: str) -> str:
    """Upload a folder as one commit and return the commit's address. A repository that does not exist is created
    private.

    RuntimeError when the hub refuses or cannot be reached. The repository then has no part of the folder.
    """
    hub = _library(repository)
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    api = hub.HfApi(endpoint=settings.hub_endpoint or None, token=settings.hub_token.get_secret_value())
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        commit = api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
        raise RuntimeError(
            f"The push to {repository} failed: {_first_line(error)} The folder {folder} is complete; check HF_TOKEN and"
            " the name, and upload it again."
        ) from error
    return str(commit.commit_url)


def _library(what: str) -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ValueError(
            f"{what} needs huggingface_hub, which is not installed. Run pip install huggingface_hub."
        ) from error
    return huggingface_hub


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
