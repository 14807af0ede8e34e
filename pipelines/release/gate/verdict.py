"""Evidence (EvalReport, score grids, GatePolicy) to GateDecision: pure arithmetic, no I/O.

The verdicts, from the strongest to the weakest:

- `invalid`: the evidence cannot be used. A measurement is missing, not finite or contradicts the score table; the
  report is about other weights or prompts; there are fewer prompts than the policy's minimum; scoring had problems; too
  few judges may vote; or a blocking check could not be measured.
- `hold`: the evidence is against the candidate. Even if every undecided judge voted for it, it would have too few
  votes; or a guard failed, a slice got worse, or a blocking detector found a hacked judge; or the candidate already is
  the champion.
- `inconclusive`: the evidence is sound but insufficient: judges or guards are undecided, perhaps because there are
  too few prompts for the effect size that the policy states. More prompts may settle it.
- `promote`: at least the required number of voting judges prefer the candidate, and every other check passed.

Each family of checks has a file in `checks`. Each finding names the best verdict that it allows; the strongest of these
is the verdict. All guards must hold, so they need no correction for multiple tests; votes and slices are corrected in
their files.
"""

from collections.abc import Sequence

from pipelines.contracts.release import GateDecision
from pipelines.release.gate.checks.combined import combined_checks
from pipelines.release.gate.checks.detectors import detector_checks
from pipelines.release.gate.checks.guards import guard_checks
from pipelines.release.gate.checks.identity import already_champion, identity_checks, soundness_checks
from pipelines.release.gate.checks.interface import Evidence, Finding, Verdict
from pipelines.release.gate.checks.power import power_checks
from pipelines.release.gate.checks.slices import slice_checks
from pipelines.release.gate.checks.tries import try_checks
from pipelines.release.gate.checks.votes import ballots, superiority_checks

__all__ = ["Evidence", "decide"]

_SEVERITY: tuple[Verdict, ...] = ("promote", "inconclusive", "hold", "invalid")


def decide(evidence: Evidence) -> GateDecision:
    """Return the verdict on a candidate, with every check that led to it. The report page does not exist yet.

    The decision records the policy's mode; `promote` acts on it.
    """
    if evidence.candidate.weights_digest == evidence.champion_weights_digest:
        return _decision(evidence, [already_champion(evidence)])
    return _decision(evidence, _findings(evidence))


def _findings(evidence: Evidence) -> list[Finding]:
    ballot_lines, voting = ballots(evidence)
    votes = superiority_checks(evidence, voting)
    return [
        *identity_checks(evidence),
        *soundness_checks(evidence),
        *ballot_lines,
        *try_checks(evidence),
        *votes,
        *combined_checks(evidence, voting),
        *guard_checks(evidence),
        *slice_checks(evidence, voting),
        *detector_checks(evidence, voting),
        *power_checks(evidence, voting, found=all(vote.allows == "promote" for vote in votes)),
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
