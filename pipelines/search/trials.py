"""One trial: a short training job and an evaluation of its weights by the validation judge, both ordinary jobs."""

import json
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from alignment.contracts.data import DatasetSnapshot, FeatureCache
from alignment.contracts.evaluation import Comparison, EvalReport
from alignment.contracts.jobs import HEALTH, METRICS_FILE, SCORES_FILE, MetricsLine
from alignment.contracts.reference_errors import ReferenceErrors, may_share
from alignment.contracts.training import Lora, Recipe, TrainResult
from alignment.statistics.comparison import Floats, ScoreTable, seed_grid
from pipelines.contracts.jobs import JobRequest
from pipelines.contracts.release import CandidateVersion
from pipelines.dispatch import jobs
from pipelines.dispatch.job_kinds import Encode, Evaluate, Reference, Train
from pipelines.dispatch.requests.judging import comparison_request
from pipelines.dispatch.sizing.memory import GIB, Denoiser, case_of, training_memory
from pipelines.project.file import Project
from pipelines.search.ranking import Limits, TrialOutcome, TrialReport
from pipelines.search.space import Proposal
from pipelines.settings import Settings
from pipelines.store.storage import open_store
from pipelines.workspace import Workspace

log = logging.getLogger(__name__)

MEMORY_METRICS = ("gpu_memory_gib", "resident_memory_gib")
PACE_METRICS = ("pairs_per_second", "prompts_per_second")
REFERENCE_TIME = f"{HEALTH}reference_milliseconds"
"""Metric of a run that computed the base's errors itself."""

RunJob = Callable[[JobRequest], dict[str, Any]]
"""Run a job to its end, or find its result; JobError when there is none."""


@dataclass(frozen=True)
class _Figures:
    """Figures from a trial's metrics.jsonl."""

    items_per_second: float
    peak_memory_gib: float


