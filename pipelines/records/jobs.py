"""Records of jobs in the store: jobs/PROJECT/KIND/SPEC_DIGEST/gN.json of finished ones, N being the generation.

Beside them started/PROJECT/KIND/SPEC_DIGEST/ has a file for each person who had such a job run.
"""

import hashlib
import json

from alignment.contracts.values import Sha256
from pipelines.contracts.jobs import JobKind, JobRecord, JobRequest
from pipelines.store.storage import Store


def save_record(store: Store, record: JobRecord) -> str:
    """Keep a record, over an earlier one of the same job, and return its URI."""
    request = record.request
    folder = _folder(store, request.project, request.kind, request.spec_digest)
    uri = f"{folder}/g{request.generation}.json"
    store.write_bytes(uri, record.model_dump_json(indent=1).encode())
    return uri


def find_record(store: Store, project: str, kind: JobKind, spec_digest: Sha256) -> JobRecord | None:
    """The record of a spec's latest generation; None where none was kept, as of jobs older than records."""
    found = store.list_uris(_folder(store, project, kind, spec_digest))
    latest = max(found, key=_generation, default=None)
    return JobRecord.model_validate_json(store.read_bytes(latest)) if latest else None


def note_starter(store: Store, request: JobRequest, person: str) -> None:
    """Record who has a job run, before it does; nothing is recorded for a schedule or an asset, which are nobody."""
    if person:
        name = hashlib.sha256(person.encode()).hexdigest()
        folder = _starters_folder(store, request.project, request.kind, request.spec_digest)
        store.create_bytes(f"{folder}/{name}.json", json.dumps({"by": person}).encode())


def starters(store: Store, project: str, kind: JobKind, spec_digest: Sha256) -> list[str]:
    """Everybody who had a job of this spec run, whatever its generation."""
    found = store.list_uris(_starters_folder(store, project, kind, spec_digest))
    return sorted(str(json.loads(store.read_bytes(uri))["by"]) for uri in found)


def _starters_folder(store: Store, project: str, kind: JobKind, spec_digest: Sha256) -> str:
    return store.uri("started", project, kind, spec_digest)


def _folder(store: Store, project: str, kind: JobKind, spec_digest: Sha256) -> str:
    return store.uri("jobs", project, kind, spec_digest)


def _generation(uri: str) -> int:
    return int(uri.rpartition("/g")[2].removesuffix(".json"))
