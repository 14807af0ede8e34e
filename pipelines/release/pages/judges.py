"""Prepare the figures of each judge and guard, and each judge's agreement with people, for the report."""

import math
from dataclasses import dataclass
from typing import Literal

from alignment.contracts.calibration import Calibration
from alignment.contracts.evaluation import Comparison, EvalReport
from alignment.contracts.judges import Judge
from alignment.statistics.agreement import attenuated_win_rate, disattenuated_win_rate
from pipelines.contracts.release import CheckKind, GateCheck, GateDecision
from pipelines.release.pages.wording import bounds, number, percent

HUMAN_EXAMPLE = 0.6
"""The human win rate for which the table shows each judge's expected win rate."""

Kind = Literal["judge", "guard"]


@dataclass(frozen=True)
class _Bar:
    """The candidate's comparison with one other model under one scorer."""

    against: str
    counts: tuple[tuple[str, int, float], ...]
    """(outcome, prompts, share in percent) of wins, ties and losses."""
    win_rate: str
    interval: str
    low: float
    rate: float
    high: float
    """Percent, within 0 and 100, for drawing."""
    change: str


@dataclass(frozen=True)
class _ScorerPanel:
    """All comparisons of one judge or guard."""

    name: str
    kind: Kind
    status: str
    bars: tuple[_Bar, ...]


def scorers(report: EvalReport) -> list[tuple[Kind, Judge]]:
    """Return the judges, then the guards."""
    judges: list[tuple[Kind, Judge]] = [("judge", judge) for judge in report.spec.judges]
    return [*judges, *(("guard", guard) for guard in report.spec.guards)]


def scorer_panel(report: EvalReport, decision: GateDecision, name: str, *, kind: Kind) -> _ScorerPanel:
    """Return the bars of one scorer and its status in the decision."""
    measured = [comparison for comparison in report.comparisons if comparison.scorer == name]
    if report.spec.champion.kind == "base":
        bars = tuple(_bar(c, "base model") for c in measured if c.against == "champion")
    else:
        bars = tuple(_bar(comparison, comparison.against) for comparison in measured)
    return _ScorerPanel(name, kind, _status(decision, name, kind), bars)


def _status(decision: GateDecision, name: str, kind: Kind) -> str:
    if kind == "judge":
        ballot = find_check(decision, "may_vote", name)
        return "not used" if ballot is None else "votes" if ballot.passed else "may not vote"
    own = [c for c in decision.checks if (c.kind, c.subject) == ("guard", name)]
    if not own:
        drift = find_check(decision, "drift", name)
        return "watched for drift" if drift else "not used"
    if all(check.passed for check in own):
        return "holds"
    return "undecided" if all(check.passed or check.note == "undecided" for check in own) else "does not hold"


def find_check(decision: GateDecision, kind: CheckKind, subject: str) -> GateCheck | None:
    """Return the first check of a kind on a judge, guard or slice; None when there is none."""
    return next((check for check in decision.checks if (check.kind, check.subject) == (kind, subject)), None)


def _bar(comparison: Comparison, against: str) -> _Bar:
    """Return counts as shares and rates as percent; a rate that is not finite is shown as a dash and drawn at 50 %."""
    total = max(1, comparison.num_prompts)
    outcomes = (("wins", comparison.wins), ("ties", comparison.ties), ("losses", comparison.losses))
    rates = (comparison.win_rate_low, comparison.win_rate, comparison.win_rate_high)
    low, rate, high = (100 * min(1.0, max(0.0, r)) if math.isfinite(r) else 50.0 for r in rates)
    change = f"{number(comparison.mean_difference_low)} to {number(comparison.mean_difference_high)}"
    return _Bar(
        against=against,
        counts=tuple((name, count, 100 * count / total) for name, count in outcomes),
        win_rate=percent(comparison.win_rate),
        interval=bounds(comparison.win_rate_low, comparison.win_rate_high),
        low=low,
        rate=rate,
        high=high,
        change=f"{number(comparison.mean_difference)} ({change})",
    )


# --- agreement with people ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _CalibrationRow:
    """One judge's agreement with people, and the human win rate that its own win rate implies."""

    judge: str
    pairs: str
    ties: str
    accuracy: str
    interval: str
    shows: str
    """Win rate that the judge would show if people preferred the candidate on HUMAN_EXAMPLE of the prompts."""
    measured: str
    implies: str
    """Human win rate that the measured one implies."""
    implies_interval: str
    """Human win rates that its bounds imply."""
    verdict: str
    votes: bool


@dataclass(frozen=True)
class Attenuation:
    """A judge's measured win rate against the champion and its accuracy, for the plot."""

    judge: str
    accuracy: float
    low: float
    rate: float
    high: float


def calibration_row(calibration: Calibration, report: EvalReport, decision: GateDecision) -> _CalibrationRow:
    """Return the figures of one judge with the gate's explanation."""
    check = find_check(decision, "may_vote", calibration.judge)
    line = attenuation(calibration, report)
    accuracy = calibration.accuracy
    implied = _implied(line) if line else ("-", "")
    return _CalibrationRow(
        judge=calibration.judge,
        pairs=str(calibration.num_pairs),
        ties=f"{calibration.num_human_ties} ties excluded",
        accuracy=percent(accuracy),
        interval=bounds(calibration.accuracy_low, calibration.accuracy_high),
        shows=percent(attenuated_win_rate(HUMAN_EXAMPLE, accuracy)),
        measured=percent(line.rate) if line else "-",
        implies=implied[0],
        implies_interval=implied[1],
        verdict=check.explanation if check else "The gate did not use this judge.",
        votes=bool(check and check.passed),
    )


def attenuation(calibration: Calibration, report: EvalReport) -> Attenuation | None:
    """Return the figures of one judge for the plot; None where one is missing or not finite."""
    found = [c for c in report.comparisons if (c.scorer, c.against) == (calibration.judge, "champion")]
    if not found:
        return None
    rates = (found[0].win_rate_low, found[0].win_rate, found[0].win_rate_high)
    if not all(math.isfinite(value) for value in (calibration.accuracy, *rates)):
        return None
    return Attenuation(calibration.judge, calibration.accuracy, *rates)


def _implied(line: Attenuation) -> tuple[str, str]:
    """Return the implied human win rate and its bounds, at the measured accuracy, whose own uncertainty is ignored."""
    if line.accuracy <= 0.5:
        return "unknown", ""
    low, rate, high = (disattenuated_win_rate(value, line.accuracy) for value in (line.low, line.rate, line.high))
    if line.rate > line.accuracy:
        return "above 100 %", ""
    return percent(rate), bounds(low, high)
