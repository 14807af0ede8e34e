"""`plumbline gate people`: combine human votes on some prompts with the judges' scores on all of them.

Human labels are few and expensive; judges' scores are many and biased. Prediction-powered inference (Angelopoulos et
al. 2023) combines both; its interval covers the human win rate whatever the judge's bias. The result is informative
only: the gate does not read it.
"""

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from alignment.contracts.evaluation import EvalReport
from alignment.contracts.values import Record
from alignment.statistics.agreement import PredictionPowered, prediction_powered_win_rate
from alignment.statistics.comparison import Floats, win_rate_interval
from alignment.statistics.normal_text import normal_prompt
from alignment.statistics.score_grids import ScoreGrids
from pipelines.contracts.release import GateDecision
from pipelines.release.gate.checks.score_table import read_grids
from pipelines.release.gate.decision_log import load_decision
from pipelines.release.gate.evidence import evaluated_prompts, score_columns
from pipelines.settings import Settings
from pipelines.store.storage import open_store

PICKS = {"candidate": 1.0, "tie": 0.5, "champion": 0.0}
MINIMUM_PROMPTS = 30
"""The fewest labelled prompts for which the interval's normal approximation is reliable."""


class _HumanWinRate(Record):
    """The candidate's win rate among people, estimated with the help of one judge."""

    judge: str
    num_labelled: int
    """Prompts that people voted on, including ties."""
    num_ties: int
    """Of those, prompts on which the human votes were even; they count as half a win, as in the gate."""
    num_unlabelled: int
    """Prompts that only the judge scored."""
    win_rate: float
    low: float
    high: float
    people_alone: float
    people_alone_low: float
    people_alone_high: float
    """From the labels alone (Wilson), to show how much the judge narrows the interval."""
    agreement: float
    """Share of the prompts with a human majority on which the judge prefers the same image."""


def read_votes(path: Path) -> dict[str, float]:
    """Return the share of human votes for the candidate, by normalised prompt, from a CSV file with the columns
    `prompt` and `pick`.

    ValueError for a file that is not UTF-8 text, has no votes, or has a line without a prompt or a valid pick.
    """
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as UTF-8 text: {error}.") from error
    bad = [number for number, row in enumerate(rows, 2) if row.get("pick") not in PICKS or not row.get("prompt")]
    if bad or not rows:
        fault = f"lines {', '.join(map(str, bad[:5]))} are not valid" if bad else "there are no votes"
        raise ValueError(f"{path}: {fault}. Each line needs a `prompt` and a `pick` of {', '.join(PICKS)}.")
    votes = defaultdict[str, list[float]](list)
    for row in rows:
        votes[normal_prompt(row["prompt"])].append(PICKS[row["pick"]])
    return {prompt: sum(own) / len(own) for prompt, own in votes.items()}


def shares_for(decision: GateDecision, rows: Iterable[tuple[str, str, str, float]]) -> dict[str, float]:
    """Return the share of votes for the candidate, by normalised prompt, from rows of (prompt, generator of either
    image, share of the vote for the first).

    The last word of a generator is the digest of its weights. Rows about other weights are left out.
    """
    candidate, champion = decision.candidate.weights_digest, decision.champion_weights_digest
    votes = defaultdict[str, list[float]](list)
    for prompt, *generators, share in rows:
        weights = [str(generator).rpartition(" ")[2] for generator in generators]
        if weights in ([candidate, champion], [champion, candidate]):
            votes[normal_prompt(prompt)].append(share if weights[0] == candidate else 1 - share)
    return {prompt: sum(own) / len(own) for prompt, own in votes.items()}


