"""The level of one test among many: how often candidates without a gain are promoted over a quarter. Torch-free.

Each candidate is one try. Tested at 2.5 % each, 50 equal candidates against one champion give a false promotion in
15 % of quarters although their scores correlate with 0.95.
"""

from datetime import UTC, datetime
from typing import NamedTuple


class Tries(NamedTuple):
    """Evaluations that were decided earlier in the quarter."""

    quarter: str = ""
    """Calendar quarter in UTC, as `2026-Q4`; empty where no quarter is counted."""
    earlier: int = 0
    promoted: int = 0
    """Number of the earlier ones with the verdict `promote`."""


def quarter_of(moment: datetime) -> str:
    """Return the calendar quarter of a moment, in UTC."""
    utc = moment.astimezone(UTC)
    return f"{utc.year}-Q{(utc.month + 2) // 3}"


def level_of_try(budget: float, tries: Tries) -> float:
    """Return the one-sided level of the next try: LOND with the weights 1 / (t (t + 1)), which sum to 1.

    Without promotions the levels of a quarter sum to at most `budget`, which bounds the chance of a false promotion
    whatever the dependence between candidates. Each promotion adds the level once more: the expected share of false
    ones among the promoted stays below the budget for independent or positively dependent tests.
    Source: Javanmard and Montanari 2015, arXiv:1502.06197, algorithm LOND; Zrnic et al. 2021, JMLR 22(33), dependence.
    """
    number = tries.earlier + 1
    return budget / (number * (number + 1)) * (tries.promoted + 1)
