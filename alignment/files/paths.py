"""Paths read from files: resolved below a root, or refused. Symbolic links in folders. Torch-free.

A name read from a manifest, an index, a table or a store's listing goes through `check_name` or `resolve_below` before
it is joined to a folder. Plumbline writes no symbolic links into the folders that it produces and publishes, so a link
there is refused. A user's model folder may be a snapshot in a Hugging Face cache, whose files are links into the
cache's `blobs` folder; `hub_links=True` allows those, and links to files inside the folder itself.
"""

import os
from pathlib import Path

from alignment.contracts.names import check_name


def resolve_below(root: Path, name: str, source: Path | str = "", *, hub_links: bool = False) -> Path:
    """Join a name to `root`. The path need not exist, but it must not lead out of `root`.

    ValueError for a name that `check_name` refuses, or a symbolic link that leads out of `root`. `hub_links` also
    allows a file in the `blobs` folder of the Hugging Face cache that contains `root`.
    """
    path = root / check_name(name, root, source)
    if not _stays_inside(path, root, hub_links=hub_links):
        origin = f"{source}: " if source else ""
        raise ValueError(
            f"{origin}Path {name!r} does not stay inside {root}: a symbolic link leads to {os.path.realpath(path)}."
            " Allowed: files inside that folder. Replace the link with a copy of the file."
        )
    return path


def check_link(path: Path, root: Path, *, hub_links: bool = False) -> None:
    """ValueError if `path`, found under `root`, is a symbolic link that is not allowed there.

    Without `hub_links` any link is refused. With it a link to a file is allowed when the file lies inside `root`, or in
    the `blobs` folder of the Hugging Face cache that contains `root`. A link to a folder is always refused: the digest
    of `root` would not include the files behind it.
    """
    if not path.is_symlink():
        return
    if hub_links and path.is_file() and _stays_inside(path, root, hub_links=True):
        return
    allowed = "links to files inside the folder, or in its Hugging Face cache" if hub_links else "no symbolic links"
    raise ValueError(
        f"{path} is a symbolic link to {os.path.realpath(path)}. Allowed in {root}: {allowed}. Replace the link with a"
        " copy of its target."
    )


def _stays_inside(path: Path, root: Path, *, hub_links: bool) -> bool:
    real, real_root = Path(os.path.realpath(path)), Path(os.path.realpath(root))
    if real.is_relative_to(real_root):
        return True
    blobs = _hub_blobs(real_root) if hub_links else None
    return blobs is not None and real.is_relative_to(blobs)


def _hub_blobs(root: Path) -> Path | None:
    """`blobs` of the cached repository that `root` belongs to: models--OWNER--NAME/snapshots/REVISION[/PART]."""
    for folder in (root, *root.parents):
        repository = folder.parent.parent
        if folder.parent.name == "snapshots" and repository.name.startswith("models--"):
            return repository / "blobs"
    return None
