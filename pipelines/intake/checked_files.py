"""Read one file of a published folder, checked against its manifest."""

from pathlib import Path

from pipelines.store.storage import Store, sha256_file


def fetch_checked(store: Store, folder_uri: str, name: str, scratch: Path) -> Path:
    """Return a local path of one file of a published folder; ValueError when it differs from the published file."""
    manifest = store.read_manifest(folder_uri)
    if manifest is None or name not in manifest.files:
        raise ValueError(f"{folder_uri} is not finished or has no {name}. Run the stage that writes it.")
    path = store.local_path(f"{folder_uri}/{name}", scratch)
    if sha256_file(path) != manifest.files[name].sha256:
        raise ValueError(f"{folder_uri}/{name} was changed or damaged. Delete the folder and run its stage again.")
    return path
