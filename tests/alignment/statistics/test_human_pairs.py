"""Human pairs: selection of those that count, and several labels of one comparison reduced to one."""

import hashlib
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alignment.catalogues.rewards import ClipPreference, PickScore
from alignment.contracts.judges import Judge
from alignment.data.human_labels import Ballot
from alignment.statistics.human_pairs import (
    JudgedPair,
    PairFacts,
    Scope,
    ScoredPair,
    agreement,
    agreements,
    from_columns,
    majorities,
    read_facts,
    scores_table,
    with_comparisons,
)

OLD, NEW = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)
JUDGE = Judge(name="judge", scorer=ClipPreference(), weights_digest="1" * 64, trained_on=("panel",))


def pair(name: str, margin: float, tie: bool = False) -> ScoredPair:
    return ScoredPair(name, margin, 0.0, tie)


def counted(pairs: list[ScoredPair], facts: dict[str, PairFacts], scope: Scope, judge: Judge = JUDGE) -> int:
    return agreement(judge, pairs, facts, confidence=0.95, scope=scope).num_pairs


def test_labels_of_one_comparison_become_their_majority() -> None:
    """Three people saw A (first) and B; two chose A. The judge prefers B. An even split of two people is a tie."""
    facts = {name: PairFacts(comparison="AB", chosen_is_first=name != "c") for name in "abc"}
    facts |= {name: PairFacts(comparison="CD", chosen_is_first=name == "d") for name in "de"}
    pairs = [pair("a", -1.0), pair("b", -1.0), pair("c", 1.0), pair("d", 2.0), pair("e", -2.0)]
    (first, _), (second, _) = majorities(pairs, facts)
    assert (first.score_chosen - first.score_rejected, first.is_tie) == (-1.0, False)
    assert second.is_tie
    found = agreement(JUDGE, pairs, facts, confidence=0.95)
    assert (found.num_pairs, found.num_human_ties, found.accuracy) == (1, 1, 0.0)
    reversed_order = agreement(JUDGE, pairs[::-1], facts, confidence=0.95)
    assert reversed_order == found, "whoever labelled first"


def test_a_tie_does_not_count_against_a_majority() -> None:
    facts = {name: PairFacts(comparison="AB") for name in "abc"}
    ((only, _),) = majorities([pair("a", 3.0, tie=True), pair("b", 3.0), pair("c", 3.0, tie=True)], facts)
    assert (only.score_chosen, only.is_tie) == (3.0, False)


def test_old_pairs_and_pairs_of_the_future_do_not_count() -> None:
    dates = [OLD, NEW, NEW + timedelta(days=1), None]
    facts = {str(i): PairFacts(created_at=at) for i, at in enumerate(dates)}
    pairs = [pair(str(i), 1.0) for i in range(4)]
    limits = {"since": NEW - timedelta(days=7), "until": NEW}
    assert counted(pairs, facts, Scope()) == 4
    assert counted(pairs, facts, Scope(**limits)) == 2, "the new one and the one without a date"
    assert counted(pairs, facts, Scope(**limits, undated=False)) == 1


def test_only_pairs_drawn_entirely_by_the_named_generators_count() -> None:
    drawn = ["sd15", "flux | sd15", "flux", "unknown"]
    facts = {str(i): PairFacts(generators=names) for i, names in enumerate(drawn)}
    pairs = [pair(str(i), 1.0) for i in range(4)]
    assert counted(pairs, facts, Scope(generators=("sd15",))) == 1
    assert counted(pairs, facts, Scope(generators=("flux", "sd15"))) == 3
    assert counted(pairs, facts, Scope(generators=("sdxl",))) == 0


