"""`plumbline judges import`: the conversion runs in a separate process, since it needs torch."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from alignment.config import validate
from alignment.conversion.catalogue import ImportRequest, find_import

BAD_INPUT = 2


def import_judge(fields: dict[str, Any], out: str) -> dict[str, Any]:
    """Return the folder, its digest and the source of its weights.

    ValueError for what a person has to fix, RuntimeError when the conversion failed.
    """
    request = validate(ImportRequest, fields, what="judges import")
    find_import(request.kind)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "request.json"
        path.write_text(request.model_dump_json(), encoding="utf-8")
        command = [sys.executable, "-m", "alignment.jobs.import_judge", "--request", str(path), "--out", out]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == BAD_INPUT:
        raise ValueError(done.stderr.strip().splitlines()[-1])
    if done.returncode:
        raise RuntimeError(f"The import of {request.source} failed:\n{done.stderr.strip()[-4000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer
