"""`plumbline canary`: a verdict on users' picks between champion and challenger, valid however often you repeat it.

The canary is optional. It is independent of the gate and moves no alias. docs/canary.md explains how to serve both
models and what to log.
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

ALLOWED_PICKS = ("challenger", "champion", "tie")
NAMED_LINES = 5
Verdict = Literal["challenger", "champion", "insufficient", "undecided", "drift"]


class _CanaryVerdict(ValueObject):
    """Verdict on the users' picks so far; it stays valid when the test is repeated."""

    verdict: Verdict
    """challenger: its win rate is shown to exceed `required`; champion: it is shown to be below one half;
    insufficient: it is shown to be below `required`, but not below one half; undecided: more picks are needed; drift:
    the picks contradict each other, so there is no verdict."""
    win_rate: float
    """Share of the counted picks that went to the challenger."""
    win_rate_low: float
    win_rate_high: float
    required: float
    """Value that the challenger's win rate must be shown to exceed."""
    confidence: float
    decided_after: int | None
    """Number of counted picks after which the verdict was first reached. A verdict is then kept."""
    num_rows: int
    num_ties: int
    """Number of ties. They are not counted in the win rate."""
    num_over_limit: int
    """Number of picks beyond the allowed number of their user. They are not counted."""
    num_counted: int
    num_users: int | None
    """None if the table has no column `user`."""
    explanation: str


@dataclass(frozen=True)
class _Pick:
    """One row of the table."""

    winner: str
    user: str
    time: str


def judge_picks(
    path: Path, *, confidence: float = 0.95, required: float = 0.5, picks_per_user: int = 1
) -> _CanaryVerdict:
    """Judge a CSV file with the column `pick` (challenger, champion or tie) and optional columns `user` and `time`.

    Rows are sorted by `time` (ISO 8601) if it is there; otherwise their order is kept. Only the first `picks_per_user`
    decided picks of each user count: picks of one person are correlated, and treating them as independent would
    overstate the confidence. ValueError for a table that cannot be read or has no decided pick.
    """
    if not 0 < required < 1 or picks_per_user < 1:
        raise ValueError(
            f"required is {required:g} and picks_per_user is {picks_per_user}. Allowed: a share between 0 and 1 for"
            " required, and 1 or more for picks_per_user."
        )
    rows, has_users = _read_picks(path)
    decided = [pick for pick in rows if pick.winner != "tie"]
    counted = _first_of_each(decided, picks_per_user) if has_users else decided
    if not counted:
        raise ValueError(f"{path} has no pick of challenger or champion yet. Run the canary again when it has some.")
    if not has_users:
        log.warning("%s has no column user: several picks of one person count as picks of several people", path)
    wins = [int(pick.winner == "challenger") for pick in counted]
    sequence = confidence_sequence(wins, confidence=confidence)
    verdict, first = _verdict(sequence, required)
    low, high = float(sequence.low_N[-1]), float(sequence.high_N[-1])
    return _CanaryVerdict(
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


def _read_picks(path: Path) -> tuple[list[_Pick], bool]:
    """Read the rows, sorted by time if there is a column `time`, and True if there is a column `user`."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as UTF-8 text: {error}.") from error
    table = csv.DictReader(text.splitlines())
    columns = table.fieldnames or []
    if "pick" not in columns:
        raise ValueError(f"{path}: the first line has no `pick`. Expected the column pick; user and time are optional.")
    rows = [
        _Pick((r["pick"] or "").strip(), (r.get("user") or "").strip(), (r.get("time") or "").strip()) for r in table
    ]
    _check(path, rows, columns)
    if "time" in columns:
        rows.sort(key=lambda pick: datetime.fromisoformat(pick.time))
    return rows, "user" in columns


def _first_of_each(picks: Sequence[_Pick], limit: int) -> list[_Pick]:
    """Return the first picks of each user, at most `limit`, in their order."""
    seen: Counter[str] = Counter()
    kept = []
    for pick in picks:
        seen[pick.user] += 1
        if seen[pick.user] <= limit:
            kept.append(pick)
    return kept


def _check(path: Path, rows: Sequence[_Pick], columns: Sequence[str]) -> None:
    """Check the columns of every row; ValueError names the lines of each kind of fault."""
    faults = {
        f"`pick` is not one of {', '.join(ALLOWED_PICKS)}": [
            i for i, row in enumerate(rows, 2) if row.winner not in ALLOWED_PICKS
        ],
        "`user` is empty": [i for i, row in enumerate(rows, 2) if "user" in columns and not row.user],
        "`time` is not ISO 8601 with a time zone": [
            i for i, row in enumerate(rows, 2) if "time" in columns and not _is_time(row.time)
        ],
    }
    problems = [
        f"{what} in lines {', '.join(map(str, lines[:NAMED_LINES]))}{', ...' if len(lines) > NAMED_LINES else ''}"
        for what, lines in faults.items()
        if lines
    ]
    if problems:
        raise ValueError(f"{path}: {'; '.join(problems)}.")


def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _verdict(sequence: ConfidenceSequence, required: float) -> tuple[Verdict, int | None]:
    """Return the verdict and the number of picks after which it was reached. Contradicting picks have no verdict."""
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
    text = {
        "challenger": f"Users prefer the challenger in more than {required:g} of picks.",
        "champion": "Users prefer the champion. End the canary.",
        "insufficient": f"Users prefer the challenger in fewer than the required {required:g} of picks.",
        "undecided": f"Undecided against the required {required:g}. Continue the canary.",
        "drift": "No single win rate explains these picks: users, prompts or models changed during the canary. Find the"
        " change, and start a new table.",
    }[verdict]
    found = f"After {num} counted picks its win rate is between {low:.3f} and {high:.3f}"
    if verdict == "drift":
        found = f"{num} picks were counted"
    return f"{text} {found}; {ties} ties are not counted." if ties else f"{text} {found}."