def _win_rates(
    decision: GateDecision,
    report: EvalReport,
    scores: ScoreGrids,
    *,
    prompts: Mapping[int, str],
    votes: Mapping[str, float],
    groups: Mapping[int, int] | None = None,
) -> list[_HumanWinRate]:
    """Return one estimate per voting judge. The human majority decides a prompt; even votes count as half a win.

    `groups` maps each prompt to the first of its near-duplicates, which count as one prompt; None: there are none.

    Prompts with even votes stay among the labelled ones: the unlabelled prompts contain such prompts too, so leaving
    them out on one side only would bias the interval. The labelled prompts must be a random sample of the evaluation's.
    ValueError for a vote on a prompt outside the evaluation, for too few labelled prompts, or for too few unlabelled.
    """
    first = groups or {index: index for index in prompts}
    known = {normal_prompt(text): first[index] for index, text in prompts.items()}
    strange = [prompt for prompt in votes if prompt not in known]
    if strange:
        raise ValueError(
            f"{len(strange)} votes are on prompts that are not in the evaluation, e.g. {strange[0]!r}. Give votes on"
            " the evaluation's prompts only."
        )
    shares = defaultdict[int, list[float]](list)
    for prompt, share in votes.items():
        shares[known[prompt]].append(share)
    labels = {index: _half_step(sum(own) / len(own) - 0.5) for index, own in shares.items()}
    order = sorted(set(first.values()))
    if len(labels) < MINIMUM_PROMPTS or len(order) - len(labels) < 2:
        raise ValueError(
            f"People voted on {len(labels)} of {len(order)} prompts. Give votes on at least {MINIMUM_PROMPTS}"
            " prompts, and leave at least 2 without votes."
        )
    may_vote = {check.subject for check in decision.checks if check.kind == "may_vote" and check.passed}
    if not may_vote:
        raise ValueError(
            "No judge may vote in this decision, so there are no scores to combine with the human votes. Run"
            " `plumbline judges` to see why."
        )
    return [
        _win_rate(judge.name, scores.differences(judge.name), labels, order=order, confidence=report.spec.confidence)
        for judge in report.spec.judges
        if judge.name in may_vote
    ]


def _win_rate(
    judge: str, differences_P: Floats, labels: Mapping[int, float], *, order: Sequence[int], confidence: float
) -> _HumanWinRate:
    """Return the estimate with one judge. Equal scores count as half a win, as human ties do.

    The interval is valid whatever the judge prefers. If the judge gives the same answer on every prompt it adds no
    information, and if people do there is no variance to estimate: then the interval comes from the votes alone.
    """
    picks = {index: _half_step(difference) for index, difference in zip(order, differences_P.tolist(), strict=True)}
    labelled = sorted(labels)
    human, judged = [labels[index] for index in labelled], [picks[index] for index in labelled]
    others = [picks[index] for index in order if index not in labels]
    counts = [human.count(label) for label in (1.0, 0.5, 0.0)]
    low, high = win_rate_interval(*counts, confidence=confidence)
    found = PredictionPowered(sum(human) / len(human), low, high)
    decided = [(own, other) for own, other in zip(human, judged, strict=True) if own != 0.5]
    if len({*judged, *others}) > 1 and len(set(human)) > 1:
        found = prediction_powered_win_rate(human, judged, others, confidence=confidence)
    return _HumanWinRate(
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
    """Return 1 for the candidate, 0 for the champion, 0.5 for neither."""
    return 0.5 if balance == 0 else float(balance > 0)


def human_win_rates(path: Path, votes: Mapping[str, float], settings: Settings) -> list[_HumanWinRate]:
    """Combine a decision's judges with human votes on some of its prompts.

    `path` is a decision's JSON file or a project, `votes` the share of the votes for the candidate by normalised
    prompt. ValueError when the evaluation is no longer in the store, or as `_win_rates` raises it.
    """
    decision = load_decision(path, settings)
    store = open_store(settings.store_uri, settings)
    manifest = store.read_manifest(decision.evaluation_uri)
    if manifest is None:
        raise ValueError(f"The evaluation {decision.evaluation_uri} is no longer in the store. Evaluate again.")
    columns = score_columns(decision.evaluation_uri, settings)
    prompts = evaluated_prompts(columns)
    return _win_rates(
        decision,
        EvalReport.model_validate(manifest.value),
        read_grids(columns),
        prompts={prompt.index: prompt.text for prompt in prompts},
        votes=votes,
        groups={prompt.index: int(prompt.group) for prompt in prompts if prompt.group is not None} or None,
    )
