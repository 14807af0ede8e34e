"""`plumbline gate people`: some human votes between candidate and champion, and the judges' on all prompts, together.

People's labels alone are few and dear; the judges' are many and biased. Prediction-powered inference (Angelopoulos et
al. 2023) takes both and its interval covers people's win rate whatever the judge's bias. It informs; the gate does not
read it.
"""

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from alignment.contracts.evaluation import EvalReport
from alignment.contracts.values import Record
from alignment.statistics.agreement import PredictionPowered, prediction_powered_win_rate
from alignment.statistics.comparison import Floats, win_rate_interval
from alignment.statistics.prompts import normal_prompt
from alignment.statistics.score_grids import ScoreGrids
from pipelines.contracts.release import GateDecision
from pipelines.release.gate.checks.score_table import read_grids
from pipelines.release.gate.decision_log import load_decision
from pipelines.release.gate.evidence import score_columns
from pipelines.settings import Settings
from pipelines.store.storage import open_store

WORDS = {"candidate": 1.0, "tie": 0.5, "champion": 0.0}
MINIMUM_PROMPTS = 30
"""Labelled prompts below which the interval's normal approximation is not to be trusted."""


class PeoplesWinRate(Record):
    """The candidate's win rate among people, with one judge's help."""

    judge: str
    num_labelled: int
    """Prompts that people voted on, ties among them."""
    num_ties: int
    """Of those, prompts on which people were even; they count as half a win, as in the gate."""
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
    """Share of the prompts that people decided on which the judge says the same."""


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
    """One estimate a voting judge. People decide a prompt by majority; one on which they are even is half a win.

    It stays among the labelled ones: the unlabelled prompts hold such prompts too, and an interval that knows only the
    decided ones on one side is about neither. The labelled prompts must be a random sample of those asked.
    ValueError for a vote on a prompt that was not asked, for too few labelled prompts, or for none without a label.
    """
    asked = {normal_prompt(text): index for index, text in prompts.items()}
    strange = [prompt for prompt in votes if prompt not in asked]
    if strange:
        raise ValueError(f"{len(strange)} votes are on prompts that the evaluation did not ask, e.g. {strange[0]!r}.")
    labels = {asked[prompt]: _half_step(share - 0.5) for prompt, share in votes.items()}
    if len(labels) < MINIMUM_PROMPTS or len(prompts) - len(labels) < 2:
        raise ValueError(
            f"People voted on {len(labels)} of {len(prompts)} prompts. Give votes on {MINIMUM_PROMPTS} and more, and"
            " leave two or more to the judges."
        )
    may_vote = {check.subject for check in decision.checks if check.kind == "may_vote" and check.passed}
    if not may_vote:
        raise ValueError("No judge may vote in this decision, so there is nothing to add to people's votes.")
    order = sorted(prompts)
    return [
        _win_rate(judge.name, scores.differences(judge.name), labels, order=order, confidence=report.spec.confidence)
        for judge in report.spec.judges
        if judge.name in may_vote
    ]


def _win_rate(
    judge: str, differences_P: Floats, labels: Mapping[int, float], *, order: Sequence[int], confidence: float
) -> PeoplesWinRate:
    """A judge's equal scores are half a win, as people's ties are; the interval is valid whatever the judge says.

    A judge that says one thing of every prompt adds nothing, and people who do leave no spread to estimate by: then the
    votes alone speak.
    """
    says = {index: _half_step(difference) for index, difference in zip(order, differences_P.tolist(), strict=True)}
    labelled = sorted(labels)
    human, judged = [labels[index] for index in labelled], [says[index] for index in labelled]
    others = [says[index] for index in order if index not in labels]
    counts = [human.count(label) for label in (1.0, 0.5, 0.0)]
    low, high = win_rate_interval(*counts, confidence=confidence)
    found = PredictionPowered(sum(human) / len(human), low, high)
    decided = [(own, other) for own, other in zip(human, judged, strict=True) if own != 0.5]
    if len({*judged, *others}) > 1 and len(set(human)) > 1:
        found = prediction_powered_win_rate(human, judged, others, confidence=confidence)
    return PeoplesWinRate(
        judge=judge,
        num_labelled=len(human),
        num_ties=counts[1],
        num_unlabelled=len(others),
        win_rate=found.win_rate,
        low=found.low,
        high=found.high,
        people_alone=sum(human) / len(human),
        people_alone_low=low,
        people_alone_high=high,
        agreement=sum(own == other for own, other in decided) / max(1, len(decided)),
    )


def _half_step(balance: float) -> float:
    """1 for the candidate, 0 for the champion, 0.5 for neither."""
    return 0.5 if balance == 0 else float(balance > 0)


def peoples_win_rates(path: Path, votes: Path, settings: Settings) -> list[PeoplesWinRate]:
    """A decision's judges beside people's votes on some of its prompts; ValueError when its evaluation is gone."""
    decision = load_decision(path, settings)
    store = open_store(settings.store_uri, settings)
    manifest = store.read_manifest(decision.evaluation_uri)
    if manifest is None:
        raise ValueError(f"The evaluation {decision.evaluation_uri} is no longer in the store. Evaluate again.")
    columns = score_columns(decision.evaluation_uri, settings)
    own = (columns[name] for name in ("role", "prompt_index", "prompt"))
    prompts = {int(str(i)): str(text) for role, i, text in zip(*own, strict=True) if role == "candidate"}
    return win_rates(
        decision,
        EvalReport.model_validate(manifest.value),
        read_grids(columns),
        prompts=prompts,
        votes=read_votes(votes),
    )
