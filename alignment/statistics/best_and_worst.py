"""Select the prompts on which the candidate gained and lost most, to show next to the numbers. Torch-free."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from alignment.contracts.values import Record
from alignment.statistics.comparison import ScoreTable, paired_differences


class Extreme(Record):
    """One prompt at an end of the order; a line of extremes.json."""

    end: Literal["gain", "loss"]
    prompt_index: int
    prompt: str
    differences: dict[str, float]
    """Judge to candidate minus champion, mean over seeds, in the judge's units."""
    champion_image: str
    candidate_image: str
    """Paths under the evaluation's folder."""


def extreme_prompts(
    table: ScoreTable, judges: Sequence[str], most: int
) -> list[tuple[Literal["gain", "loss"], int, dict[str, float]]]:
    """Return at most `most` prompts of each end: (end, prompt index, difference under each judge), strongest first.

    Each judge's differences are divided by their standard deviation, then averaged over judges; equal sums keep the
    order of the prompts. Raises ValueError where the table does not allow a comparison.
    """
    differences = {judge: paired_differences(table, judge, "champion") for judge in judges}
    prompts_P = next(iter(differences.values()))[0]
    scaled = [values / (values.std() or 1.0) for _, values in differences.values()]
    order = np.argsort(-np.mean(scaled, axis=0), kind="stable")
    count = min(most, len(order) // 2)
    ends: list[tuple[Literal["gain", "loss"], int]] = [("gain", int(i)) for i in order[:count]]
    ends += [("loss", int(i)) for i in order[::-1][:count]]
    return [(end, int(prompts_P[i]), {j: float(d[i]) for j, (_, d) in differences.items()}) for end, i in ends]
