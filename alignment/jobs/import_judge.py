"""Convert published weights of a judge once: `python -m alignment.jobs.import_judge --request R.json --out DIR`.

OUT is written completely or not at all, with import.json that pins the sha256 of the files read. Prints OUT's content
digest as JSON. Exit code 2 and one line on stderr for input that the user has to fix.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from alignment.catalogues.lookup import resolve
from alignment.contracts.judges import Judge
from alignment.conversion.catalogue import ImportRecord, ImportRequest, JudgeImport, find_import
from alignment.conversion.folders import weights_files
from alignment.files.durable import content_digest, file_sha256, publish_folder, write_json
from alignment.jobs.outcome import read_object
from alignment.rewards.blindness import check_sight
from alignment.rewards.interface import load_scorer

RECORD_FILE = "import.json"


def main(arguments: Sequence[str]) -> int:
    """Run the import and return the exit code."""
    parser = argparse.ArgumentParser(description="Convert published weights of a judge.")
    parser.add_argument("--request", type=Path, required=True, help="an ImportRequest as JSON")
    parser.add_argument("--out", type=Path, required=True, help="folder of the judge; it must not exist yet")
    parsed = parser.parse_args(arguments)
    try:
        record = _import_judge(read_object(parsed.request, ImportRequest, "request"), parsed.out)
    except ValueError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    result = {"folder": str(parsed.out), "digest": content_digest(parsed.out), **record.model_dump(mode="json")}
    print(json.dumps(result))  # noqa: T201
    return 0


def _import_judge(request: ImportRequest, out: Path) -> ImportRecord:
    """Fill `out`. ValueError names every fault of the request or the weights; `out` is then not created."""
    entry = find_import(request.kind)
    _check_request(entry, request, out)
    files = weights_files(request)
    for path in files:
        if not path.is_file():
            raise ValueError(f"The weights file {path} does not exist. Give {entry.source}.")
    digests = {path.name: file_sha256(path) for path in files}
    is_published = _check_source(entry, request, digests[files[0].name])
    paths = {"source": request.source, "base": request.base, "template": request.template}
    names = {field: Path(path).name if path else None for field, path in paths.items()}
    record = ImportRecord(request=request.model_copy(update=names), source_sha256=digests, is_published=is_published)
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        resolve(entry.implementation)(request, draft)
        _check_scores(entry, request, draft)
        write_json(draft / RECORD_FILE, record.model_dump(mode="json"))
        draft.chmod(0o755)
        publish_folder(draft, out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return record


def _check_scores(entry: JudgeImport, request: ImportRequest, draft: Path) -> None:
    """Load the scorer and score some pictures. ValueError when it is damaged, or blind to the image or the prompt."""
    facts = {"name": entry.kind, "scorer": {"kind": entry.kind}, "weights_digest": "0" * 64}
    judge = Judge.model_validate(facts)
    reads_prompt = entry.reads_prompt and not (entry.kind == "clip_head" and request.reads == "image")
    scorer = load_scorer(judge, draft, torch.device("cpu"))
    check_sight(scorer, reads_prompt=reads_prompt, what=f"{entry.kind} judge from {request.source}")


def _check_request(entry: JudgeImport, request: ImportRequest, out: Path) -> None:
    """Raise ValueError for every fault that shows before the weights are read."""
    wrong = []
    if out.exists():
        wrong.append(f"{out} exists already; give another --out, or remove it")
    if not Path(request.source).exists():
        wrong.append(f"--source {request.source} does not exist; it must be the {entry.source}")
    if entry.base and not request.base and "if the source lacks" not in entry.base:
        wrong.append(f"--base is needed: the {entry.base}")
    if request.base and not Path(request.base).is_dir():
        wrong.append(f"--base {request.base} is not a folder; it must be the {entry.base}")
    if entry.needs_template and not request.template:
        wrong.append("--template is needed: the rubric as text, or the authors' data_collator_qwen.py")
    if wrong:
        raise ValueError(f"The {request.kind} judge cannot be imported: {'; '.join(wrong)}.")


def _check_source(entry: JudgeImport, request: ImportRequest, sha256: str) -> bool:
    """Check that the file is a published one. ValueError for a file other than the requested or published ones."""
    if request.sha256 is not None and sha256 != request.sha256:
        raise ValueError(f"{request.source} has sha256 {sha256}, not {request.sha256}. Download it again.")
    if entry.published and request.sha256 is None and sha256 not in entry.published.values():
        raise ValueError(
            f"{request.source} has sha256 {sha256}, which is none of the published files"
            f" ({', '.join(entry.published)}). Download it again, or give --sha256 if you mean this file."
        )
    return sha256 in entry.published.values()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
