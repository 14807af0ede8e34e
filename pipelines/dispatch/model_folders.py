"""Models that a user names: a local folder, an S3 prefix or a pinned hub revision, as a checked folder on this host.

A prefix and a revision count as immutable: files fetched once under the same URI are used again.
"""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from alignment.catalogues.rewards import RewardParams
from alignment.files.paths import resolve_below
from alignment.files.shards import indexed_files
from pipelines.dispatch import hub
from pipelines.host import this_host
from pipelines.settings import Settings
from pipelines.store.folders import in_parallel, locked, matches, resumable_path
from pipelines.store.storage import open_store

log = logging.getLogger(__name__)

MODEL_INDEX = "model_index.json"
CARD = "README.md"
_FACT_FILES = (MODEL_INDEX, "*/config.json", "config.json", "import.json", CARD)
"""Files from which a folder's kind is known without its weights."""
_CONFIG_FILES = {
    "scheduler": "scheduler_config.json",
    "tokenizer": "tokenizer_config.json",
    "feature_extractor": "preprocessor_config.json",
}
"""Configuration files of a component without weights; every other component has config.json and safetensors."""


def local_folder(uri: str, settings: Settings) -> Path:
    """Return the local folder of a URI: in place when it is local, else fetched once.

    Raises ValueError for a folder that does not exist, a URI that is not pinned, or a hub that cannot be reached.
    """
    if uri.startswith(hub.SCHEME):
        return _fetched(uri, settings, hub.download)
    if uri.startswith("s3://"):
        return _fetched(uri, settings, _download_prefix)
    path = local_path(uri)
    if not path.is_dir():
        raise ValueError(
            f"Model folder {path} does not exist on host {this_host()}. Copy it to the same path there, or give"
            " s3://... or hub://owner/name@sha."
        )
    return path


def is_here(uri: str, settings: Settings) -> bool:
    """Return True when a folder is on this host: a local one that exists, or one that was fetched before."""
    if uri.startswith((hub.SCHEME, "s3://")):
        return _fetch_target(uri, settings).is_dir()
    return local_path(uri).is_dir()


def fact_folder(uri: str, settings: Settings, scratch: Path) -> Path:
    """Return a folder with the configurations and the card of a model, without its weights.

    It is the folder itself where that is on this host; otherwise the files are fetched to `scratch`. ValueError as for
    `local_folder`.
    """
    if uri.startswith("s3://") and not is_here(uri, settings):
        store = open_store(uri, settings)
        names = {found: _name_below(uri, found) for found in store.list_uris(uri)}
        for found, name in names.items():
            if matches(name, _FACT_FILES):
                store.fetch_file(found, resolve_below(scratch, name, f"Listing of {uri}"))
        if not names:
            raise _nothing_under(uri)
        return scratch
    if uri.startswith(hub.SCHEME) and not is_here(uri, settings):
        hub.download_files(uri, scratch, _FACT_FILES)
        return scratch
    return local_folder(uri, settings)


def check_remote(uri: str, settings: Settings) -> str:
    """Describe an s3:// or hub:// address that can be reached, without fetching it; ValueError when it cannot."""
    if uri.startswith("s3://"):
        store = open_store(uri, settings)
        if not store.list_uris(uri) and not store.exists(uri):
            raise _nothing_under(uri)
        return f"{uri} can be read"
    if is_here(uri, settings):
        return f"{uri} was fetched to this host"
    hub.check_reachable(uri)
    return f"{uri} can be reached"


def local_path(uri: str) -> Path:
    """Return the path of a local path or a file:// URI; ValueError for any other scheme."""
    if "://" not in uri:
        return Path(uri)
    if not uri.startswith("file://"):
        raise ValueError(f"{uri!r} is not on this host. Use a local path, file://, s3:// or hub://owner/name@sha.")
    return Path(unquote(urlsplit(uri).path))


def check_base_folder(path: Path) -> None:
    """Raise ValueError naming every file missing from a base model (diffusers layout), or a path that leads out."""
    index = path / MODEL_INDEX
    if not index.is_file():
        raise ValueError(f"Base model {path} has no {MODEL_INDEX}. Give a folder written by `save_pretrained`.")
    try:
        components = json.loads(index.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{index} is not JSON: {error}. Copy the base model again.") from error
    present = [name for name, entry in components.items() if isinstance(entry, list) and all(entry)]
    folders = {name: resolve_below(path, name, index, hub_links=True) for name in sorted(present)}
    missing = [problem for name, folder in folders.items() for problem in _missing_files(folder, name)]
    if missing:
        raise ValueError(f"Base model {path} is not complete; it lacks {', '.join(missing)}. Copy it again.")


def check_scorer_folder(path: Path, scorer: RewardParams) -> None:
    """Raise ValueError naming every file missing from the folder of a judge of this kind."""
    missing = [name for component in scorer.components for name in _missing_files(path / component, component)]
    missing += [name for name in scorer.files if not (path / name).is_file()]
    if missing:
        raise ValueError(
            f"Judge {path} is not complete; it lacks {', '.join(missing)}. Copy it again, or create it with `plumbline"
            " judges import`."
        )


def _missing_files(folder: Path, component: str) -> list[str]:
    """Return paths that a component should have and lacks, relative to the model."""
    name = f"{component}/" if component else ""
    config = _CONFIG_FILES.get(re.sub(r"_\d+$", "", component))
    if config is not None:
        return [] if (folder / config).is_file() else [name + config]
    missing = [] if (folder / "config.json").is_file() else [f"{name}config.json"]
    indexed = sorted(folder.glob("*.safetensors.index.json"))
    shards = {shard for index in indexed for shard in indexed_files(index)}
    if not any(folder.glob("*.safetensors")):
        return [*missing, f"{name}*.safetensors"]
    return missing + [f"{name}{s.relative_to(folder).as_posix()}" for s in sorted(shards) if not s.is_file()]


def _fetched(uri: str, settings: Settings, download: Callable[[str, Path, Settings], None]) -> Path:
    """Fetch a folder to `<state_dir>/models`: downloaded under another name and renamed: complete or absent.

    One process at a time fetches it. A fetch that was cut off continues with the files that it lacks.
    """
    target = _fetch_target(uri, settings)
    if target.is_dir():
        return target
    unfinished = resumable_path(target, uri)
    with locked(unfinished, folder=True):
        if target.is_dir():
            unfinished.rmdir()
            return target
        try:
            log.info("Fetching %s to %s", uri, target)
            download(uri, unfinished, settings)
        except ValueError:
            shutil.rmtree(unfinished)
            raise
        unfinished.rename(target)
    return target


def _fetch_target(uri: str, settings: Settings) -> Path:
    """Return the folder to which a URI is fetched."""
    name = re.sub(r"[^\w.-]+", "-", uri)[-80:].strip("-")
    return settings.state_dir / "models" / f"{hashlib.sha256(uri.encode()).hexdigest()[:12]}-{name}"


def _download_prefix(uri: str, folder: Path, settings: Settings) -> None:
    store = open_store(uri, settings)
    found = store.list_uris(uri)
    if not found:
        raise _nothing_under(uri)
    paths = {uri_of: resolve_below(folder, _name_below(uri, uri_of), f"Listing of {uri}") for uri_of in found}
    in_parallel([partial(store.fetch_file, uri_of, path) for uri_of, path in paths.items() if not path.is_file()])


def _name_below(folder_uri: str, uri: str) -> str:
    return uri.removeprefix(folder_uri.rstrip("/") + "/")


def _nothing_under(uri: str) -> ValueError:
    return ValueError(f"There is nothing under {uri}. Check the prefix and the credentials (AWS_*).")
