"""Human pairs under a judge: which of them count, and what they say together. Torch-free.

Two labels are not two pieces of evidence when they are of one comparison, or of comparisons of one prompt: a judge that
is right once is then often right again. So several people's labels of one comparison become one, their majority's, and
intervals are over prompts (`alignment.statistics.calibration`).
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
from alignment.statistics.prompts import normal_prompt

FACTS = ("source", "generator_chosen", "generator_rejected", "created_at", "prompt")
UNKNOWN = "unknown"
JOINED = " | "
"""Between the two generators of a pair."""


class PairFacts(NamedTuple):
    """What is known of a pair beside its scores."""

    source: str = ""
    generators: str = UNKNOWN
    created_at: datetime | None = None
    comparison: str = ""
    """Two images and a prompt, the same for whoever compares them; empty where nobody looked: one of its own."""
    chosen_is_first: bool = True
    """Whether the chosen image is the comparison's first side."""
    prompt_group: str = ""
    """sha256 of the normal prompt; empty where nobody looked: one of its own."""


class ScoredPair(NamedTuple):
    """A human pair under one judge."""

    pair_id: str
    score_chosen: float
    score_rejected: float
    is_tie: bool


class JudgedPair(NamedTuple):
    """A human pair under a named judge: a row of calibration_scores.parquet without its facts."""

    judge: str
    pair: ScoredPair


@dataclass(frozen=True)
class Scope:
    """Which pairs count for a vote."""

    since: datetime | None = None
    """Older pairs do not count; None: any age, and any date."""
    until: datetime | None = None
    """Nor do pairs that bear a later date, which must be wrong."""
    undated: bool = True
    """Whether pairs without a date count."""
    generators: tuple[str, ...] = ()
    """Only pairs whose images were all drawn by these; empty: whoever drew them."""

    def holds(self, facts: PairFacts) -> bool:
        """Whether a pair counts."""
        drawn_by = set(facts.generators.split(JOINED))
        return self._dated(facts.created_at) and (not self.generators or drawn_by <= set(self.generators))

    def _dated(self, at: datetime | None) -> bool:
        if self.since is None or self.until is None:
            return True
        return self.undated if at is None else self.since <= at <= self.until


EVERY_PAIR = Scope()


def held_out(judge: Judge, facts: PairFacts) -> bool:
    """Whether a judge has not learnt from the pair's source; one trained here has its own split of each source."""
    return judge.keeps_split or facts.source not in judge.training_sources


def agreement(
    judge: Judge,
    pairs: Sequence[ScoredPair],
    facts: Mapping[str, PairFacts],
    *,
    confidence: float,
    scope: Scope = EVERY_PAIR,
) -> Calibration:
    """A judge's agreement with people on the pairs that count and that it did not learn from.

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
    """Each judge's agreement with people on the pairs of its scope, and why one could not be had."""
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
    """Every comparison once, as most of its people labelled it, with its prompt's group; evenly split is a tie."""
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
    """Facts of the calibration split by pair_id, with the comparison that each row is of."""
    return with_comparisons(read_facts(snapshot_dir / file_name), read_ballots(snapshot_dir, "calibration"))


def read_facts(path: Path) -> dict[str, PairFacts]:
    """Facts of a split by pair_id. A snapshot of an earlier version lacks generators and dates: they are unknown."""
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
    """The facts with what a ballot knows: the comparison, and which side won."""
    known = {ballot.pair_id: ballot for ballot in ballots}
    return {
        pair_id: own._replace(comparison=known[pair_id].item, chosen_is_first=known[pair_id].chosen_is_first)
        for pair_id, own in facts.items()
    }


def scores_table(rows: Sequence[JudgedPair], facts: Mapping[str, PairFacts]) -> pa.Table:
    """calibration_scores.parquet: one row per (judge, pair), from which every agreement can be made again."""
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
    """The rows and facts of a table. ValueError names what it lacks, or a pair that it has twice for one judge."""
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
