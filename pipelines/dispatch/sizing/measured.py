"""Measured pace of finished trainings, which replaces the estimate where work and card are the same. Torch-free."""

import logging
from dataclasses import dataclass
from datetime import date
from functools import partial

from pydantic import ValidationError

from alignment.contracts.jobs import Placement, TrainingPace
from alignment.contracts.reference_errors import reference_spec
from alignment.contracts.training import Recipe, TrainSpec
from alignment.contracts.values import Record
from pipelines.contracts.jobs import JobRequest
from pipelines.dispatch.cached_digests import folder_fingerprint
from pipelines.dispatch.hub import SCHEME
from pipelines.dispatch.inputs import hash_cache_dir
from pipelines.dispatch.model_folders import is_here, local_folder
from pipelines.dispatch.sizing.cards import Card, find_card
from pipelines.dispatch.sizing.memory import TrainingCase
from pipelines.records.jobs import read_record, record_uris
from pipelines.store.folders import in_parallel
from pipelines.workspace import Workspace

log = logging.getLogger(__name__)


class Measured(Record):
    """Pace and memory of a finished training that did the same work on the same card."""

    gpu: str
    """Name of the card by its driver."""
    job_id: str
    on: date
    micro_batch: int
    pairs_per_second: float
    """Of one GPU."""
    peak_gib: float
    """Most memory that a process reserved."""


@dataclass(frozen=True)
class Run:
    """A finished training with a measured pace."""

    spec: TrainSpec
    request: JobRequest
    pace: TrainingPace

    @property
    def shared_reference(self) -> bool:
        """Return True if the errors of the base were computed before, so that its pass was not."""
        wanted = reference_spec(self.spec)
        return wanted is not None and wanted.key in {item.alias for item in self.request.inputs}


def finished_runs(workspace: Workspace) -> list[Run]:
    """Return the project's measured trainings of its base as it is now, the newest first.

    None if the store cannot be read: a plan then has estimates alone.
    """
    try:
        runs = _all_runs(workspace)
    except (OSError, ValueError) as error:
        log.warning("The pace of earlier trainings is not used: %s", error)
        return []
    if not runs:
        return []
    digest = _base_digest(workspace)
    own = [run for run in runs if _is_of_base(run, workspace, digest)]
    return sorted(own, key=lambda run: run.pace.finished_at, reverse=True)


def measured_run(
    runs: list[Run], recipe: Recipe, placement: Placement, *, case: TrainingCase, card: Card, shared: bool
) -> Measured | None:
    """Return the measurement of the first run that did the work of a recipe and placement on this card; else None.

    `case` is that of recipe and placement; `shared` says that the errors of the base are computed beforehand.
    """
    for run in runs:
        same = run.shared_reference == shared and _work(run.spec.recipe) == _work(recipe)
        if same and find_card(run.pace.device) == card and _placed_alike(run, placement, case):
            return Measured(
                gpu=run.pace.device,
                job_id=run.request.job_id,
                on=run.pace.finished_at.date(),
                micro_batch=run.pace.micro_batch,
                pairs_per_second=run.pace.pairs_per_second,
                peak_gib=round(run.pace.peak_gib, 2),
            )
    return None


def _work(recipe: Recipe) -> tuple[object, ...]:
    """Return the part of a recipe that decides the work of a step; rates, seed and number of steps do not."""
    trained = (recipe.objective.name, recipe.objective.needs_reference, recipe.tuning, recipe.optimiser.kind)
    stored = (recipe.precision, recipe.frozen_weights)
    return (recipe.backbone, recipe.images, *trained, *stored, recipe.global_batch)


def _placed_alike(run: Run, placement: Placement, case: TrainingCase) -> bool:
    """Return True if a run was placed as a placement says, in what decides its pace.

    What the job itself chooses (`auto`) is alike if both leave it to the job; else the figures count.
    """
    asked, pace = run.request.placement, run.pace
    fixed = ("sharding", "compile_blocks", "channels_last", "fused_optimiser")
    return (
        pace.num_processes == placement.num_processes
        and all(getattr(asked, name) == getattr(placement, name) for name in fixed)
        and (pace.micro_batch == case.micro_batch or (asked.auto and placement.auto))
        and (
            pace.checkpointed_every == case.checkpoint_every
            or asked.gradient_checkpointing == placement.gradient_checkpointing == "auto"
        )
    )


def _all_runs(workspace: Workspace) -> list[Run]:
    store, found = workspace.store, list[Run]()

    def read(uri: str) -> None:
        try:
            record = read_record(store, uri)
        except ValueError as error:
            log.warning("%s cannot be read, so its pace is not used: %s", uri, str(error).splitlines()[0])
            return
        try:
            spec = TrainSpec.model_validate(record.request.spec)
        except ValidationError:
            return  # a job of another version; its settings may mean something else
        if record.pace is not None:
            found.append(Run(spec, record.request, record.pace))

    in_parallel([partial(read, uri) for uri in record_uris(store, workspace.project.name, "train")])
    return found


def _base_digest(workspace: Workspace) -> str | None:
    """Return the digest of the base's folder on this host; None if it is not here."""
    uri, settings = workspace.project.base.uri, workspace.settings
    return folder_fingerprint(local_folder(uri, settings), hash_cache_dir(settings)) if is_here(uri, settings) else None


def _is_of_base(run: Run, workspace: Workspace, digest: str | None) -> bool:
    """Return True if a run trained the base with this digest; without one, the base at the same unchangeable URI."""
    if digest is not None:
        return run.spec.base_digest == digest
    uri = workspace.project.base.uri
    used = {item.uri for item in run.request.inputs if item.content_digest == run.spec.base_digest}
    return uri.startswith((SCHEME, "s3://")) and uri in used
