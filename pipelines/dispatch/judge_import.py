"""`plumbline judges import`: the conversion runs in a process of its own, since it needs torch."""

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
    """The folder, its digest and where its weights came from.

    ValueError for what a person has to mend, RuntimeError when the conversion broke.
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
        raise RuntimeError(f"The import of {request.source} broke:\n{done.stderr.strip()[-4000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer
