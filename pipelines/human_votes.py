"""`plumbline gate people`: some human votes between candidate and champion, and the judges' on all prompts, together.

People's labels alone are few and dear; the judges' are many and biased. Prediction-powered inference (Angelopoulos et
al. 2023) takes both and its interval covers people's win rate whatever the judge's bias. It informs; the gate does not
read it.
"""

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from alignment.contracts import EvalReport, Record
from alignment.evaluation.agreement import PredictionPowered, prediction_powered_win_rate
from alignment.evaluation.comparison import Floats, win_rate_interval
from alignment.evaluation.prompts import normal_prompt
from alignment.evaluation.score_grids import ScoreGrids
from pipelines.contracts import GateDecision

WORDS = {"candidate": 1.0, "tie": 0.5, "champion": 0.0}
MINIMUM_PROMPTS = 30
"""Labelled prompts below which the interval's normal approximation is not to be trusted."""


class PeoplesWinRate(Record):
    """The candidate's win rate among people, with one judge's help."""

    judge: str
    num_labelled: int
    """Prompts that people decided."""
    num_unlabelled: int
    """Prompts on which only the judge spoke."""
    win_rate: float
    low: float
    high: float
    people_alone: float
    people_alone_low: float
    people_alone_high: float
    """From the labels alone (Wilson), so that one sees what the judge added."""
    agreement: float
    """Share of the labelled prompts on which judge and people agree."""


def read_votes(path: Path) -> dict[str, float]:
    """Share of people's votes for the candidate by normal prompt, from a CSV with the columns `prompt` and `pick`."""
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as UTF-8 text: {error}.") from error
    bad = [number for number, row in enumerate(rows, 2) if row.get("pick") not in WORDS or not row.get("prompt")]
    if bad or not rows:
        where = f"lines {', '.join(map(str, bad[:5]))} are" if bad else "there are no votes; a line is"
        raise ValueError(f"{path}: {where} not a `prompt` with a `pick` of {', '.join(WORDS)}.")
    votes = defaultdict[str, list[float]](list)
    for row in rows:
        votes[normal_prompt(row["prompt"])].append(WORDS[row["pick"]])
    return {prompt: sum(own) / len(own) for prompt, own in votes.items()}


def win_rates(
    decision: GateDecision,
    report: EvalReport,
    scores: ScoreGrids,
    *,
    prompts: Mapping[int, str],
    votes: Mapping[str, float],
) -> list[PeoplesWinRate]:
    """One estimate a voting judge. People decide a prompt by majority; prompts on which they are even are left out.

    ValueError for a vote on a prompt that was not asked, for too few decided prompts, or for none without a label.
    """
    asked = {normal_prompt(text): index for index, text in prompts.items()}
    strange = [prompt for prompt in votes if prompt not in asked]
    if strange:
        raise ValueError(f"{len(strange)} votes are on prompts that the evaluation did not ask, e.g. {strange[0]!r}.")
    labels = {asked[prompt]: int(share > 0.5) for prompt, share in votes.items() if share != 0.5}
    if len(labels) < MINIMUM_PROMPTS or len(prompts) - len(labels) < 2:
        raise ValueError(
            f"People decided {len(labels)} of {len(prompts)} prompts. Give votes on {MINIMUM_PROMPTS} and more, and"
            " leave two or more to the judges."
        )
    lines = {check.name: check.passed for check in decision.checks}
    may_vote = {judge.name for judge in report.spec.judges if lines.get(f"may_vote:{judge.name}")}
    if not may_vote:
        raise ValueError("No judge may vote in this decision, so there is nothing to add to people's votes.")
    order = sorted(prompts)
    return [
        _win_rate(judge.name, scores.differences(judge.name), labels, order=order, confidence=report.spec.confidence)
        for judge in report.spec.judges
        if judge.name in may_vote
    ]


def _win_rate(
    judge: str, differences_P: Floats, labels: Mapping[int, int], *, order: Sequence[int], confidence: float
) -> PeoplesWinRate:
    """A judge's equal scores count against the candidate: the interval is valid whatever the judge says.

    A judge that says one thing of every prompt adds nothing, and people who do leave no spread to estimate by: then the
    votes alone speak.
    """
    says = {index: int(difference > 0) for index, difference in zip(order, differences_P.tolist(), strict=True)}
    labelled = sorted(labels)
    human, judged = [labels[index] for index in labelled], [says[index] for index in labelled]
    others = [says[index] for index in order if index not in labels]
    low, high = win_rate_interval(sum(human), 0, len(human) - sum(human), confidence=confidence)
    found = PredictionPowered(sum(human) / len(human), low, high)
    if len({*judged, *others}) > 1 and len(set(human)) > 1:
        found = prediction_powered_win_rate(human, judged, others, confidence=confidence)
    return PeoplesWinRate(
        judge=judge,
        num_labelled=len(human),
        num_unlabelled=len(others),
        win_rate=found.win_rate,
        low=found.low,
        high=found.high,
        people_alone=sum(human) / len(human),
        people_alone_low=low,
        people_alone_high=high,
        agreement=sum(a == b for a, b in zip(human, judged, strict=True)) / len(human),
    )
