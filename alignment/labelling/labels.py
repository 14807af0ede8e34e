"""Turn opinions and human labels into a decision on every training row, and report the quality of the decisions.

N counts items, H held-out human pairs. Torch-free.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from alignment.contracts.labelling import LabelAccuracy, LabelModel, LabelReport, LabelSpec
from alignment.data.human_labels import Ballot
from alignment.labelling.label_model import Opinions, dawid_skene, human_baseline, majority_vote
from alignment.labelling.proxy_vote import proxy_votes
from alignment.statistics.calibration import calibrate
from alignment.statistics.comparison import Floats

MODEL_LINE, BASELINE_LINE = "label_model_with_human_labels", "human_baseline"


@dataclass(frozen=True)
class Scores:
    """One labeler's scores of both sides of every item, N each."""

    first: Sequence[float]
    second: Sequence[float]


@dataclass(frozen=True)
class Decision:
    """The new label of one training row."""

    preference: float
    """1: the item's first side is chosen; -1: the second; 0: a tie."""
    labeler: str
    """Written to annotator_id."""


@dataclass(frozen=True)
class _Labelling:
    """Decisions for a complete training split; None leaves a row unchanged."""

    decisions: tuple[Decision | None, ...]
    report: LabelReport


def pick_human_labels(train: Sequence[Ballot], spec: LabelSpec, method: LabelModel) -> dict[str, Ballot]:
    """Select the human labels to use, pair_id to ballot: decided rows of the human sources, drawn by the seed's hash.

    ValueError when there are fewer than the stated minimum.
    """
    eligible = [b for b in train if b.source in spec.human_sources and not b.is_tie]
    order = sorted(eligible, key=lambda b: hashlib.sha256(f"{method.seed}:{b.pair_id}".encode()).hexdigest())
    picked = order[: method.human_labels]
    if len(picked) < method.minimum_human_labels:
        raise ValueError(
            f"The label model has {len(picked)} human labels in the training split and needs"
            f" {method.minimum_human_labels} ({len(eligible)} decided pairs of {', '.join(spec.human_sources) or 'no'}"
            " source). Label more pairs, raise human_labels, name more human_sources, or lower minimum_human_labels"
            " and accept wide intervals in the report."
        )
    return {ballot.pair_id: ballot for ballot in picked}


def _margins(labeler: str, scores: Scores) -> Floats:
    """Score of the first side minus that of the second, N; ValueError naming a labeler whose scores are not finite."""
    both_2N = np.asarray([scores.first, scores.second], dtype=np.float64)
    bad = int((~np.isfinite(both_2N).all(axis=0)).sum())
    if bad:
        raise ValueError(
            f"Labeler {labeler!r} gave scores that are not finite on {bad} of {both_2N.shape[1]} pairs. Check its"
            " weights and those images, or remove the labeler; no pair was relabelled."
        )
    return np.asarray(both_2N[0] - both_2N[1])


def label(
    spec: LabelSpec,
    items: tuple[str, ...],
    scores: Mapping[str, Scores],
    *,
    train: Sequence[Ballot],
    heldout: Sequence[Ballot],
) -> _Labelling:
    """Decide on every training row by the spec's method, and report; see `LabelReport`."""
    opinions = Opinions(items, {name: _margins(name, both) for name, both in scores.items()})
    if isinstance(spec.method, LabelModel):
        return _by_model(spec, spec.method, opinions, train=train, heldout=heldout)
    return _by_proxy(spec, opinions, scores, train=train, heldout=heldout)


def _by_proxy(
    spec: LabelSpec,
    opinions: Opinions,
    scores: Mapping[str, Scores],
    *,
    train: Sequence[Ballot],
    heldout: Sequence[Ballot],
) -> _Labelling:
    (judge,) = scores
    votes = proxy_votes(scores[judge].first, scores[judge].second)
    preferences_N = np.array([2 * vote.preference - 1 for vote in votes])
    at = {item: index for index, item in enumerate(opinions.items)}
    labeler = f"proxy_vote {judge}"
    decisions = tuple(
        Decision(float(preferences_N[at[ballot.item]]), labeler) if ballot.source in spec.relabelled_sources else None
        for ballot in train
    )
    accuracy = _accuracy(judge, opinions.margins[judge], at, heldout, spec.confidence)
    kept = _kept(preferences_N, 0.0, at, heldout)
    report = _report(spec, decisions, labels_from=judge, accuracies=(accuracy,), kept=kept)
    return _Labelling(decisions, report)