@dataclass(frozen=True)
class TrialBench:
    """Measures proposals on the engine."""

    project: Project
    """The project with the validation's prompts, seeds and judge instead of the evaluation's."""
    settings: Settings
    snapshot: DatasetSnapshot
    limits: Limits
    denoiser: Denoiser
    """The base's denoiser, of which the floor needs the weights only."""
    run_job: RunJob
    shared_visits: int = 0
    """Visits of pairs of the longest trial, whose errors of the base are computed once for all trials; 0: each trial
    computes them."""

    @property
    def judge(self) -> str:
        """Return the name of the validation judge."""
        return self.project.evaluation.judges[0].name

    def measure(self, proposal: Proposal, seconds_left: float) -> TrialReport:
        """Train for a few steps, then judge if the limits hold. `seconds_left` is for this trial and the complete run.

        A trial that does not fit, diverges or runs out of memory is a report; any other JobError is raised.
        """
        started = time.monotonic()
        floor = training_memory(case_of(proposal.recipe, proposal.placement), self.denoiser).floor / GIB
        report = TrialReport(
            outcome="measured",
            recipe=proposal.start,
            changes=proposal.changes,
            micro_batch=proposal.placement.micro_batch,
            memory_floor_gib=floor,
        )
        if floor > self.limits.memory_gib:
            return _refused(report, "over_memory", f"Weights and optimiser alone need {floor:.2f} GiB.", started)
        try:
            training = self.training(proposal)
            request = training.request(self._workspace(proposal))
            result = TrainResult.model_validate(self.run_job(request))
        except jobs.Diverged as error:
            return _refused(report, "diverged", str(error), started)
        except jobs.OutOfMemory as error:
            return _refused(report, "out_of_memory", str(error), started)
        report = _with_figures(report, self.figures(result, training.reference), proposal.recipe)
        report = report.model_copy(update={"spec_digest": result.spec_digest})
        return self._judged(report, result, seconds_left, started)

    def _judged(self, report: TrialReport, result: TrainResult, seconds_left: float, started: float) -> TrialReport:
        """Return the report with the judge's comparison, or with the limit that the trial exceeds."""
        assert report.peak_memory_gib is not None
        assert report.final_run_hours is not None
        if report.peak_memory_gib > self.limits.memory_gib:
            reason = (
                f"Measured {report.peak_memory_gib:.2f} GiB at the peak; {self.limits.memory_gib:g} GiB are allowed."
            )
            return _refused(report, "over_memory", reason, started)
        left = (seconds_left - (time.monotonic() - started)) / 3600
        if report.final_run_hours > left:
            reason = f"The complete run would take {report.final_run_hours:.2f} h; {max(0.0, left):.2f} h are left."
            return _refused(report, "over_time", reason, started)
        evaluation = EvalReport.model_validate(self.run_job(self.validation_request(result)))
        return report.model_copy(
            update={
                "against_base": self._against_base(evaluation),
                "judge_accuracy": next((c.accuracy for c in evaluation.calibrations if c.judge == self.judge), None),
                "evaluation_uri": evaluation.uri,
                "seconds": time.monotonic() - started,
            }
        )

    # --- jobs ---

    def training(self, proposal: Proposal) -> Train:
        """Return the trial's training; its features and, if shared, the base's errors are computed first where that
        was not done before.
        """
        if proposal.trial.objective.online:
            return Train(recipe=proposal.trial)
        encode = Encode(snapshot=self.snapshot, recipe=proposal.trial).request(self._workspace(proposal))
        cache = FeatureCache.model_validate(self.run_job(encode))
        return Train(recipe=proposal.trial, cache=cache, reference=self._reference(proposal, cache))

    def _workspace(self, proposal: Proposal) -> Workspace:
        placement = self.project.placement.model_copy(update={"train": proposal.placement})
        return Workspace(self.project.model_copy(update={"placement": placement}), self.settings)

    def _reference(self, proposal: Proposal, cache: FeatureCache) -> ReferenceErrors | None:
        """Return the base's errors for the trials of this base, if they may be shared.

        A full fine-tune loads its reference all the same: the trial measures the memory of the complete run.
        """
        recipe, sharded = proposal.trial, self.project.placement.train.sharding != "none"
        if not self.shared_visits or sharded or not isinstance(recipe.tuning, Lora) or not may_share(recipe):
            return None
        job = Reference(recipe=recipe, cache=cache, num_visits=self.shared_visits)
        request = job.request(Workspace(self.project, self.settings))
        return ReferenceErrors.model_validate(self.run_job(request))

    def validation_request(self, result: TrainResult) -> JobRequest:
        """Return the job that compares a trial's weights with the base, like an evaluation of an unregistered
        candidate.
        """
        candidate = CandidateVersion(
            model=self.project.name,
            version=0,
            kind=result.kind,
            weights_digest=result.weights_digest,
            weights_uri=result.uri,
            spec_digest=result.spec_digest,
            base_digest=result.base_digest,
            snapshot_digest=self.snapshot.content_digest,
            snapshot_uri=self.snapshot.uri,
            trained_on=result.trained_on or self.snapshot.sources,
            run_id="",
        )
        return comparison_request(Workspace(self.project, self.settings), Evaluate(candidate=candidate))

    # --- results of jobs ---

    def figures(self, result: TrainResult, reference: ReferenceErrors | None = None) -> _Figures:
        """Read pace and peak of a finished trial from its metrics.jsonl in the store.

        A trial that found the base's errors is slower by the pace at which they were computed, as the complete run is.
        """
        lines = self._metrics(result.uri)
        figures = _read_figures(lines)
        if reference is None or any(REFERENCE_TIME in line for line in lines):
            return figures
        paces = [line[PACE_METRICS[0]] for line in self._metrics(reference.uri)]
        seconds = 1 / figures.items_per_second + 1 / statistics.median(paces)
        return replace(figures, items_per_second=1 / seconds)

    def _metrics(self, uri: str) -> list[dict[str, float]]:
        data = open_store(self.settings.store_uri, self.settings).read_bytes(f"{uri}/{METRICS_FILE}")
        return [MetricsLine.model_validate(json.loads(line)).metrics for line in data.splitlines()]

    def prompt_scores(self, report: TrialReport) -> Floats:
        """Return the validation judge's mean over seeds for each prompt, for a trial's weights."""
        import io

        import pyarrow.parquet as pq

        data = open_store(self.settings.store_uri, self.settings).read_bytes(f"{report.evaluation_uri}/{SCORES_FILE}")
        table = ScoreTable.from_columns(pq.read_table(io.BytesIO(data)).to_pydict())
        return seed_grid(table, self.judge, "candidate").prompt_means()

    def _against_base(self, evaluation: EvalReport) -> Comparison:
        found = [c for c in evaluation.comparisons if (c.scorer, c.against) == (self.judge, "base")]
        if evaluation.problems or not found:
            problems = " ".join(evaluation.problems) or "The report has no comparison with the base."
            raise RuntimeError(f"The validation of a trial failed, see {evaluation.uri}: {problems}")
        return found[0]


def _read_figures(lines: Sequence[dict[str, float]]) -> _Figures:
    """Return the median pace over the steps after the first, which warms up, and the highest peak.

    ValueError when the trial left no figures, as with a trial trained by an earlier version.
    """
    paces = [line[name] for line in lines for name in PACE_METRICS if name in line]
    peaks = [line[name] for line in lines for name in MEMORY_METRICS if name in line]
    if not paces or not peaks:
        raise ValueError("A trial's metrics have no pace or no memory. Search on a host that reports both (Linux).")
    return _Figures(items_per_second=statistics.median(paces[1:] or paces), peak_memory_gib=max(peaks))


def _with_figures(report: TrialReport, figures: _Figures, recipe: Recipe) -> TrialReport:
    """Return the report with the measured figures, and the hours that the complete run will take at that pace."""
    seconds = recipe.steps * recipe.global_batch / figures.items_per_second
    return report.model_copy(
        update={
            "items_per_second": figures.items_per_second,
            "peak_memory_gib": figures.peak_memory_gib,
            "memory_beyond_floor_gib": figures.peak_memory_gib - (report.memory_floor_gib or 0.0),
            "final_run_hours": seconds / 3600,
        }
    )


def _refused(report: TrialReport, outcome: TrialOutcome, reason: str, started: float) -> TrialReport:
    """Return the report of a trial that is not ranked."""
    return report.model_copy(
        update={"outcome": outcome, "reason": reason, "seconds": time.monotonic() - started},
    )