def test_a_judge_is_not_calibrated_on_its_training_sources_unless_it_kept_a_held_out_split() -> None:
    facts = {"a": PairFacts("panel"), "b": PairFacts("others"), "c": PairFacts("pick_a_pic")}
    pairs = [pair(name, 1.0) for name in facts]
    assert counted(pairs, facts, Scope()) == 2, "not on its own panel's"
    published = Judge(name="p", scorer=PickScore(), weights_digest="2" * 64)
    assert counted(pairs, facts, Scope(), published) == 2, "not on what published weights of its kind learnt from"
    own = JUDGE.model_copy(update={"keeps_split": True})
    assert counted(pairs, facts, Scope(), own) == 3


def test_a_table_round_trips_rows_and_facts() -> None:
    facts = {"a": PairFacts("x", "sd15", NEW, "AB", False, "one"), "b": PairFacts("y")}
    rows = [JudgedPair(judge, pair(name, 0.5)) for judge in ("j", "k") for name in facts]
    columns = scores_table(rows, facts).to_pydict()
    assert from_columns(columns) == (rows, facts)
    doubled = {name: [*values, values[0]] for name, values in columns.items()}
    with pytest.raises(ValueError, match="a pair more than once for one judge"):
        from_columns(doubled)
    with pytest.raises(ValueError, match="lacks source, comparison"):
        from_columns({k: v for k, v in columns.items() if k not in ("source", "comparison")})


def test_each_judge_has_its_own_scope_and_a_broken_one_is_reported() -> None:
    other = JUDGE.model_copy(update={"name": "other"})
    facts = {"a": PairFacts(created_at=OLD), "b": PairFacts(created_at=NEW)}
    rows = [JudgedPair(judge, pair(name, 1.0)) for judge in ("judge", "other") for name in facts]
    scopes = {"other": Scope(since=NEW, until=NEW)}
    found, problems = agreements([JUDGE, other], rows, facts, confidence=0.95, scopes=scopes)
    assert ([each.num_pairs for each in found], problems) == ([2, 1], [])
    rows[0] = JudgedPair("judge", pair("a", float("nan")))
    found, problems = agreements([JUDGE, other], rows, facts, confidence=0.95)
    assert [each.judge for each in found] == ["other"]
    assert "not finite" in problems[0]


def test_ballots_provide_comparison_and_side() -> None:
    ballots = [Ballot("a", "item", False, False, "ann", "x")]
    assert with_comparisons({"a": PairFacts("x")}, ballots)["a"] == PairFacts(
        "x", comparison="item", chosen_is_first=False
    )


def test_spellings_of_a_prompt_are_one_group(tmp_path: Path) -> None:
    rows = {"pair_id": ["p", "q"], "source": ["x", "x"], "prompt": ["A cat!", "a  cat"]}
    pq.write_table(pa.table(rows), tmp_path / "x.parquet")
    groups = {own.prompt_group for own in read_facts(tmp_path / "x.parquet").values()}
    assert groups == {hashlib.sha256(b"a cat").hexdigest()}


def test_facts_of_a_snapshot_with_and_without_generators(tmp_path: Path) -> None:
    paris = datetime(2026, 3, 1, 1, tzinfo=timezone(timedelta(hours=1)))
    rows = {
        "pair_id": ["p", "q", "r"],
        "source": ["x", "x", "y"],
        "generator_chosen": ["sd-b", "sd-a", None],
        "generator_rejected": ["sd-a", "sd-a", None],
        "created_at": pa.array([paris, None, OLD], pa.timestamp("us", tz="UTC")),
    }
    pq.write_table(pa.table(rows), tmp_path / "new.parquet")
    assert read_facts(tmp_path / "new.parquet") == {
        "p": PairFacts("x", "sd-a | sd-b", NEW),
        "q": PairFacts("x", "sd-a", None),
        "r": PairFacts("y", "unknown", OLD),
    }
    pq.write_table(pa.table({name: rows[name] for name in ("pair_id", "source")}), tmp_path / "old.parquet")
    assert read_facts(tmp_path / "old.parquet")["p"] == PairFacts("x", "unknown", None)
