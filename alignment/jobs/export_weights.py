"""Convert a version's weights for other programs: `python -m alignment.jobs.export_weights --request R.json --weights
DIR --out DIR`.

OUT is written completely or not at all. Prints an ExportRecord as JSON. Exit code 2 and one line on stderr for input
that the user has to fix.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from alignment.contracts.export import ExportRecord, ExportRequest
from alignment.conversion.export import write_export
from alignment.files.durable import publish_folder
from alignment.jobs.outcome import read_object


def main(arguments: Sequence[str]) -> int:
    """Run the export and return the exit code."""
    parser = argparse.ArgumentParser(description="Convert a version's weights for other programs.")
    parser.add_argument("--request", type=Path, required=True, help="an ExportRequest as JSON")
    parser.add_argument("--weights", type=Path, required=True, help="weights/ folder of a TrainResult")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; it must not exist yet")
    parsed = parser.parse_args(arguments)
    try:
        record = _export(read_object(parsed.request, ExportRequest, "request"), parsed.weights, parsed.out)
    except ValueError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    print(record.model_dump_json())  # noqa: T201
    return 0


def _export(request: ExportRequest, weights_dir: Path, out: Path) -> ExportRecord:
    if out.exists():
        raise ValueError(f"{out} exists already; give another --out, or remove it.")
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        record = write_export(request, weights_dir, draft)
        draft.chmod(0o755)
        publish_folder(draft, out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return record


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
