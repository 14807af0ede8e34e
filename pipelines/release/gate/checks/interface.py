"""The input and output of every family of checks: `Evidence` and `Finding`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from alignment.contracts.calibration import Calibration
from alignment.contracts.evaluation import Comparison, EvalReport
from alignment.contracts.judges import Judge
from alignment.statistics.agreement import attenuated_win_rate
from alignment.statistics.comparison import Floats
from alignment.statistics.score_grids import ScoreGrids
from alignment.statistics.tries import Tries, level_of_try
from pipelines.contracts.release import CandidateVersion, GateCheck
from pipelines.project.gate import Action, GatePolicy

NO_TRIES = Tries()

Verdict = Literal["promote", "hold", "inconclusive", "invalid"]


@dataclass(frozen=True)
class Evidence:
    """Everything that the gate decides on."""

    report: EvalReport
    scores: ScoreGrids
    """The score table as complete grids; incomplete grids are left out."""
    policy: GatePolicy
    candidate: CandidateVersion
    champion_version: int | None
    champion_weights_digest: str
    """The current champion in the registry; without one, the version is None and this is the digest of the base."""
    table_problems: Sequence[str] = ()
    """Disagreements between the report and its tables, from `score_table.recompute`."""
    prompts_digest: str | None = None
    """The project's current prompts; None skips the check."""
    barred: Mapping[str, str] = field(default_factory=dict)
    """Judges that may not vote for a reason outside this evaluation, such as an old calibration: name to the reason, as
    the end of a sentence that begins with the judge."""
    tries: Tries = NO_TRIES
    """Evaluations that were decided earlier in the quarter."""
    ungated_champion: str = ""
    """The promotion by hand that made the champion, in words; empty if the gate promoted it, or it is the base."""
    promoted: Mapping[int, ScoreGrids] = field(default_factory=dict)
    """Versions promoted earlier to their scores as candidates by the guards, on the same prompts and seeds; read for
    the anchor `best` only."""
    calibrations: Sequence[Calibration] | None = None
    """Each judge's agreement with people on the pairs that count for a vote; None uses the report's, on every pair."""

    @property
    def level(self) -> float:
        """The one-sided level of every bound that speaks against the candidate, and of every guard."""
        return (1 - self.report.spec.confidence) / 2

    @property
    def vote_level(self) -> float:
        """The one-sided level of a gain, before it is divided among judges; stricter with every try of a quarter."""
        budget = self.policy.quarterly_error
        return min(self.level, level_of_try(budget, self.tries)) if budget else self.level

    def accuracy(self, judge: str) -> float:
        """Return a judge's measured agreement with people on the pairs that count, at least 0.5; 1 if unmeasured."""
        counted = self.report.calibrations if self.calibrations is None else self.calibrations
        return max(0.5, next((c.accuracy for c in counted if c.judge == judge), 1.0))

    def win_rate_needed(self, judge: str) -> float:
        """Return the win rate that a judge reports where people's is the policy's minimum."""
        return attenuated_win_rate(self.policy.minimum_win_rate, self.accuracy(judge))

    def against_champion(self, scorer: str) -> Comparison | None:
        """Return the reported comparison of one scorer; None when there is none."""
        return next((c for c in self.report.comparisons if (c.scorer, c.against) == (scorer, "champion")), None)

    def differences(self, scorer: str, *, shuffled: bool = False, seeds: Sequence[int] = ()) -> Floats | None:
        """Return candidate minus champion by prompt; None where the table has no complete grids for it."""
        try:
            return self.scores.differences(scorer, "champion", shuffled=shuffled, seeds=seeds)
        except ValueError:
            return None

    def shared_sources(self, judge: Judge) -> list[str]:
        """List the training sources that scorer and candidate share. The scorer itself counts, under any name.

        Versions registered before scorers had an identity recorded the digest of the scorer's folder.
        """
        return sorted(set(self.candidate.trained_on) & {*judge.training_sources, f"scorer {judge.weights_digest}"})


@dataclass(frozen=True)
class Finding:
    """A check, and the best verdict that it allows."""

    check: GateCheck
    allows: Verdict = "promote"


def weights_of(judge: Judge) -> str:
    """Return an identity that is equal for scorers with the same weights, whatever their settings or other files."""
    return judge.identity or judge.weights_digest


def duplicate_of(judge: str, *, votes: bool) -> str:
    """Return the reason why a second judge with the same weights may not vote, as the end of a sentence.

    If the first judge may not vote, no judge with its weights may.
    """
    return f"has the same weights as {judge}, which {'already votes' if votes else 'may not vote'}"


def disagreements(agreed: Calibration, policy: GatePolicy) -> list[str]:
    """List the reasons why a judge with this agreement with people may not vote, each as the end of a sentence."""
    reasons = []
    if agreed.num_pairs < policy.minimum_calibration_pairs:
        reasons.append(
            f"was checked on {agreed.num_pairs} human pairs {policy.counted_pairs}; at least"
            f" {policy.minimum_calibration_pairs} are required"
        )
    if not agreed.accuracy_low > policy.calibration_floor:
        reasons.append(
            f"agrees with people too rarely: the lower bound {agreed.accuracy_low:.3f} does not exceed"
            f" {policy.calibration_floor:g}"
        )
    return reasons


def finite(value: float | None) -> float | None:
    """Return the number if it is finite, so that JSON can hold it; else None."""
    return value if value is not None and math.isfinite(value) else None


def listed(problems: Sequence[str], most: int = 3) -> str:
    """Join the first `most` problems to one sentence, with the number of the others."""
    rest = f" (and {len(problems) - most} more)" if len(problems) > most else ""
    return "; ".join(problem.rstrip(".") for problem in problems[:most]) + rest + "."


def watch(
    check: GateCheck, action: Action, *, breached: bool, measured: bool = True, on_breach: Verdict = "hold"
) -> Finding:
    """Return the finding of a rule that blocks or warns.

    A blocking rule without a measurement makes the evidence invalid; a warning rule is then marked as unmeasured.
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
