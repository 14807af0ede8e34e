"""Replay four published definitions of a judge's agreement with human rankings."""

import math
from collections.abc import Callable

import torch
from judge_cases import tolerance
from recorded import Case

from alignment.statistics.published_agreement import (
    _hpsv2_accuracy,
    _hpsv2_inversion,
    _hpsv2_predicted_ranks,
    _imagereward_accuracy,
    _mps_inversion,
    _Ranking,
)

PER_PROMPT: dict[str, Callable[[_Ranking], float]] = {
    "hpsv2_inversion": _hpsv2_inversion,
    "mps_inversion": _mps_inversion,
    "hpsv2_calc_ImageReward": _hpsv2_accuracy,
}


def takes(case: Case) -> bool:
    """Items of ranks and rewards."""
    items = case.params.get("items")
    return "results" in case.params and bool(items) and {"human_rank", "reward"} <= set(items[0])


def replay(case: Case) -> None:
    """Compare each prompt's figures, their means, and the pooled accuracy."""
    rankings = [_Ranking(item["human_rank"], item["reward"]) for item in case.params["items"]]
    results, allowed = case.params["results"], tolerance(case, "", 1e-12)
    recorded = results.get("per_prompt", [])
    for name, definition in PER_PROMPT.items():
        ours = [definition(ranking) for ranking in rankings]
        theirs = [math.nan if row[name] is None else row[name] for row in recorded if name in row]
        if theirs:
            _expect(case, name, ours, theirs, allowed)
        if f"{name}_mean" in results:
            defined = [value for value in ours if not math.isnan(value)]
            _expect(case, f"{name}_mean", [sum(defined) / len(defined)], [results[f"{name}_mean"]], allowed)
    ranks = [row["predicted_rank"] for row in recorded if "predicted_rank" in row]
    if ranks:
        case.require("predicted ranks", ranks == [_hpsv2_predicted_ranks(ranking) for ranking in rankings])
    if "imagereward_acc" in results:
        _expect(case, "imagereward_acc", [_imagereward_accuracy(rankings)], [results["imagereward_acc"]], allowed)


def _expect(case: Case, name: str, ours: list[float], theirs: list[float], allowed: float) -> None:
    mine, recorded = (torch.tensor(values, dtype=torch.float64) for values in (ours, theirs))
    case.expect(name, mine, absolute=allowed, relative=0.0, against=recorded)
