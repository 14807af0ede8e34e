"""Groups of nearly equal prompts, which belong to one split."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from alignment.statistics.normal_text import normal_prompt
from alignment.statistics.similar_prompts import similar_groups
from pipelines.intake.pairs import read_batches

_UNDATED = datetime.max.replace(tzinfo=UTC)


def split_groups(paths: Sequence[Path], others: Sequence[Path] = ()) -> dict[str, str]:
    """Map the normal form of each prompt with near-duplicates to that of the oldest of its group.

    The oldest is the one with the earliest `created_at`, then the first in alphabetical order. Prompts that are only in
    `others` join groups of `paths` and change none: one that is near to several groups is in that of the oldest prompt.
    Prompts that stand alone are left out.
    """
    seen, later = _first_seen(paths), _first_seen(others)
    prompts = sorted(seen, key=lambda normal: (seen[normal], normal))
    first = similar_groups(prompts)
    if later:
        prompts += sorted(later.keys() - seen.keys(), key=lambda normal: (later[normal], normal))
        joined = similar_groups(prompts)[len(first) :]
        first += [first[own] if own < len(seen) else own for own in joined]
    return {prompts[place]: prompts[own] for place, own in enumerate(first) if own != place}


def _first_seen(paths: Sequence[Path]) -> dict[str, datetime]:
    """Return the time of the first comparison of each normal form."""
    seen: dict[str, datetime] = {}
    for path in paths:
        for batch in read_batches(path, ["prompt", "created_at"]):
            for prompt, created in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                normal = normal_prompt(prompt)
                seen[normal] = min(seen.get(normal, _UNDATED), created or _UNDATED)
    return seen
