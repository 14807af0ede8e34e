"""What every family of checks takes and gives."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from alignment.contracts.calibration import Calibration
from alignment.contracts.evaluation import Comparison, EvalReport
from alignment.contracts.judges import Judge
from alignment.statistics.comparison import Floats
from alignment.statistics.score_grids import ScoreGrids
from pipelines.contracts.release import CandidateVersion, GateCheck
from pipelines.project.gate import Action, GatePolicy

Verdict = Literal["promote", "hold", "inconclusive", "invalid"]


@dataclass(frozen=True)
class Evidence:
    """All that the gate looks at."""

    report: EvalReport
    scores: ScoreGrids
    """The score table as whole grids; what is not whole is absent."""
    policy: GatePolicy
    candidate: CandidateVersion
    champion_version: int | None
    champion_weights_digest: str
    """The champion as the registry has it now; without one, None and the digest of the base."""
    table_problems: Sequence[str] = ()
    """Where the report and its tables disagree, from `score_table.recompute`."""
    prompts_digest: str | None = None
    """The project's present prompts; None where nobody looked."""
    barred: Mapping[str, str] = field(default_factory=dict)
    """Judges that something beside this evaluation keeps from voting (a calibration too old): name to the reason, as
    the end of a sentence that begins with the judge."""
    calibrations: Sequence[Calibration] | None = None
    """Each judge's agreement with people on the pairs that count for a vote; None takes the report's, on every pair."""

    @property
    def level(self) -> float:
        """One-sided level of every bound."""
        return (1 - self.report.spec.confidence) / 2

    def against_champion(self, scorer: str) -> Comparison | None:
        """The reported comparison of one scorer."""
        return next((c for c in self.report.comparisons if (c.scorer, c.against) == (scorer, "champion")), None)

    def differences(self, scorer: str, *, shuffled: bool = False, seeds: Sequence[int] = ()) -> Floats | None:
        """Candidate minus champion by prompt; None where the table has no whole grids to take it from."""
        try:
            return self.scores.differences(scorer, "champion", shuffled=shuffled, seeds=seeds)
        except ValueError:
            return None

    def shared_lessons(self, judge: Judge) -> list[str]:
        """What scorer and candidate both learnt from; the scorer itself counts as such, under whatever name.

        Versions registered before scorers had an identity recorded the digest of its folder.
        """
        return sorted(set(self.candidate.trained_on) & {*judge.training_sources, f"scorer {judge.weights_digest}"})


@dataclass(frozen=True)
class Finding:
    """A check, and the verdict that it alone would allow."""

    check: GateCheck
    allows: Verdict = "promote"


def weights_of(judge: Judge) -> str:
    """The same for two scorers that share their weights, however they are set up and whatever lies beside them."""
    return judge.identity or judge.weights_digest


def twin_of(judge: str, *, votes: bool) -> str:
    """Why a second judge of one set of weights may not vote, as the end of a sentence: what keeps the first from voting
    keeps every judge with its weights from it."""
    return f"has the same weights as {judge}, which {'votes already' if votes else 'may not vote'}"


def disagreements(agreed: Calibration, policy: GatePolicy) -> list[str]:
    """What keeps a judge of this agreement with people from voting, each as the end of a sentence."""
    reasons = []
    if agreed.num_pairs < policy.minimum_calibration_pairs:
        reasons.append(
            f"was checked on {agreed.num_pairs} human pairs {policy.counted_pairs}, fewer than"
            f" {policy.minimum_calibration_pairs}"
        )
    if not agreed.accuracy_low > policy.calibration_floor:
        reasons.append(
            f"agrees with people too little: the lower bound {agreed.accuracy_low:.3f} does not exceed"
            f" {policy.calibration_floor:g}"
        )
    return reasons


def finite(value: float | None) -> float | None:
    """A number that JSON can carry."""
    return value if value is not None and math.isfinite(value) else None


def listed(problems: Sequence[str], most: int = 3) -> str:
    """The first few problems as one sentence."""
    rest = f" (and {len(problems) - most} more)" if len(problems) > most else ""
    return "; ".join(problem.rstrip(".") for problem in problems[:most]) + rest + "."


def watch(
    check: GateCheck, action: Action, *, breached: bool, measured: bool = True, on_breach: Verdict = "hold"
) -> Finding:
    """A finding of a rule that blocks or warns.

    What blocks and could not be measured makes the evidence invalid; what only warns then says that it did not look.
    """
    if not measured:
        note = check.model_copy(
            update={"passed": action != "block", "decisive": action == "block", "note": "unmeasured"}
        )
        return Finding(note, "invalid" if action == "block" else "promote")
    if not breached:
        return Finding(check.model_copy(update={"passed": True, "decisive": action == "block"}))
    if action == "block":
        return Finding(check.model_copy(update={"passed": False, "decisive": True}), on_breach)
    return Finding(check.model_copy(update={"passed": False, "decisive": False, "note": "warning"}))
