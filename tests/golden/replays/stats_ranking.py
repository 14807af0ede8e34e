"""Replay rankings of several models from pairwise outcomes with ties."""

import math

import torch
from recorded import Case

from alignment.statistics.ranking import _average_win_rates, _bradley_terry, _bradley_terry_decided, _newman


def takes(case: Case) -> bool:
    """A list of games, each with two models and the winner."""
    games = case.params.get("comparisons")
    return isinstance(games, list) and bool(games) and len(games[0]) == 3


def replay(case: Case) -> None:
    """Compare every recorded ranking. Strengths are compared as centred logarithms, which have no free factor."""
    games = [tuple(game) for game in case.params["comparisons"]]
    rankings = {
        "bradley_terry_scores": (_bradley_terry, True),
        "bradley_terry_log_strength_centred": (_bradley_terry, False),
        "newman_scores": (_newman, True),
        "average_win_rate": (_average_win_rates, False),
        "choix_ilsr_decided_only": (_bradley_terry_decided, False),
    }
    for name, recorded in case.params["expected"].items():
        ours, as_strength = rankings[name]
        values = _centred({model: math.log(value) for model, value in recorded.items()}) if as_strength else recorded
        found = ours(games)
        case.require(f"{name} ranks the same models", set(found) == set(values))
        case.expect(
            name,
            torch.tensor([found[model] for model in values], dtype=torch.float64),
            absolute=case.params["tolerance"],
            relative=0.0,
            against=torch.tensor(list(values.values()), dtype=torch.float64),
        )


def _centred(values: dict[str, float]) -> dict[str, float]:
    mean = sum(values.values()) / len(values)
    return {name: value - mean for name, value in values.items()}
