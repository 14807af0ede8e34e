"""`plumbline canary`: users' picks between champion and challenger to a verdict that one may look at every day.

Optional: it stands beside the gate and moves nothing. docs/canary.md says how to serve both models and what to log.
"""

import csv
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from alignment.contracts.values import ValueObject
from alignment.statistics.sequential import ConfidenceSequence, confidence_sequence

log = logging.getLogger(__name__)

WORDS = ("challenger", "champion", "tie")
NAMED_LINES = 5
Verdict = Literal["challenger", "champion", "insufficient", "undecided", "drift"]


class CanaryVerdict(ValueObject):
    """What users' picks show by now, valid at every look."""

    verdict: Verdict
    """challenger: its win rate is shown to exceed what is required; champion: shown to lie below one half;
    insufficient: below what is required, which was more than one half; undecided asks for more picks; drift: the picks
    contradict each other, so there is none."""
    win_rate: float
    """Share of the counted picks that went to the challenger."""
    win_rate_low: float
    win_rate_high: float
    required: float
    """The challenger's win rate must be shown to lie above this."""
    confidence: float
    decided_after: int | None
    """Counted picks after which the verdict was first reached; a verdict once reached stands."""
    num_rows: int
    num_ties: int
    """Left out: the win rate is among picks."""
    num_over_limit: int
    """Left out: picks of a user beyond the allowed number."""
    num_counted: int
    num_users: int | None
    """None where the table names no users."""
    explanation: str


@dataclass(frozen=True)
class Pick:
    """One row of the table."""

    winner: str
    user: str
    time: str


def judge_picks(
    path: Path, *, confidence: float = 0.95, required: float = 0.5, picks_per_user: int = 1
) -> CanaryVerdict:
    """The verdict on a CSV with the column `pick` (challenger, champion or tie), and `user` and `time` if it likes.

    Rows are taken by `time` where it is given (ISO 8601), else as they stand. Of each user the first `picks_per_user`
    decided picks count: a person's picks resemble each other, and counted as independent they would feign certainty.
    ValueError for a table that cannot be read, or has no decided pick.
    """
    if not 0 < required < 1 or picks_per_user < 1:
        raise ValueError(f"required is {required:g} and picks_per_user {picks_per_user}: give a share, and 1 or more.")
    rows, has_users = read_picks(path)
    decided = [pick for pick in rows if pick.winner != "tie"]
    counted = first_of_each(decided, picks_per_user) if has_users else decided
    if not counted:
        raise ValueError(f"{path} holds no pick of challenger or champion yet.")
    if not has_users:
        log.warning("%s names no users: several picks of one person count as if they were of several people", path)
    wins = [int(pick.winner == "challenger") for pick in counted]
    sequence = confidence_sequence(wins, confidence=confidence)
    verdict, first = _verdict(sequence, required)
    low, high = float(sequence.low_N[-1]), float(sequence.high_N[-1])
    return CanaryVerdict(
        verdict=verdict,
        win_rate=sum(wins) / len(wins),
        win_rate_low=low,
        win_rate_high=high,
        required=required,
        confidence=confidence,
        decided_after=first,
        num_rows=len(rows),
        num_ties=len(rows) - len(decided),
        num_over_limit=len(decided) - len(counted),
        num_counted=len(wins),
        num_users=len({pick.user for pick in rows}) if has_users else None,
        explanation=_sentence(verdict, low, high, required=required, num=len(wins), ties=len(rows) - len(decided)),
    )


def read_picks(path: Path) -> tuple[list[Pick], bool]:
    """The rows in the order of their time, and whether the table names users."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as UTF-8 text: {error}.") from error
    table = csv.DictReader(text.splitlines())
    columns = table.fieldnames or []
    if "pick" not in columns:
        raise ValueError(f"{path}: the first line has no `pick`. Expected the columns pick, and maybe user and time.")
    rows = [
        Pick((r["pick"] or "").strip(), (r.get("user") or "").strip(), (r.get("time") or "").strip()) for r in table
    ]
    _check(path, rows, columns)
    if "time" in columns:
        rows.sort(key=lambda pick: datetime.fromisoformat(pick.time))
    return rows, "user" in columns


def first_of_each(picks: Sequence[Pick], limit: int) -> list[Pick]:
    """Each user's first picks, at most `limit`, in their order."""
    seen: Counter[str] = Counter()
    kept = []
    for pick in picks:
        seen[pick.user] += 1
        if seen[pick.user] <= limit:
            kept.append(pick)
    return kept


def _check(path: Path, rows: Sequence[Pick], columns: Sequence[str]) -> None:
    """ValueError that names the lines of every kind of fault."""
    faults = {
        f"`pick` is none of {', '.join(WORDS)}": [i for i, row in enumerate(rows, 2) if row.winner not in WORDS],
        "`user` is empty": [i for i, row in enumerate(rows, 2) if "user" in columns and not row.user],
        "`time` is not ISO 8601 with a time zone": [
            i for i, row in enumerate(rows, 2) if "time" in columns and not _is_time(row.time)
        ],
    }
    told = [
        f"{what} in lines {', '.join(map(str, lines[:NAMED_LINES]))}{', ...' if len(lines) > NAMED_LINES else ''}"
        for what, lines in faults.items()
        if lines
    ]
    if told:
        raise ValueError(f"{path}: {'; '.join(told)}.")


def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _verdict(sequence: ConfidenceSequence, required: float) -> tuple[Verdict, int | None]:
    """The verdict and after how many picks it was reached; it stands unless the picks contradict each other."""
    if sequence.first_contradiction() is not None:
        return "drift", None
    above, below = sequence.first_above(required), sequence.first_below(required)
    if above is not None:
        return "challenger", above
    if below is None:
        return "undecided", None
    worse = sequence.first_below(min(required, 0.5))
    return ("insufficient", below) if worse is None else ("champion", worse)


def _sentence(verdict: Verdict, low: float, high: float, *, required: float, num: int, ties: int) -> str:
    says = {
        "challenger": f"People prefer the challenger in more than {required:g} of cases.",
        "champion": "People prefer the champion: end the canary.",
        "insufficient": f"People prefer the challenger in fewer than the required {required:g} of cases.",
        "undecided": f"Not settled against {required:g}: let it run on.",
        "drift": "No single win rate explains these picks: people, prompts or models changed on the way. Find out what"
        " did, and start a new table.",
    }[verdict]
    found = f"After {num} counted picks its win rate is between {low:.3f} and {high:.3f}"
    if verdict == "drift":
        found = f"{num} picks were counted"
    return f"{says} {found}; {ties} ties are left out." if ties else f"{says} {found}."
