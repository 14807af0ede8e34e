"""Weight files listed in a safetensors index. Torch-free."""

import json
from pathlib import Path

from alignment.files.paths import resolve_below


def indexed_files(index: Path) -> list[Path]:
    """List the distinct files of an index's weight_map, in the index's folder, sorted by name. They need not exist.

    ValueError when the file is not an index, or names a path outside its folder; see `paths.resolve_below`.
    """
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is not an index of safetensors files: {error!r}. Copy the model again.") from error
    return [resolve_below(index.parent, str(name), index, hub_links=True) for name in sorted(names, key=str)]
