"""Types of fields that name a file or folder. A relative path is resolved against the folder of the project file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ValidationInfo

__all__ = ["LocalPath", "RecipePath", "local_paths"]


def _resolve(uri: str, info: ValidationInfo) -> str:
    """Return the absolute path, relative to the context's `root`. URIs with a scheme and empty text are unchanged."""
    root: Path | None = (info.context or {}).get("root")
    return uri if root is None or not uri or "://" in uri else str((root / uri).resolve())


def _resolve_recipe(name: str, info: ValidationInfo) -> str:
    return _resolve(name, info) if name.endswith(".toml") else name


_LOCAL = AfterValidator(_resolve)
LocalPath = Annotated[str, _LOCAL]
"""A local path or a URI. Without `root` in the validation context it is unchanged."""
RecipePath = Annotated[str, AfterValidator(_resolve_recipe)]
"""The name of a recipe of the package, or the path of a recipe file ending in .toml."""


def local_paths(table: BaseModel) -> Iterator[str]:
    """Yield every non-empty `LocalPath` of a table and of its sub-tables, in the order of the fields."""
    for name, field in type(table).model_fields.items():
        value = getattr(table, name)
        is_path = _LOCAL in (*field.metadata, *_parts(field.annotation))
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, BaseModel):
                yield from local_paths(item)
            elif is_path and item:
                yield item


def _parts(annotation: Any) -> Iterator[Any]:
    """Yield the arguments of a type, at any depth."""
    for part in get_args(annotation):
        yield part
        yield from _parts(part)
