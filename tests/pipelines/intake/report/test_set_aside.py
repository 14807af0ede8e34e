"""Every input row is counted once, in shards that passed, failed and were replayed."""

from collections import Counter
from typing import Any

from pipelines.contracts.pairs import QuarantinedShard
from pipelines.intake.quarantine import REPLAYED
from pipelines.intake.report import set_aside as module
from pipelines.intake.report.set_aside import set_aside


def shard(name: str, rows: int, accepted: int, *, copies: int = 0, failure: str = "", **reasons: int) -> Any:
    return QuarantinedShard(
        source="panel",
        shard=name,
        num_rows=rows,
        num_accepted=accepted,
        num_quarantined=rows - accepted if accepted or reasons else 0,
        num_duplicates=copies,
        reasons=reasons,
        failure=failure,
        data_docs_uri=f"file:///{name}.html",
        rows_uri=f"file:///{name}.parquet",
        is_replay=name.endswith(REPLAYED),
    )


def total(found: Any) -> int:
    known = found.num_in_snapshot + found.num_quarantined + found.num_duplicates + found.num_in_failed_shards
    return int(known + sum(found.left_out.values()))


def test_outcomes_add_up_to_the_rows() -> None:
    shards = [shard("a", 10, 7, copies=1, duplicate_pair=2, image_format=1), shard("b", 5, 5)]
    found = set_aside(shards, Counter({"copy": 2}), num_in_snapshot=10)
    assert (found.num_rows, found.num_quarantined, found.num_duplicates, found.num_in_failed_shards) == (15, 2, 1, 0)
    assert total(found) == 15
    assert found.reasons == {"duplicate_pair": 2, "image_format": 1}
    assert [each.shard for each in found.shards] == ["a"], "a shard without such rows is not listed"


def test_a_failed_shard_gives_no_pair() -> None:
    shards = [shard("a", 10, 6, failure="too many bad rows", image_format=4), shard("b", 3, 3)]
    shards.append(shard("c", 8, 0, failure="columns differ"))
    found = set_aside(shards, Counter(), num_in_snapshot=3)
    assert (found.num_in_failed_shards, found.num_quarantined) == (14, 4)
    assert total(found) == 21
    assert {each.shard for each in found.shards} == {"a", "c"}


def test_a_replayed_row_has_the_outcome_of_its_replay() -> None:
    """Of four quarantined rows one is a copy, and one of the three replayed is accepted now, one a copy of it."""
    first = shard("a", 14, 10, copies=1, image_longest_side=3, duplicate_pair=2, prompt_length=1)
    again = shard(f"a{REPLAYED}", 3, 1, copies=1, prompt_length=1, duplicate_pair=1)
    found = set_aside([first, again], Counter(), num_in_snapshot=11)
    assert (found.num_rows, found.num_quarantined, found.num_duplicates) == (14, 1, 2)
    assert total(found) == 14
    assert found.reasons == {"duplicate_pair": 2, "prompt_length": 1}, "what the rows still break"


def test_shards_beyond_the_limit_are_counted(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "MOST_SHARDS", 2)
    shards = [shard("a", 3, 2, image_format=1), shard("b", 9, 4, image_format=5)]
    shards.append(shard("c", 4, 3, failure="bad", image_format=1))
    found = set_aside(shards, Counter(), num_in_snapshot=6)
    assert ([each.shard for each in found.shards], found.num_other_shards) == (["c", "b"], 1)
