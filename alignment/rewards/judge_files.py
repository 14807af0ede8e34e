"""Files of a judge's folder, with errors that state the next step. Torch-free."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def require_files(folder: Path, what: str, names: Sequence[str]) -> None:
    """Check that the files exist. ValueError that names every missing one."""
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"The {what} {folder} lacks {', '.join(missing)}. Make it with `plumbline judges import`.")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. ValueError names the file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}. Import the judge again.") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} is not a JSON object. Import the judge again.")
    return data
