"""Read the history of a version from the store, back to its pairs, for the report and the model card.

Nothing here affects the decision. Missing or unreadable records are left out with a warning, so that a report can
always be written.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import ValidationError

from alignment.contracts.data import DatasetSnapshot, FeatureCache
from alignment.contracts.evaluation import EvalReport
from alignment.contracts.jobs import METRICS_FILE, MetricsLine
from alignment.contracts.reference_errors import ReferenceErrors
from alignment.contracts.soup import SoupResult, SoupSpec
from alignment.contracts.training import Recipe, TrainResult, TrainSpec
from alignment.contracts.values import ValueObject
from pipelines.contracts.jobs import ComputeTotal, JobKind, JobRecord
from pipelines.contracts.release import CandidateVersion, GateDecision
from pipelines.project.file import Project
from pipelines.project.sections import SourceSection
from pipelines.records.compute import total_compute
from pipelines.records.jobs import find_record
from pipelines.store.storage import Store
from pipelines.workspace import Workspace

log = logging.getLogger(__name__)

Value = TypeVar("Value", bound=ValueObject)


@dataclass(frozen=True)
class Provenance:
    """The stages that led to a version; None or empty where the store has no record of them."""

    sources: tuple[SourceSection, ...] = ()
    """The project's current sources whose pairs are in the snapshot."""
    snapshot: DatasetSnapshot | None = None
    cache: FeatureCache | None = None
    result: TrainResult | None = None
    """The result of a single run."""
    soup: SoupResult | None = None
    """The result of an average of runs."""
    recipes: tuple[Recipe, ...] = ()
    """The recipe of the run, or of each ingredient of the soup."""
    metrics: tuple[MetricsLine, ...] = ()
    """The run's metrics.jsonl; empty for a soup."""
    records: tuple[JobRecord, ...] = field(default=())
    """Finished jobs in the order of the stages; jobs from before job records existed are missing."""
    project_total: ComputeTotal = field(default_factory=ComputeTotal)
    """Compute time and cost of all jobs of the project."""


def read_provenance(
    candidate: CandidateVersion, workspace: Workspace, *, evaluations: Sequence[tuple[JobKind, str]] = ()
) -> Provenance:
    """Read everything that the store has on a version. `evaluations` are its evaluation jobs as (kind, spec digest)."""
    project = workspace.project
    store = workspace.store
    judged = _records(store, project, evaluations)
    snapshot = _value(store, candidate.snapshot_uri, DatasetSnapshot)
    names = snapshot.sources if snapshot else candidate.trained_on
    sources = tuple(source for source in project.sources if source.name in names)
    total = total_compute(store, project.name)
    soup = _value(store, candidate.weights_uri, SoupResult)
    if soup is not None:
        made = _records(store, project, [("soup", soup.spec_digest)])
        parts = [part for record in made for part in SoupSpec.model_validate(record.request.spec).ingredients]
        runs = _records(store, project, [("train", part.result.spec_digest) for part in parts])
        recipes = tuple(part.recipe for part in parts)
        records = (*runs, *made, *judged)
        return Provenance(sources, snapshot, soup=soup, recipes=recipes, records=records, project_total=total)
    runs = _records(store, project, [("train", candidate.spec_digest)])
    cache = _cache(store, runs)
    encoded = _records(store, project, [("encode", cache.spec_digest)] if cache else [])
    return Provenance(
        sources,
        snapshot,
        cache,
        result=_value(store, candidate.weights_uri, TrainResult),
        recipes=tuple(TrainSpec.model_validate(record.request.spec).recipe for record in runs),
        metrics=read_metrics(store, candidate.weights_uri),
        records=(*encoded, *_records(store, project, _errors_used(store, runs)), *runs, *judged),
        project_total=total,
    )


def read_metrics(store: Store, weights_uri: str) -> tuple[MetricsLine, ...]:
    """Read the metrics of a finished run; empty where there are none."""
    uri = f"{weights_uri}/{METRICS_FILE}"
    if not store.exists(uri):
        return ()
    return tuple(MetricsLine.model_validate_json(line) for line in store.read_bytes(uri).splitlines())


def read_evaluation(store: Store, decision: GateDecision) -> EvalReport | None:
    """Read the evaluation that a decision is about; None when it is no longer in the store, or was changed."""
    report = _value(store, decision.evaluation_uri, EvalReport)
    return report if report is not None and report.digest == decision.report_digest else None


def _records(store: Store, project: Project, jobs: Sequence[tuple[JobKind, str]]) -> tuple[JobRecord, ...]:
    found = (find_record(store, project.name, kind, digest) for kind, digest in dict.fromkeys(jobs))
    return tuple(record for record in found if record is not None)


def _cache(store: Store, runs: Sequence[JobRecord]) -> FeatureCache | None:
    """Return the feature cache that a run read: the input whose digest its spec names."""
    for record in runs:
        wanted = TrainSpec.model_validate(record.request.spec).cache_digest
        for part in record.request.inputs:
            if part.content_digest == wanted:
                return _value(store, part.uri, FeatureCache)
    return None


def _errors_used(store: Store, runs: Sequence[JobRecord]) -> list[tuple[JobKind, str]]:
    """Return the jobs whose errors of the base the runs read. Of their inputs only these have an alias."""
    uris = [part.uri for record in runs for part in record.request.inputs if part.alias]
    found = (_value(store, uri, ReferenceErrors) for uri in uris)
    return [("reference_errors", errors.spec_digest) for errors in found if errors is not None]


def _value(store: Store, uri: str, kind: type[Value]) -> Value | None:
    """Return the value object in a folder's manifest; None when the folder is missing or has another kind of value."""
    if not uri:
        return None
    try:
        manifest = store.read_manifest(uri)
        return kind.model_validate(manifest.value) if manifest else None
    except ValidationError:
        return None
    except ValueError as error:
        log.warning("%s cannot be read, so the report leaves it out: %s", uri, error)
        return None
