"""EvalReport, its score table and GatePolicy to GateDecision: pure arithmetic, no I/O.

What each verdict says, strongest first:

- `invalid`: the evidence cannot be used. A measurement is missing, not finite or contradicts the score table, the
  report speaks of other weights or prompts, there are fewer prompts than the policy's least, scoring had problems, too
  few judges may vote, or something that blocks could not be measured.
- `hold`: the evidence speaks against the candidate. Even if every undecided judge came round, too few could prefer it;
  or a guard is broken, a slice got worse, a detector that blocks found a hacked judge; or the candidate is the champion
  already.
- `inconclusive`: sound evidence, but not enough of it: judges or guards are undecided, or the prompts are too few to
  find the effect that the policy states. More prompts may settle it.
- `promote`: at least the required number of voting judges prefer the candidate, and everything else holds.

Each family of checks has a file in `checks`; each finding says which verdict it alone would allow, and the strongest
counts. Guards all have to hold, so they need no correction; votes and slices are corrected in their files.
"""

from collections.abc import Mapping, Sequence

from alignment.contracts.calibration import Calibration
from alignment.contracts.evaluation import EvalReport
from alignment.statistics.score_grids import ScoreGrids
from pipelines.contracts.release import CandidateVersion, GateDecision
from pipelines.project.gate import GatePolicy
from pipelines.release.gate.checks.detectors import detector_checks
from pipelines.release.gate.checks.guards import guard_checks
from pipelines.release.gate.checks.identity import already_champion, identity_checks, soundness_checks
from pipelines.release.gate.checks.interface import Evidence, Finding, Verdict
from pipelines.release.gate.checks.power import power_checks
from pipelines.release.gate.checks.slices import slice_checks
from pipelines.release.gate.checks.votes import ballots, superiority_checks

__all__ = ["Finding", "decide"]

_SEVERITY: tuple[Verdict, ...] = ("promote", "inconclusive", "hold", "invalid")


def decide(
    report: EvalReport,
    policy: GatePolicy,
    candidate: CandidateVersion,
    *,
    champion_version: int | None,
    champion_weights_digest: str,
    scores: ScoreGrids,
    table_problems: Sequence[str],
    prompts_digest: str | None = None,
    barred: Mapping[str, str] | None = None,
    calibrations: Sequence[Calibration] | None = None,
) -> GateDecision:
    """The verdict on a candidate, with every check that led to it.

    `champion_version` and `champion_weights_digest` are what the registry says now; without a champion they are None
    and the base's digest. `scores` is the report's score table and `table_problems` what `evidence.recompute` found in
    it; `prompts_digest` is that of the project's present prompts. `barred` keeps judges from voting for reasons outside
    this evaluation (see `Evidence.barred`), and `calibrations` are its judges' agreements on the pairs that count for a
    vote; None takes the report's, on every pair. The policy's mode is only carried along: promotion obeys it.
    """
    evidence = Evidence(
        report=report,
        scores=scores,
        policy=policy,
        candidate=candidate,
        champion_version=champion_version,
        champion_weights_digest=champion_weights_digest,
        table_problems=table_problems,
        prompts_digest=prompts_digest,
        barred=barred or {},
        calibrations=tuple(report.calibrations if calibrations is None else calibrations),
    )
    if candidate.weights_digest == champion_weights_digest:
        return _decision(evidence, [already_champion(evidence)])
    return _decision(evidence, _findings(evidence))


def _findings(evidence: Evidence) -> list[Finding]:
    ballot_lines, voting = ballots(evidence)
    return [
        *identity_checks(evidence),
        *soundness_checks(evidence),
        *ballot_lines,
        *superiority_checks(evidence, voting),
        *guard_checks(evidence),
        *slice_checks(evidence, voting),
        *detector_checks(evidence, voting),
        *power_checks(evidence, voting),
    ]


def _decision(evidence: Evidence, findings: Sequence[Finding]) -> GateDecision:
    report = evidence.report
    return GateDecision(
        verdict=max((finding.allows for finding in findings), key=_SEVERITY.index),
        mode=evidence.policy.mode,
        checks=tuple(finding.check for finding in findings),
        reasons=tuple(f.check.explanation for f in findings if f.check.decisive and not f.check.passed),
        candidate=evidence.candidate,
        champion_version=evidence.champion_version,
        champion_weights_digest=evidence.champion_weights_digest,
        report_digest=report.digest,
        evaluation_uri=report.uri,
        report_uri=report.uri,
        scores_digest=report.scores_digest,
        policy_digest=evidence.policy.digest,
    )
