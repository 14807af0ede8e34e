"""Trial reports made to order."""

from collections.abc import Callable
from typing import Any

import pytest

from alignment.contracts import Comparison
from pipelines.search.ranking import TrialReport


@pytest.fixture
def report() -> Callable[..., TrialReport]:
    """A measured trial with a mean gain; `changes` make it another."""

    def make(gain: float = 0.1, **changes: Any) -> TrialReport:
        comparison = Comparison(
            scorer="taste",
            against="base",
            num_prompts=4,
            wins=3,
            ties=0,
            losses=1,
            win_rate=0.75,
            win_rate_low=0.3,
            win_rate_high=0.95,
            mean_difference=gain,
            mean_difference_low=gain - 0.05,
            mean_difference_high=gain + 0.05,
            p_value=0.1,
        )
        facts: dict[str, Any] = {
            "outcome": "measured",
            "recipe": "diffusion_dpo_shapes",
            "changes": (),
            "micro_batch": 8,
            "memory_floor_gib": 0.5,
            "peak_memory_gib": 1.5,
            "items_per_second": 10.0,
            "final_run_hours": 0.5,
            "seconds": 60.0,
            "against_base": comparison,
        }
        return TrialReport(**{**facts, **changes})

    return make