def _by_model(
    spec: LabelSpec, method: LabelModel, opinions: Opinions, *, train: Sequence[Ballot], heldout: Sequence[Ballot]
) -> _Labelling:
    at = {item: index for index, item in enumerate(opinions.items)}
    picked = pick_human_labels(train, spec, method)
    human = _by_item(picked.values(), at)
    if method.crowd:
        opinions = Opinions(opinions.items, opinions.margins, _crowd_votes(train, spec, at))
    if opinions.num_labelers < 2:
        raise ValueError(
            f"A label model needs at least 2 labelers, got {opinions.num_labelers}: no annotator of a source outside"
            " human_sources labelled a training pair. Add judges or heuristics."
        )
    ways = {
        "majority_vote": majority_vote(opinions),
        "label_model": dawid_skene(opinions, {}),
        MODEL_LINE: dawid_skene(opinions, human),
        BASELINE_LINE: human_baseline(opinions, human),
    }
    accuracies = [
        _accuracy(name, margins_N, at, heldout, spec.confidence) for name, margins_N in opinions.margins.items()
    ]
    accuracies += [_accuracy(name, way_N - 0.5, at, heldout, spec.confidence) for name, way_N in ways.items()]
    written = MODEL_LINE if method.labels_from == "label_model" else BASELINE_LINE
    minimum = 2 * method.minimum_confidence - 1
    signed_N = 2 * ways[written] - 1
    decisions = tuple(
        None
        if ballot.source not in spec.relabelled_sources or ballot.pair_id in picked
        else Decision(_confident_label(float(signed_N[at[ballot.item]]), minimum), method.labels_from)
        for ballot in train
    )
    report = _report(
        spec,
        decisions,
        labels_from=written,
        accuracies=tuple(accuracies),
        kept=_kept(signed_N, minimum, at, heldout),
        human=len(picked),
        even=sum(
            decision is not None and signed_N[at[ballot.item]] == 0
            for ballot, decision in zip(train, decisions, strict=True)
        ),
    )
    return _Labelling(decisions, report.model_copy(update={"warnings": _warnings(report, method)}))


def _confident_label(signed: float, minimum: float) -> float:
    return 0.0 if signed == 0 or abs(signed) < minimum else math.copysign(1.0, signed)


def _by_item(ballots: Iterable[Ballot], at: Mapping[str, int]) -> dict[int, bool]:
    """Item's position to True when people prefer its first side; items with an even split are left out."""
    totals: dict[int, float] = {}
    for ballot in ballots:
        totals[at[ballot.item]] = totals.get(at[ballot.item], 0.0) + ballot.preference
    return {index: total > 0 for index, total in totals.items() if total != 0}


def _crowd_votes(train: Sequence[Ballot], spec: LabelSpec, at: Mapping[str, int]) -> dict[str, dict[int, float]]:
    crowd: dict[str, dict[int, float]] = {}
    for ballot in train:
        if ballot.source in spec.relabelled_sources and ballot.source not in spec.human_sources:
            crowd.setdefault(ballot.annotator_id, {})[at[ballot.item]] = ballot.preference
    return crowd


def _accuracy(
    name: str, signed_N: Floats, at: Mapping[str, int], heldout: Sequence[Ballot], confidence: float
) -> LabelAccuracy:
    decided = [ballot for ballot in heldout if not ballot.is_tie]
    right = [float(signed_N[at[ballot.item]]) * ballot.preference for ballot in decided]
    found = calibrate(
        name,
        score_chosen=right,
        score_rejected=[0.0] * len(right),
        is_human_tie=[False] * len(right),
        confidence=confidence,
    )
    return LabelAccuracy(
        name=name,
        num_pairs=found.num_pairs,
        num_undecided=sum(value == 0 for value in right),
        accuracy=found.accuracy,
        accuracy_low=found.accuracy_low,
        accuracy_high=found.accuracy_high,
    )


def _kept(
    signed_N: Floats, minimum: float, at: Mapping[str, int], heldout: Sequence[Ballot]
) -> tuple[float, float | None]:
    """Share of held-out pairs that would get a label, and share of correct labels among them."""
    right = [
        signed_N[at[b.item]] * b.preference > 0
        for b in heldout
        if not b.is_tie and _confident_label(signed_N[at[b.item]], minimum)
    ]
    num_decided = sum(not ballot.is_tie for ballot in heldout)
    return len(right) / max(1, num_decided), sum(right) / len(right) if right else None


def _report(
    spec: LabelSpec,
    decisions: Sequence[Decision | None],
    *,
    labels_from: str,
    accuracies: tuple[LabelAccuracy, ...],
    kept: tuple[float, float | None],
    human: int = 0,
    even: int | None = None,
) -> LabelReport:
    made = [decision for decision in decisions if decision is not None]
    ties = sum(decision.preference == 0 for decision in made)
    even = ties if even is None else even
    return LabelReport(
        spec_digest=spec.digest,
        labels_from=labels_from,
        num_human_labels=human,
        accuracies=accuracies,
        heldout_kept_share=kept[0],
        heldout_kept_accuracy=kept[1],
        num_labelled=len(made) - ties,
        num_below_confidence=ties - even,
        num_without_opinion=even,
        num_untouched=len(decisions) - len(made) - human,
    )


def _warnings(report: LabelReport, method: LabelModel) -> tuple[str, ...]:
    """Warnings to show before these labels are used for training."""
    model, baseline = report.accuracy_of(MODEL_LINE), report.accuracy_of(BASELINE_LINE)
    found = []
    if model.accuracy <= baseline.accuracy:
        advice = ' Consider labels_from = "human_baseline".' if method.labels_from == "label_model" else ""
        found.append(
            f"The label model ({model.accuracy:.3f}) does not beat the plain baseline on {report.num_human_labels}"
            f" human labels ({baseline.accuracy:.3f}) on {model.num_pairs} held-out pairs.{advice}"
        )
    if report.accuracy_of(report.labels_from).accuracy_low <= 0.5:
        found.append(f"The labels written ({report.labels_from}) are not shown to be better than chance.")
    return tuple(found)
