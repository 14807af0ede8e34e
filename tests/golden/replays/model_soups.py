"""Replays model soups: recorded ingredients through our averages, with a linear classifier as the judge."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alignment.training.soup import GreedySoup, Weights, by_score, greedy_soup, uniform_soup

if TYPE_CHECKING:
    from tests.golden.replay import Case

NEEDED = {"individual_accuracy", "eval_x", "eval_y", "ingredients"}
HALF_PRECISION = {torch.float16: 1e-3, torch.bfloat16: 1e-2}


def replay(case: Case) -> None:
    """Individual scores, order, greedy choice, both soups and their scores."""
    models = [_ingredient(case, index) for index in range(len(case["individual_accuracy"]))]
    readers: list[Callable[[], Weights]] = [lambda model=model: model for model in models]  # type: ignore[misc]
    alone = [_accuracy(case, model) for model in models]
    case.expect("individual_accuracy", torch.tensor(alone, dtype=torch.float64), absolute=1e-12)
    case.require("sorted_order", by_score(alone) == case["sorted_order"].tolist())
    uniform = uniform_soup(readers)
    _expect_soup(case, "uniform", uniform)
    case.expect("uniform_soup_accuracy", _as_tensor(_accuracy(case, uniform)), absolute=1e-12)
    soup = greedy_soup(readers, alone, lambda weights: _accuracy(case, weights))
    clean = case["ingredients_exact_comparison"] if "ingredients_exact_comparison" in case else case["ingredients"]
    case.require("ingredients by exact comparison", list(soup.ingredients) == clean.tolist())
    if list(soup.ingredients) == case["ingredients"].tolist():
        _expect_greedy(case, soup)
    else:
        _explain_rounding(case, models, alone, soup)


def _expect_greedy(case: Case, soup: GreedySoup) -> None:
    _expect_soup(case, "greedy", soup.weights)
    case.expect("best_val_accuracy", _as_tensor(soup.score), absolute=1e-12)
    scores = [attempt.score for attempt in soup.attempts]
    case.expect("candidate_accuracy_trace", torch.tensor(scores, dtype=torch.float64), absolute=1e-12)


def _explain_rounding(case: Case, models: list[Weights], alone: list[float], soup: GreedySoup) -> None:
    """The recorded run keeps an equal candidate because its starting score was rounded on the way through JSON.

    Shown by starting ours at the rounded score: the same ingredients, soup and trace come out.
    """
    rounded = case["individual_accuracy_as_read"].tolist()
    readers: list[Callable[[], Weights]] = [lambda model=model: model for model in models]  # type: ignore[misc]
    theirs = greedy_soup(readers, _starting_at(alone, rounded), lambda weights: _accuracy(case, weights))
    case.require("ingredients from the rounded start", list(theirs.ingredients) == case["ingredients"].tolist())
    _expect_greedy(case, theirs)
    equal = [a.ingredient for a in soup.attempts if not a.kept and Fraction(a.score) == Fraction(max(alone))]
    case.require("the extra ingredient only equals the best", bool(set(equal) & set(theirs.ingredients)))
    case.remarks.append(
        f"recorded code keeps ingredient(s) {sorted(set(theirs.ingredients) - set(soup.ingredients))} whose score only"
        f" equals the best, rounded by JSON; ours stops at {list(soup.ingredients)}"
    )


def _starting_at(alone: list[float], rounded: list[float]) -> list[float]:
    """Our scores, the best one as the recorded run read it: it decides nothing but the first comparison."""
    best = by_score(alone)[0]
    return [rounded[index] if index == best else score for index, score in enumerate(alone)]


def _ingredient(case: Case, index: int) -> Weights:
    prefix = f"model{index}."
    return {name.removeprefix(prefix): case[name] for name in case.fields if name.startswith(prefix)}


def _accuracy(case: Case, weights: Weights) -> float:
    """Share of right answers of the classifier, in float64 from an exact count."""
    logits_NC = case["eval_x"].float() @ weights["head.weight"].float().T + weights["head.bias"].float()
    right = int((logits_NC.argmax(dim=1) == case["eval_y"]).sum())
    return right / len(case["eval_y"])


def _as_tensor(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _expect_soup(case: Case, kind: str, soup: Weights) -> None:
    """Floating-point tensors as recorded; whole numbers are the first ingredient's, where the recording made floats."""
    for name, ours in soup.items():
        recorded = f"{kind}.{name}"
        if ours.is_floating_point():
            spread = HALF_PRECISION.get(ours.dtype, 1e-6)
            case.expect(recorded, ours, absolute=spread)
        elif recorded in case:
            first = case["ingredients"][0] if kind == "greedy" else 0
            case.require(f"{recorded} is the first's", torch.equal(ours, case[f"model{int(first)}.{name}"]))
            if not torch.equal(ours.double(), case[recorded].double()):
                case.remarks.append(f"{recorded}: recorded code averages a counter to a float; ours keeps the first's")


def takes(fields: set[str]) -> bool:
    """Whether a case is a soup, by its fields."""
    return fields >= NEEDED and any(re.match(r"model\d+\.", name) for name in fields)
