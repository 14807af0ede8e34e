"""Groups of prompts that are nearly the same, which count as one prompt in every interval and test. Torch-free.

Models gain or lose alike on near-duplicates. Counted as independent, they make intervals too narrow: one group of 50
among 1,000 prompts raises false promotion from 1 % to 7 %.
"""

from collections.abc import Sequence

import numpy as np

from alignment.statistics.normal_text import normal_prompt
from alignment.statistics.prompts import EvalPrompt
from alignment.statistics.similar_prompts import SIMILAR

_ROWS = 512
"""Number of prompts that are compared with all others at a time, which bounds the memory."""


def group_prompts(prompts: Sequence[EvalPrompt]) -> list[int]:
    """Return for each prompt the index of the first prompt of its group.

    Prompts with the same name in the column `group` are a group. Where the file has no such column, near-duplicates
    within a category are, and whatever is similar to a member joins the group. Rephrased prompts without common words
    are not found: name their group in the file.
    """
    if any(prompt.group is not None for prompt in prompts):
        return _named(prompts)
    found = list(range(len(prompts)))
    positions: dict[str, list[int]] = {}
    for position, prompt in enumerate(prompts):
        positions.setdefault(prompt.category, []).append(position)
    for own in positions.values():
        for position, first in zip(own, _similar([prompts[p].text for p in own]), strict=True):
            found[position] = own[first]
    return [prompts[position].index for position in found]


def count_groups(prompts: Sequence[EvalPrompt]) -> int:
    """Return the effective number of prompts: near-duplicates count as one."""
    return len(set(group_prompts(prompts)))


def _named(prompts: Sequence[EvalPrompt]) -> list[int]:
    """Group by name; a prompt without a name is its own group."""
    first: dict[str, int] = {}
    return [first.setdefault(prompt.group, prompt.index) if prompt.group else prompt.index for prompt in prompts]


def _similar(texts: Sequence[str]) -> list[int]:
    """Return for each text the position of the first text that a chain of near-duplicates connects it with."""
    from rapidfuzz import process
    from rapidfuzz.distance import Indel
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    words = [normal_prompt(text).split() for text in texts]
    rows, columns = [], []
    for start in range(0, len(words), _ROWS):
        similarity = process.cdist(
            words[start : start + _ROWS], words, scorer=Indel.normalized_similarity, score_cutoff=SIMILAR
        )
        row, column = np.nonzero(similarity)
        rows.append(row + start)
        columns.append(column)
    row, column = np.concatenate(rows), np.concatenate(columns)
    links = coo_array((np.ones(len(row), dtype=bool), (row, column)), shape=(len(words), len(words)))
    labels = connected_components(links, directed=False)[1]
    first = np.unique(labels, return_index=True)[1]
    return [int(first[label]) for label in labels]
