"""Combine noisy opinions to one label per pair: majority, Dawid-Skene, a plain baseline. N counts items. Torch-free.

Signs and probabilities refer to an item's first side: margin > 0 and probability > 0.5 mean that it is preferred.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from alignment.statistics.comparison import Floats

if TYPE_CHECKING:
    import pandas as pd


ITERATIONS = 200
TOLERANCE = 1e-6
REGULARISATION = 1.0
"""Inverse strength of the baseline's L2 penalty on standardised margins; scikit-learn's own default."""


@dataclass(frozen=True)
class Opinions:
    """Opinions of every labeler on every item."""

    items: tuple[str, ...]
    margins: Mapping[str, Floats]
    """Labeler to its score of the first side minus that of the second, one per item; 0 is no opinion."""
    crowd: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    """Annotator to votes (1, -1 or 0) on the items, by position, that they compared."""

    @property
    def num_labelers(self) -> int:
        """Number of judges, heuristics and annotators."""
        return len(self.margins) + len(self.crowd)

    def votes(self) -> list[tuple[int, str, bool]]:
        """Return (item, labeler, first side preferred) wherever a labeler has an opinion."""
        found = [
            (index, name, bool(margin > 0))
            for name, margins_N in self.margins.items()
            for index, margin in enumerate(margins_N)
            if margin != 0
        ]
        found += [
            (index, f"annotator {name}", vote > 0)
            for name, votes in self.crowd.items()
            for index, vote in votes.items()
            if vote != 0
        ]
        return found


def majority_vote(opinions: Opinions) -> Floats:
    """Share of the labelers with an opinion that prefer the first side, N; 0.5 where none has one."""
    for_first_N, all_N = np.zeros(len(opinions.items)), np.zeros(len(opinions.items))
    for index, _, prefers_first in opinions.votes():
        for_first_N[index] += prefers_first
        all_N[index] += 1
    share_N: Floats = np.divide(for_first_N, all_N, out=np.full(len(all_N), 0.5), where=all_N > 0)
    return share_N


def dawid_skene(opinions: Opinions, human: Mapping[int, bool]) -> Floats:
    """Probability that the first side is better, N, by crowd-kit's Dawid-Skene; `human` labels are held fixed.

    Source: Dawid and Skene 1979: expectation maximisation over each labeler's confusion matrix, labelers assumed
    independent given the truth. Departure: every item enters twice, the second time with its sides and all its votes
    swapped. The order of sides carries no information, so a labeler has one accuracy for both and the prior is even;
    crowd-kit's one-coin variant is equivalent but does not accept human labels. 0.5 where no labeler has an opinion.
    """
    probabilities_N = np.full(len(opinions.items), 0.5)
    votes = opinions.votes()
    if votes:
        from crowdkit.aggregation import DawidSkene

        model = DawidSkene(n_iter=ITERATIONS, tol=TOLERANCE)
        with warnings.catch_warnings():
            # crowd-kit 1.4 evaluates in place, which pandas 3.1 deprecates; the numbers are the same.
            warnings.simplefilter("ignore", DeprecationWarning)
            model.fit(_mirrored_votes(votes), _mirrored_labels(human, {index for index, _, _ in votes}))
        first_I = model.probas_.reindex(columns=[1, 0], fill_value=0.0)[1]
        for index in sorted({index for index, _, _ in votes}):
            probabilities_N[index] = first_I[index]
    for index, prefers_first in human.items():
        probabilities_N[index] = float(prefers_first)
    return probabilities_N


def human_baseline(opinions: Opinions, human: Mapping[int, bool]) -> Floats:
    """Probability of the first side, N, by a logistic (Bradley-Terry) head fitted to the human labels only.

    Its inputs are the labelers' margins divided by their root mean square, and the mean vote of the crowd. There is no
    intercept, and every label enters in both orders: swapped sides give the complementary probability.
    """
    from sklearn.linear_model import LogisticRegression

    inputs_NF = _inputs(opinions)
    rows = sorted(human)
    inputs_RF, labels_R = inputs_NF[rows], np.array([human[row] for row in rows], dtype=int)
    head = LogisticRegression(fit_intercept=False, C=REGULARISATION / 2)
    head.fit(np.concatenate([inputs_RF, -inputs_RF]), np.concatenate([labels_R, 1 - labels_R]))
    probabilities_N: Floats = head.predict_proba(inputs_NF)[:, 1]
    return probabilities_N


def _inputs(opinions: Opinions) -> Floats:
    columns = [margins_N / max(float(np.sqrt(np.mean(margins_N**2))), 1e-12) for margins_N in opinions.margins.values()]
    if opinions.crowd:
        annotators_only = Opinions(opinions.items, {}, opinions.crowd)
        columns.append(2 * majority_vote(annotators_only) - 1)
    return np.stack(columns, axis=1)


def _mirrored_votes(votes: Sequence[tuple[int, str, bool]]) -> "pd.DataFrame":
    """Build the long table of votes; item i swapped is -1 - i. The first sides' rows fix the column order."""
    import pandas as pd

    rows = [(index, name, int(first)) for index, name, first in votes]
    rows += [(-1 - index, name, int(not first)) for index, name, first in votes]
    return pd.DataFrame(rows, columns=["task", "worker", "label"])


def _mirrored_labels(human: Mapping[int, bool], voted: set[int]) -> "pd.Series[int] | None":
    import pandas as pd

    known = {index: int(first) for index, first in human.items() if index in voted}
    both = known | {-1 - index: 1 - first for index, first in known.items()}
    return pd.Series(both, name="label", dtype="int64") if both else None
