"""Drift of new pairs against the champion's training pairs, by column, with effect size and significance.

With many pairs every difference is significant, and with few none is. A column has therefore drifted only if the
difference is both significant (Holm over all columns) and large. Columns are facts from ingest; no image is decoded.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

NUMBERS = ("num_bytes", "sharpness", "mean_luminance", "width", "height")
CATEGORIES = ("format",)
PROVENANCE = frozenset({"generator", "source"})
"""Columns about the origin of pairs. Those who collect the pairs choose it, and every promotion changes it."""
WORDS_KEPT = 50
"""Number of most frequent words that are separate categories; the other words are one category."""
MINIMUM_VALUES = 8
"""Fewest values on each side for which a numeric column is compared."""
RARE = 5.0
"""Smallest expected count on each side. Rarer categories are joined, as the chi-squared test needs."""


@dataclass(frozen=True)
class Drift:
    """Drift of one column."""

    column: str
    test: Literal["kolmogorov_smirnov", "chi_squared"]
    effect: float
    """Largest distance of the two distribution functions, or Cramer's V: 0 for equal, 1 for disjoint distributions."""
    p_value: float
    """p-value, Holm-corrected over all compared columns."""
    num_reference: int
    num_fresh: int


def compare(reference: pa.Table, fresh: pa.Table) -> list[Drift]:
    """Compare every column that has values in both tables. Tables have the columns of ingest, without images."""
    from statsmodels.stats.multitest import multipletests

    numbers_r, numbers_f = _numbers(reference), _numbers(fresh)
    categories_r, categories_f = _categories(reference), _categories(fresh)
    found = [
        *(_numeric(name, numbers_r[name], numbers_f[name]) for name in numbers_r),
        *(_categorical(name, categories_r[name], categories_f[name]) for name in categories_r),
    ]
    compared = [drift for drift in found if drift is not None]
    if not compared:
        return []
    corrected = multipletests([drift.p_value for drift in compared], method="holm")[1]
    return [
        Drift(d.column, d.test, d.effect, float(p), d.num_reference, d.num_fresh)
        for d, p in zip(compared, corrected, strict=True)
    ]


def _numbers(table: pa.Table) -> dict[str, "np.typing.NDArray[np.float64]"]:
    """Collect the numeric columns, both images together, and the length of each distinct prompt in words."""
    found = {name: _both_sides(table, name) for name in NUMBERS}
    columns = {
        name: np.array([value for value in values if value is not None], np.float64) for name, values in found.items()
    }
    columns["prompt_words"] = np.array([len(prompt.split()) for prompt in _prompts(table)], np.float64)
    return columns


def _categories(table: pa.Table) -> dict[str, list[str]]:
    """Collect formats and generators of images, sources of pairs, verdicts, and the words of distinct prompts."""
    found = {name: [str(value) for value in _both_sides(table, name) if value] for name in CATEGORIES}
    found["generator"] = [str(value) for value in _both_sides(table, "generator") if value]
    found["source"] = [str(value) for value in table["source"].to_pylist()]
    found["verdict"] = ["tie" if value == 0.5 else "decided" for value in table["preference"].to_pylist()]
    found["prompt_word"] = [word for prompt in _prompts(table) for word in prompt.casefold().split()]
    return found


def _both_sides(table: pa.Table, name: str) -> list[object]:
    return [value for side in (0, 1) for value in table[f"{name}_{side}"].to_pylist()]


def _prompts(table: pa.Table) -> list[str]:
    """Return each distinct prompt once, however many people judged it."""
    return sorted({prompt or "" for prompt in table["prompt"].to_pylist()})


def _numeric(
    name: str, reference: "np.typing.NDArray[np.float64]", fresh: "np.typing.NDArray[np.float64]"
) -> Drift | None:
    if min(reference.size, fresh.size) < MINIMUM_VALUES:
        return None
    from scipy.stats import ks_2samp

    # The exact distribution is slow and needs continuous values; these columns have many equal values.
    found = ks_2samp(reference, fresh, method="asymp")
    return Drift(name, "kolmogorov_smirnov", float(found.statistic), float(found.pvalue), reference.size, fresh.size)


def _categorical(name: str, reference: Sequence[str], fresh: Sequence[str]) -> Drift | None:
    if not reference or not fresh:
        return None
    table = _contingency(Counter(reference), Counter(fresh), WORDS_KEPT)
    effect, p_value = 0.0, 1.0
    if table.shape[1] > 1:
        from scipy.stats import chi2_contingency

        found = chi2_contingency(table, correction=False)
        effect, p_value = float(np.sqrt(found.statistic / table.sum())), float(found.pvalue)
    return Drift(name, "chi_squared", effect, p_value, len(reference), len(fresh))


def _contingency(reference: Mapping[str, int], fresh: Mapping[str, int], most: int) -> "np.typing.NDArray[np.float64]":
    """Count the most frequent categories, in two rows. Other categories, and too rare ones, share one column."""
    totals = Counter(reference) + Counter(fresh)
    share = min(sum(reference.values()), sum(fresh.values())) / max(1, sum(totals.values()))
    kept = [name for name, count in totals.most_common(most) if count * share >= RARE]
    columns = [[side.get(name, 0) for side in (reference, fresh)] for name in kept]
    rest = [sum(side.values()) - sum(column[row] for column in columns) for row, side in enumerate((reference, fresh))]
    if sum(rest):
        columns.append(rest)
    return np.array(columns, np.float64).T
