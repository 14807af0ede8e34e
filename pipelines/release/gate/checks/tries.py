"""Report the level of this candidate's votes, which depends on how many candidates were judged in the quarter."""

from pipelines.contracts.release import GateCheck
from pipelines.release.gate.checks.interface import Evidence, Finding


def try_checks(evidence: Evidence) -> list[Finding]:
    """Return one informative finding; none where the policy does not limit false promotions over a quarter."""
    tries, budget = evidence.tries, evidence.policy.quarterly_error
    if not budget or not tries.quarter:
        return []
    earlier = f"{tries.earlier} evaluation{'s were' if tries.earlier != 1 else ' was'} decided before it"
    promoted = f", {tries.promoted} of them for promotion" if tries.promoted else ""
    check = GateCheck(
        kind="tries",
        measured=float(tries.earlier + 1),
        required=f"votes at {evidence.vote_level:.2g}",
        passed=True,
        decisive=False,
        family="votes",
        explanation=f"Try {tries.earlier + 1} of {tries.quarter}: {earlier}{promoted}. The votes are tested at the"
        f" level {evidence.vote_level:.2g}, so that a candidate without a gain is promoted in at most {budget:.0%} of"
        " quarters.",
    )
    return [Finding(check)]
