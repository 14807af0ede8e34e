"""Requests of jobs for tests: each test states only the fields that it is about."""

import hashlib
from typing import Any

from alignment.contracts.jobs import Placement
from alignment.contracts.values import canonical_json
from pipelines.contracts.jobs import JobRequest


def made_request(store_uri: str = "file:///store", **fields: Any) -> JobRequest:
    """Return the request of a training job without a specification and inputs; `fields` replaces fields of it."""
    facts = {"project": "words", "kind": "train", "spec": {}, "spec_digest": "a" * 64, "inputs": ()}
    facts |= {"output_uri": f"{store_uri}/models/a", "placement": Placement()}
    return JobRequest(**{**facts, **fields})


def counting_request(store_uri: str, spec: dict[str, Any], **placement: Any) -> JobRequest:
    """Return the request of a job for counting_worker.py; another spec is another job."""
    digest = hashlib.sha256(canonical_json(spec).encode()).hexdigest()
    return made_request(
        project="count",
        spec=spec,
        spec_digest=digest,
        output_uri=f"{store_uri}/models/{digest}",
        placement=Placement(**placement),
    )
