"""Records of finished jobs in the store: jobs/PROJECT/KIND/SPEC_DIGEST/gN.json, N being the generation."""

from alignment.contracts import Sha256
from pipelines.contracts import JobKind, JobRecord
from pipelines.storage import Store


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


def _folder(store: Store, project: str, kind: JobKind, spec_digest: Sha256) -> str:
    return store.uri("jobs", project, kind, spec_digest)


def _generation(uri: str) -> int:
    return int(uri.rpartition("/g")[2].removesuffix(".json"))
