"""Names of files inside a folder, as value objects, manifests and listings store them. Torch-free."""

from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AfterValidator

ALLOWED = "Allowed: a plain relative path, without '..', a leading '/', a backslash, a drive letter or empty parts."


def check_name(name: str, root: Path | str, source: Path | str = "") -> str:
    """Return `name` if it is a plain relative path with forward slashes that stays inside `root`.

    Raises ValueError otherwise. The error names `root` and `source`, the file or listing that the name came from.
    """
    pure = PurePosixPath(name)
    plain = name == pure.as_posix() and pure.parts and not pure.is_absolute()
    if not plain or ".." in pure.parts or "\\" in name or "\0" in name or ":" in pure.parts[0]:
        origin = f"{source}: " if source else ""
        raise ValueError(f"{origin}Path {name!r} does not stay inside {root}. {ALLOWED}")
    return name


def _check_field(name: str) -> str:
    return check_name(name, "its folder")


RelativeName = Annotated[str, AfterValidator(_check_field)]
"""A field of a value object that names a file below the folder of the object's file; see `check_name`."""
