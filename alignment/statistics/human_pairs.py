"""Human pairs under a judge: select the pairs that count and combine them. Torch-free.

Two labels of one comparison, or of two comparisons of one prompt, are not independent evidence: a judge that is right
once is then often right again. Several people's labels of one comparison are therefore reduced to their majority's,
and intervals are over prompts (`alignment.statistics.calibration`).
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from alignment.contracts.calibration import Calibration
from alignment.contracts.judges import Judge
from alignment.data.human_labels import Ballot, read_ballots
from alignment.statistics.calibration import calibrate
from alignment.statistics.normal_text import normal_prompt

FACTS = ("source", "generator_chosen", "generator_rejected", "created_at", "prompt")
UNKNOWN = "unknown"
JOINED = " | "
"""Separates the two generators of a pair."""


class PairFacts(NamedTuple):
    """Facts of a pair apart from its scores."""

    source: str = ""
    generators: str = UNKNOWN
    created_at: datetime | None = None
    comparison: str = ""
    """Key of two images and a prompt, the same for all annotators; empty when unknown: the pair is its own key."""
    chosen_is_first: bool = True
    """True when the chosen image is the comparison's first side."""
    prompt_group: str = ""
    """sha256 of the normalised prompt; empty when unknown: the pair is then its own group."""


class ScoredPair(NamedTuple):
    """One human pair under one judge."""

    pair_id: str
    score_chosen: float
    score_rejected: float
    is_tie: bool


class JudgedPair(NamedTuple):
    """One human pair under a named judge: a row of calibration_scores.parquet without its facts."""

    judge: str
    pair: ScoredPair


@dataclass(frozen=True)
class Scope:
    """Rules that select the pairs which count for a vote."""

    since: datetime | None = None
    """Pairs labelled earlier do not count; None: no limit on age or date."""
    until: datetime | None = None
    """Pairs with a later date do not count either: the date must be wrong."""
    undated: bool = True
    """True when pairs without a date count."""
    generators: tuple[str, ...] = ()
    """Only pairs whose images were all drawn by these generators count; empty: pairs of any generator."""

    def holds(self, facts: PairFacts) -> bool:
        """Return True when a pair counts."""
        drawn_by = set(facts.generators.split(JOINED))
        return self._dated(facts.created_at) and (not self.generators or drawn_by <= set(self.generators))

    def _dated(self, at: datetime | None) -> bool:
        if self.since is None or self.until is None:
            return True
        return self.undated if at is None else self.since <= at <= self.until


EVERY_PAIR = Scope()


def held_out(judge: Judge, facts: PairFacts) -> bool:
    """Return True when a judge was not trained on the pair's source, or keeps its own held-out split of it."""
    return judge.keeps_split or facts.source not in judge.training_sources


def agreement(
    judge: Judge,
    pairs: Sequence[ScoredPair],
    facts: Mapping[str, PairFacts],
    *,
    confidence: float,
    scope: Scope = EVERY_PAIR,
) -> Calibration:
    """Compute a judge's agreement with people on the pairs that count and that it was not trained on.

    ValueError when a score of a decided comparison is not finite.
    """
    kept = [pair for pair in pairs if held_out(judge, facts[pair.pair_id]) and scope.holds(facts[pair.pair_id])]
    compared = majorities(kept, facts)
    return calibrate(
        judge.name,
        score_chosen=[pair.score_chosen for pair, _ in compared],
        score_rejected=[pair.score_rejected for pair, _ in compared],
        is_human_tie=[pair.is_tie for pair, _ in compared],
        confidence=confidence,
        groups=[group for _, group in compared],
    )


def agreements(
    judges: Iterable[Judge],
    rows: Sequence[JudgedPair],
    facts: Mapping[str, PairFacts],
    *,
    confidence: float,
    scopes: Mapping[str, Scope] | None = None,
) -> tuple[list[Calibration], list[str]]:
    """Compute each judge's agreement with people on the pairs of its scope; also return the failures."""
    found, problems = [], []
    for judge in judges:
        own = [row.pair for row in rows if row.judge == judge.name]
        scope = (scopes or {}).get(judge.name, EVERY_PAIR)
        try:
            found.append(agreement(judge, own, facts, confidence=confidence, scope=scope))
        except ValueError as error:
            problems.append(str(error))
    return found, problems


def majorities(pairs: Sequence[ScoredPair], facts: Mapping[str, PairFacts]) -> list[tuple[ScoredPair, str]]:
    """Reduce each comparison to one row with its majority label and its prompt's group; an even split is a tie."""
    by_comparison: dict[str, list[ScoredPair]] = {}
    for pair in pairs:
        by_comparison.setdefault(facts[pair.pair_id].comparison or pair.pair_id, []).append(pair)
    return [_majority(own, facts) for own in by_comparison.values()]


