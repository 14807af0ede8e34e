"""Records of finished jobs in the store: jobs/PROJECT/KIND/SPEC_DIGEST/gN.json, where N is the generation.

started/PROJECT/KIND/SPEC_DIGEST/ has a file for each person who started such a job.
"""

import hashlib
import json

from alignment.contracts.values import Sha256
from pipelines.contracts.jobs import JobKind, JobRecord, JobRequest
from pipelines.store.storage import Store


def save_record(store: Store, record: JobRecord) -> str:
    """Store a record, replacing an earlier one of the same job, and return its URI."""
    request = record.request
    folder = _folder(store, request.project, request.kind, request.spec_digest)
    uri = f"{folder}/g{request.generation}.json"
    store.write_bytes(uri, record.model_dump_json(indent=1).encode())
    return uri


def find_record(store: Store, project: str, kind: JobKind, spec_digest: Sha256) -> JobRecord | None:
    """Find the record of a spec's latest generation; None if there is none, as for jobs of releases without records."""
    found = store.list_uris(_folder(store, project, kind, spec_digest))
    latest = max(found, key=_generation, default=None)
    return read_record(store, latest) if latest else None


def record_uris(store: Store, project: str = "", kind: JobKind = "") -> list[str]:
    """List the URIs of every record of a project, or of all projects, of one kind or all, of all generations."""
    return store.list_uris(store.uri("jobs", *filter(None, (project, kind))))


def read_record(store: Store, uri: str) -> JobRecord:
    """Read the record at a URI of `record_uris`."""
    return JobRecord.model_validate_json(store.read_bytes(uri))


def note_starter(store: Store, request: JobRequest, person: str) -> None:
    """Record who starts a job, before it runs. An empty `person`, for a schedule or an asset, is not recorded."""
    if person:
        name = hashlib.sha256(person.encode()).hexdigest()
        folder = _starters_folder(store, request.project, request.kind, request.spec_digest)
        store.create_bytes(f"{folder}/{name}.json", json.dumps({"by": person}).encode())


def starters(store: Store, project: str, kind: JobKind, spec_digest: Sha256) -> list[str]:
    """List the people who started a job of this spec, in any generation."""
    found = store.list_uris(_starters_folder(store, project, kind, spec_digest))
    return sorted(str(json.loads(store.read_bytes(uri))["by"]) for uri in found)


def _starters_folder(store: Store, project: str, kind: JobKind, spec_digest: Sha256) -> str:
    return store.uri("started", project, kind, spec_digest)


def _folder(store: Store, project: str, kind: JobKind, spec_digest: Sha256) -> str:
    return store.uri("jobs", project, kind, spec_digest)


def _generation(uri: str) -> int:
    return int(uri.rpartition("/g")[2].removesuffix(".json"))
