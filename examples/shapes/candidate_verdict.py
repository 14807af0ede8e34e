"""The gate's verdict on a candidate of the shapes world, from its score table, also under a changed policy."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from candidate_truth import Line
from candidates import TRAININGS

from alignment.contracts.evaluation import EvalReport
from alignment.files.durable import file_sha256
from pipelines.contracts.release import CandidateVersion, GateDecision
from pipelines.project.gate import GatePolicy
from pipelines.release.gate import verdict
from pipelines.release.gate.checks.score_table import read_grids, recompute

PEOPLE = ("shapes_pairs",)


@dataclass(frozen=True)
class PolicyChange:
    """Changes to the gate's policy; by default none."""

    without: tuple[str, ...] = ()
    """Guards to leave out."""
    undeclared: bool = False
    """True when the lineage names only human pairs."""
    required_judges: int | None = None
    """Replaces the policy's number of judges."""


NO_CHANGE = PolicyChange()


def decide(folder: Path, policy: GatePolicy, line: Line, *, change: PolicyChange = NO_CHANGE) -> GateDecision:
    """Apply the policy to a finished candidate as the gate stage does; `folder` holds score table and report."""
    report = EvalReport.model_validate_json((folder / "report.json").read_text(encoding="utf-8"))
    columns = pq.read_table(folder / "scores.parquet").to_pydict()
    digest = file_sha256(folder / "scores.parquet")
    report, columns = left_out(report, columns, change.without)
    evidence = verdict.Evidence(
        report=report,
        scores=read_grids(columns),
        policy=policy_for(policy, change),
        candidate=version(line, report, training_sources(line, change)),
        champion_version=None,
        champion_weights_digest=report.spec.base_digest,
        table_problems=recompute(report, columns, scores_sha256=digest),
        prompts_digest=report.spec.prompts_digest,
    )
    return verdict.decide(evidence)


def training_sources(line: Line, change: PolicyChange) -> tuple[str, ...]:
    """The training sources that the candidate declares."""
    return PEOPLE if change.undeclared or line.training not in TRAININGS else TRAININGS[line.training].training_sources


def version(line: Line, report: EvalReport, trained_on: tuple[str, ...]) -> CandidateVersion:
    """The candidate as the registry stores it."""
    return CandidateVersion(
        model="shapes",
        version=1,
        kind="full",
        weights_digest=line.weights_digest,
        weights_uri="",
        spec_digest=line.weights_digest,
        base_digest=report.spec.base_digest,
        snapshot_digest=report.spec.snapshot_digest,
        trained_on=trained_on,
        run_id="",
    )


def policy_for(policy: GatePolicy, change: PolicyChange) -> GatePolicy:
    """The policy without some guards and with another number of judges."""
    kept = {name: rule for name, rule in policy.guards.items() if name not in change.without}
    judges = change.required_judges or policy.required_judges
    return policy.model_copy(update={"guards": kept, "required_judges": judges})


def left_out(
    report: EvalReport, columns: dict[str, list[Any]], names: Sequence[str]
) -> tuple[EvalReport, dict[str, list[Any]]]:
    """Report and score table as if some guards had not been measured."""
    if not names:
        return report, columns
    keep = [scorer not in names for scorer in columns["scorer"]]
    rest = {key: [v for v, kept in zip(values, keep, strict=True) if kept] for key, values in columns.items()}
    spec = report.spec.model_copy(update={"guards": tuple(g for g in report.spec.guards if g.name not in names)})
    comparisons = tuple(c for c in report.comparisons if c.scorer not in names)
    return report.model_copy(update={"spec": spec, "comparisons": comparisons}), rest