def _majority(pairs: Sequence[ScoredPair], facts: Mapping[str, PairFacts]) -> tuple[ScoredPair, str]:
    sides = [1 if facts[pair.pair_id].chosen_is_first else -1 for pair in pairs]
    balance = sum(side for side, pair in zip(sides, pairs, strict=True) if not pair.is_tie)
    pair, side = pairs[0], sides[0]
    group = facts[pair.pair_id].prompt_group or facts[pair.pair_id].comparison or pair.pair_id
    scores = (pair.score_chosen, pair.score_rejected)
    chosen, rejected = scores if balance * side >= 0 else scores[::-1]
    return ScoredPair(pair.pair_id, chosen, rejected, balance == 0), group


# --- facts and tables -------------------------------------------------------------------------------------------------


def known_facts(snapshot_dir: Path, file_name: str) -> dict[str, PairFacts]:
    """Facts of the calibration split by pair_id, with the comparison that each row belongs to."""
    return with_comparisons(read_facts(snapshot_dir / file_name), read_ballots(snapshot_dir, "calibration"))


def read_facts(path: Path) -> dict[str, PairFacts]:
    """Facts of a split by pair_id. Generators and dates are unknown in a snapshot of an earlier version."""
    columns = ["pair_id", *(name for name in FACTS if name in pq.read_schema(path).names)]
    return {row["pair_id"]: _facts(row) for row in pq.read_table(path, columns=columns).to_pylist()}


def _facts(row: dict[str, object]) -> PairFacts:
    names = sorted({str(row.get(side) or "") for side in ("generator_chosen", "generator_rejected")} - {""})
    prompt = row.get("prompt")
    return PairFacts(
        source=str(row["source"]),
        generators=JOINED.join(names) or UNKNOWN,
        created_at=_utc(row.get("created_at")),
        prompt_group=hashlib.sha256(normal_prompt(prompt).encode("utf-8", "surrogatepass")).hexdigest()
        if isinstance(prompt, str)
        else "",
    )


def with_comparisons(facts: Mapping[str, PairFacts], ballots: Iterable[Ballot]) -> dict[str, PairFacts]:
    """Add to the facts those of a ballot: the comparison, and which side won."""
    known = {ballot.pair_id: ballot for ballot in ballots}
    return {
        pair_id: own._replace(comparison=known[pair_id].item, chosen_is_first=known[pair_id].chosen_is_first)
        for pair_id, own in facts.items()
    }


def scores_table(rows: Sequence[JudgedPair], facts: Mapping[str, PairFacts]) -> pa.Table:
    """Build calibration_scores.parquet: one row per (judge, pair), enough to recompute every agreement."""
    own = [facts[row.pair.pair_id] for row in rows]
    text, number, yes = pa.string(), pa.float64(), pa.bool_()
    return pa.table(
        {
            "judge": pa.array([row.judge for row in rows], text),
            "pair_id": pa.array([row.pair.pair_id for row in rows], text),
            "score_chosen": pa.array([row.pair.score_chosen for row in rows], number),
            "score_rejected": pa.array([row.pair.score_rejected for row in rows], number),
            "is_tie": pa.array([row.pair.is_tie for row in rows], yes),
            "source": pa.array([each.source for each in own], text),
            "generators": pa.array([each.generators for each in own], text),
            "created_at": pa.array([each.created_at for each in own], pa.timestamp("us", tz="UTC")),
            "comparison": pa.array([each.comparison for each in own], text),
            "chosen_is_first": pa.array([each.chosen_is_first for each in own], yes),
            "prompt_group": pa.array([each.prompt_group for each in own], text),
        }
    )


def from_columns(columns: Mapping[str, Sequence[Any]]) -> tuple[list[JudgedPair], dict[str, PairFacts]]:
    """Read the rows and facts of a table. ValueError names missing columns, or a pair with two rows for one judge."""
    needed = ("judge", *ScoredPair._fields, *PairFacts._fields)
    missing = [name for name in needed if name not in columns]
    if missing:
        raise ValueError(f"the calibration table lacks {', '.join(missing)}")
    rows = [
        JudgedPair(str(judge), ScoredPair(str(pair_id), float(chosen), float(rejected), bool(is_tie)))
        for judge, pair_id, chosen, rejected, is_tie in zip(*(columns[n] for n in needed[:5]), strict=True)
    ]
    known = zip(columns["pair_id"], *(columns[name] for name in PairFacts._fields), strict=True)
    facts = {
        str(pair_id): PairFacts(str(source), str(generators), _utc(at), str(comparison), bool(first), str(group))
        for pair_id, source, generators, at, comparison, first, group in known
    }
    if len({(row.judge, row.pair.pair_id) for row in rows}) < len(rows):
        raise ValueError("the calibration table has a pair more than once for one judge")
    return rows, facts


def _utc(at: object) -> datetime | None:
    return at.astimezone(UTC) if isinstance(at, datetime) else None
