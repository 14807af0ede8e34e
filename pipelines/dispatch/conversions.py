"""Run a conversion of weights in a separate process, since it needs torch."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pydantic import BaseModel

BAD_INPUT = 2


def run_conversion(module: str, request: BaseModel, options: dict[str, str], *, what: str) -> dict[str, Any]:
    """Run `python -m MODULE` with the request as a file, and return the JSON of its last line.

    ValueError for what a person has to fix, RuntimeError when the conversion failed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "request.json"
        path.write_text(request.model_dump_json(), encoding="utf-8")
        given = [part for name, value in options.items() for part in (f"--{name}", value)]
        command = [sys.executable, "-m", module, "--request", str(path), *given]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == BAD_INPUT:
        raise ValueError(done.stderr.strip().splitlines()[-1])
    if done.returncode and "No module named 'torch'" in done.stderr:
        raise RuntimeError(f"{what} needs torch, which is not installed here. Run pip install 'plumbline[gpu]'.")
    if done.returncode:
        raise RuntimeError(f"{what} failed:\n{done.stderr.strip()[-4000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer
