"""Labels of a snapshot by the project's policy: hard, soft, or the majority of several annotators. Pure functions.

A preference is the share of the votes for image 0, in [0, 1]; 0.5 is a tie.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.intake.pairs import pair_id
from pipelines.intake.sources.columns import VOTE_FIELDS
from pipelines.project.sections import SnapshotSection

LABEL_FIELDS = (pa.field("preference", pa.float64()), *VOTE_FIELDS)
"""Columns of a snapshot with votes: the share of the votes for the chosen image, in [0.5, 1], and the votes."""
COMPARED = ("pair_id", "prompt", "annotator_id", "preference", "sha256_0", "sha256_1")
"""Columns from which comparisons are merged, besides the votes."""
_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Merged:
    """Votes of all annotators on one comparison."""

    votes_first: float = 0.0
    """Votes for the image whose sha256 comes first."""
    num_votes: int = 0
    num_rows: int = 0

    def with_row(self, row: Mapping[str, Any]) -> "Merged":
        """Return the sum with one more row; a share without a number of people counts as one vote."""
        votes = row.get("num_votes") or 1
        share = row["preference"] if row["sha256_0"] <= row["sha256_1"] else 1 - row["preference"]
        return Merged(self.votes_first + share * votes, self.num_votes + votes, self.num_rows + 1)


def side(preference: float) -> float:
    """Return 1, 0 or 0.5: the image that a share favours."""
    return 0.5 if preference == 0.5 else float(preference > 0.5)


def hard(preference: float, threshold: float) -> float:
    """Return 1 or 0 where at least `threshold` of the votes are for one image, else 0.5."""
    favoured = max(preference, 1 - preference)
    return side(preference) if favoured >= threshold - _TOLERANCE else 0.5


def comparison_id(row: Mapping[str, Any]) -> str:
    """Return the identity of a comparison whoever made it: both images and the prompt."""
    return pair_id(row["sha256_0"], row["sha256_1"], prompt=row["prompt"], annotator_id="")


def merged_votes(rows: Iterable[Mapping[str, Any]]) -> dict[str, Merged]:
    """Return the votes on each comparison by its identity. Rows with the same pair_id are one vote."""
    found: dict[str, Merged] = {}
    seen: set[str] = set()
    for row in rows:
        if row["pair_id"] not in seen:
            seen.add(row["pair_id"])
            key = comparison_id(row)
            found[key] = found.get(key, Merged()).with_row(row)
    return found


def labelled_row(row: dict[str, Any], section: SnapshotSection, merged: Merged | None) -> dict[str, Any]:
    """Return the row with the label of the policy. `merged` are the votes on its comparison, unless labels are hard.

    A row that stands for several annotators has no annotator, and the identity of the comparison.
    """
    if merged is None:
        return {**row, "preference": hard(row["preference"], section.label_threshold)}
    share = merged.votes_first / merged.num_votes
    turned = share if row["sha256_0"] <= row["sha256_1"] else 1 - share
    label = side(turned) if section.labels == "majority" else turned
    found = {**row, "preference": label, "num_votes": merged.num_votes}
    if merged.num_rows > 1:
        found |= {"annotator_id": "", "pair_id": comparison_id(row), "weight": row.get("weight")}
    return found
