"""Parts that the requests of every kind of job share: kind, digest, placement and the location of the result.

The result's URI is named by the digest of the specification, so the same science is never computed twice.
"""

from alignment.contracts.jobs import Placement
from alignment.contracts.values import ValueObject
from pipelines.contracts.jobs import JobInput, JobRequest, SideOutput
from pipelines.dispatch.job_kinds import kind_of
from pipelines.workspace import Workspace

__all__ = ["make_request", "with_generation"]


def make_request(
    workspace: Workspace, spec: ValueObject, *, inputs: list[JobInput], side_outputs: list[SideOutput] | None = None
) -> JobRequest:
    """Add to a specification everything needed to run it; an input named twice is kept once."""
    kind = kind_of(spec)
    placement: Placement = getattr(workspace.project.placement, kind.placement)
    return JobRequest(
        project=workspace.project.name,
        kind=kind.name,
        spec=spec.model_dump(mode="json"),
        spec_digest=spec.digest,
        inputs=_distinct(inputs),
        output_uri=workspace.store.uri(kind.folder, spec.digest),
        side_outputs=tuple(side_outputs or ()),
        placement=placement,
        prices=workspace.project.prices,
    )


def with_generation(request: JobRequest, generation: int) -> JobRequest:
    """Request the same job once more: another job id, another folder of the store for its result."""
    store_uri, _, name = request.output_uri.rpartition("/")
    name = request.spec_digest if generation == 0 else f"{request.spec_digest}.g{generation}"
    return request.model_copy(update={"generation": generation, "output_uri": f"{store_uri}/{name}"})


def _distinct(inputs: list[JobInput]) -> tuple[JobInput, ...]:
    """Keep one input per name under the inputs dir: two roles may use the same weights."""
    return tuple({item.alias or item.content_digest: item for item in inputs}.values())
