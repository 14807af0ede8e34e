"""Replay model soups: recorded ingredients in our averages, with a linear classifier as the judge."""

from collections.abc import Callable

import torch
from recorded import Case
from torch import Tensor

from alignment.training.soup import GreedySoup, Weights, _by_score, greedy_soup, uniform_soup

NEEDED = {"individual_accuracy", "eval_x", "eval_y", "ingredients"}
HALF_PRECISION = {torch.float16: 1e-3, torch.bfloat16: 1e-2}
"""Dtype of a recorded average to its tolerance: it loses digits at every addition."""


def takes(case: Case) -> bool:
    """True if the case has the fields of this kind."""
    return set(case.fields) >= NEEDED


def replay(case: Case) -> None:
    """Compare individual scores, order, greedy choice, both soups and their scores."""
    models = [_ingredient(case, index) for index in range(len(case["individual_accuracy"]))]
    readers: list[Callable[[], Weights]] = [lambda model=model: model for model in models]  # type: ignore[misc]
    alone = [_accuracy(case, model) for model in models]
    case.expect("individual_accuracy", torch.tensor(alone, dtype=torch.float64), absolute=1e-12)
    read = case["individual_accuracy_as_read"].tolist() if "individual_accuracy_as_read" in case else alone
    case.require("sorted_order", _by_score(read) == case["sorted_order"].tolist())
    uniform = uniform_soup(readers)
    _expect_soup(case, "uniform", uniform)
    case.expect("uniform_soup_accuracy", _as_tensor(_accuracy(case, uniform)), absolute=_accuracy_spread(case))
    soup = greedy_soup(readers, read, lambda weights: _accuracy(case, weights))
    if list(soup.ingredients) != case["ingredients"].tolist() and _loses_digits(case):
        _explain_lost_digits(case, models, soup)
        return
    case.require("ingredients", list(soup.ingredients) == case["ingredients"].tolist())
    _expect_greedy(case, soup)
    _explain_rounding(case, soup, greedy_soup(readers, alone, lambda weights: _accuracy(case, weights)))


def _loses_digits(case: Case) -> bool:
    return case["model0.head.weight"].dtype in HALF_PRECISION


def _accuracy_spread(case: Case) -> float:
    """In half precision the recorded soup is off by a few digits, which may change one or two predictions."""
    return 2.5 / len(case["eval_y"]) if _loses_digits(case) else 1e-12


def _explain_lost_digits(case: Case, models: list[Weights], soup: GreedySoup) -> None:
    """Rounded soups made the recorded run choose other ingredients. Our average of its choice must be its soup."""
    chosen = [int(index) for index in case["ingredients"]]
    readers: list[Callable[[], Weights]] = [lambda model=models[index]: model for index in chosen]  # type: ignore[misc]
    _expect_soup(case, "greedy", uniform_soup(readers))
    case.expect("best_val_accuracy", _as_tensor(soup.score), absolute=_accuracy_spread(case))
    case.remarks.append(
        f"recorded running average in half precision chose {chosen}; our float32 sums {soup.ingredients}"
    )


def _expect_greedy(case: Case, soup: GreedySoup) -> None:
    _expect_soup(case, "greedy", soup.weights)
    spread = _accuracy_spread(case)
    case.expect("best_val_accuracy", _as_tensor(soup.score), absolute=spread)
    scores = [attempt.score for attempt in soup.attempts]
    case.expect("candidate_accuracy_trace", torch.tensor(scores, dtype=torch.float64), absolute=spread)


def _explain_rounding(case: Case, theirs: GreedySoup, ours: GreedySoup) -> None:
    """The recorded run orders and compares by scores that JSON rounded; ours are exact, and may choose otherwise."""
    if "ingredients_exact_comparison" in case:
        exact = case["ingredients_exact_comparison"].tolist()
        case.require("ingredients by exact comparison", list(ours.ingredients) == exact)
    if ours.ingredients != theirs.ingredients:
        case.remarks.append(
            f"recorded code chooses {list(theirs.ingredients)} from scores rounded by JSON; ours, from exact scores,"
            f" chooses {list(ours.ingredients)}"
        )


def _ingredient(case: Case, index: int) -> Weights:
    prefix = f"model{index}."
    return {name.removeprefix(prefix): case[name] for name in case.fields if name.startswith(prefix)}


def _accuracy(case: Case, weights: Weights) -> float:
    """Accuracy of the classifier, in float64 from an exact count."""
    logits_NC = case["eval_x"].float() @ weights["head.weight"].float().T + weights["head.bias"].float()
    right = int((logits_NC.argmax(dim=1) == case["eval_y"]).sum())
    return right / len(case["eval_y"])


def _as_tensor(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _expect_soup(case: Case, kind: str, soup: Weights) -> None:
    """Compare floating-point tensors. Integer tensors are the first ingredient's; the recorded code averages them."""
    for name, ours in soup.items():
        recorded = f"{kind}.{name}"
        if recorded not in case:
            continue
        if ours.is_floating_point():
            spread = HALF_PRECISION.get(ours.dtype, 1e-6)
            case.expect(recorded, ours, absolute=spread * max(1.0, ours.abs().max().item()))
            close = torch.allclose(ours.float(), case[recorded].float(), rtol=spread, atol=spread)
            case.require(f"{recorded} to {spread:g}", close)
        else:
            first = case["ingredients"][0] if kind == "greedy" else 0
            case.require(f"{recorded} is the first's", torch.equal(ours, case[f"model{int(first)}.{name}"]))
            if not torch.equal(ours.double(), case[recorded].double()):
                case.remarks.append(f"{recorded}: recorded code averages a counter to a float; ours keeps the first's")
