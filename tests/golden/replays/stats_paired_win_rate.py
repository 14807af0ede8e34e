"""Replay paired scores in the comparison, its tests and Holm's correction."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from recorded import Case

from alignment.statistics.comparison import (
    DIFFERENCE_DECIMALS,
    compare_differences,
    outcome_counts,
    win_rate_interval,
)
from alignment.statistics.noninferiority import holm, mcnemar_p_value, mean_below_p_value
from alignment.statistics.ranking import _pooled_outcomes


def takes(case: Case) -> bool:
    """Scores by judge, each of a candidate and a baseline."""
    scores = case.params.get("scores")
    return isinstance(scores, dict) and all({"candidate", "baseline"} <= set(grids) for grids in scores.values())


def replay(case: Case) -> None:
    """Compare every recorded figure of every judge, then the correction over the judges."""
    for judge, grids in case.params["scores"].items():
        _judge(case, judge, grids, case.params["expected"][judge])
    recorded = case.params.get("holm")
    if recorded:
        adjusted, rejected = holm(recorded["wilcoxon_p"], level=0.05)
        _close(case, "holm adjusted", recorded["adjusted"], adjusted)
        case.require("holm rejects", rejected == recorded["reject_5pct"])


def _judge(case: Case, judge: str, grids: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    candidate, baseline = (np.asarray(grids[role], dtype=np.float64) for role in ("candidate", "baseline"))
    threshold = expected["tie_threshold"]
    unrounded = candidate.mean(axis=1) - baseline.mean(axis=1)
    differences = np.round(unrounded, DIFFERENCE_DECIMALS)
    found = compare_differences(differences, scorer=judge, against="champion", tie_threshold=threshold, confidence=0.95)
    wins, _, losses = outcome_counts(differences, threshold)
    medians = float(np.median(candidate.mean(axis=1)) - np.median(baseline.mean(axis=1)))
    pooled = _pooled_outcomes(candidate, baseline, tie_threshold=threshold, confidence=0.95)
    own = {
        "wins": found.wins,
        "ties": found.ties,
        "losses": found.losses,
        "win_rate_ties_half": found.win_rate,
        "wilson_95_decided": list(win_rate_interval(wins, 0, losses, confidence=0.95)),
        "sign_test_p_greater": mcnemar_p_value(wins, losses),
        "wilcoxon_p_greater": found.p_value,
        "t_p_greater": mean_below_p_value(-unrounded, 0.0),
        "mean_diff": found.mean_difference,
        "mean_diff_ci95": [found.mean_difference_low, found.mean_difference_high],
        "median_candidate_minus_median_baseline": medians,
        "prompt_averaged_win_share": pooled.win_rate,
        "prompt_cluster_bootstrap_ci95": [pooled.low, pooled.high],
    }
    for name, value in expected["per_prompt"].items():
        _close(case, f"{judge} {name}", value, own[name], bootstrap="bootstrap" in name)
    decided = pooled.wins / (pooled.wins + pooled.losses)
    together = {**pooled._asdict(), "win_rate_ties_half": pooled.win_rate, "win_rate_ties_dropped": decided}
    for name, value in expected["pooled"].items():
        _close(case, f"{judge} pooled {name}", value, together[name])


def _close(case: Case, what: str, recorded: Any, ours: Any, *, bootstrap: bool = False) -> None:
    tolerance = case.params["tolerance"]["bootstrap" if bootstrap else "exact"]
    case.expect(
        what,
        torch.tensor(ours, dtype=torch.float64),
        absolute=tolerance,
        relative=0.0,
        against=torch.tensor(recorded, dtype=torch.float64),
    )
