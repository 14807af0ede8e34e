"""Score tables as complete prompts x seeds grids, one per (scorer, role): the input of the gate's statistics.

Roles are the three models, and `candidate_shuffled` and `champion_shuffled`: the same images scored against other
prompts of the list (see `shuffled_prompts.py`). Shape letters: P independent prompts (groups of near-duplicates).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from alignment.statistics.comparison import DIFFERENCE_DECIMALS, Floats, ScoreTable, SeedGrid, same_cells, seed_grid

SHUFFLED = "_shuffled"
"""Suffix of a role's name for its images scored against other prompts."""


@dataclass(frozen=True)
class ScoreGrids:
    """Complete grids only; an incomplete grid is absent, and a request for it raises ValueError."""

    grids: Mapping[tuple[str, str], SeedGrid]
    """(scorer, role) to its grid."""
    categories: Mapping[int, str] = field(default_factory=dict)
    """First prompt of each group to its slice."""

    @classmethod
    def from_table(cls, table: ScoreTable) -> tuple["ScoreGrids", list[str]]:
        """Build the grids of a table; also return a sentence for each that is incomplete."""
        grids: dict[tuple[str, str], SeedGrid] = {}
        problems = []
        for role in (str(role) for role in np.unique(table.role)):
            for scorer in table.scorers():
                if not ((table.role == role) & (table.scorer == scorer)).any():
                    continue
                try:
                    grids[scorer, role] = seed_grid(table, scorer, role)
                except ValueError as error:
                    problems.append(str(error))
        categories, doubled = _categories(table)
        return cls(grids, categories), [*problems, *doubled]

    def has(self, scorer: str, role: str) -> bool:
        """Return True when there is a complete grid."""
        return (scorer, role) in self.grids

    def grid(self, scorer: str, role: str) -> SeedGrid:
        """Return one grid; ValueError when it is missing or incomplete."""
        if not self.has(scorer, role):
            raise ValueError(
                f"The score table has no complete grid of scorer {scorer!r} on the {role}. Evaluate again."
            )
        return self.grids[scorer, role]

    def differences(
        self, scorer: str, against: str = "champion", *, shuffled: bool = False, seeds: Sequence[int] = ()
    ) -> Floats:
        """Candidate minus other, one number per group of near-duplicates, averaged over the given seeds, or over all.

        ValueError when the two models were not scored on the same prompts and seeds, or a given seed is missing.
        """
        suffix = SHUFFLED if shuffled else ""
        candidate, other = self.grid(scorer, f"candidate{suffix}"), self.grid(scorer, f"{against}{suffix}")
        if not same_cells(candidate, other):
            raise ValueError(
                f"Scorer {scorer!r}: candidate and {against} were not scored on the same prompts and seeds."
            )
        try:
            gains_P = candidate.prompt_means(seeds) - other.prompt_means(seeds)
        except ValueError as error:
            raise ValueError(f"Scorer {scorer!r}: {error}") from error
        return np.asarray(np.round(gains_P, DIFFERENCE_DECIMALS), dtype=np.float64)

    def slices(self) -> dict[str, npt.NDArray[np.bool_]]:
        """Slice name to a mask over the groups in index order; empty when no prompt names a slice."""
        names = [self.categories[index] for index in sorted(self.categories)]
        if not any(names):
            return {}
        return {name: np.asarray([own == name for own in names]) for name in sorted(set(names))}


def _categories(table: ScoreTable) -> tuple[dict[int, str], list[str]]:
    """Slice of each group, by its first prompt. A prompt whose slice or group differs between rows, and a group in
    several slices, are reported as problems."""
    if not len(table.category):
        return {}, []
    if len(table.category) != len(table.prompt_index):
        return {}, [f"the table has {len(table.category)} categories for {len(table.prompt_index)} rows"]
    group = table.group if len(table.group) else table.prompt_index
    cells = set(zip(table.prompt_index.tolist(), group.tolist(), table.category.tolist(), strict=True))
    slices = sorted({(own, category) for _, own, category in cells})
    found = dict(slices)
    changing, torn = len(cells) - len({prompt for prompt, _, _ in cells}), len(slices) - len(found)
    if changing:
        return found, [f"{changing} prompts change their category or group from row to row"]
    return found, [f"{torn} groups of near-duplicates have prompts of several categories"] if torn else []
