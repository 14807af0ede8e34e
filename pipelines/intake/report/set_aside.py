"""Add up the outcome of every input row over the shards of a project, replays included. Pure functions."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from pipelines.contracts.data_report import SetAside
from pipelines.contracts.pairs import QuarantinedShard
from pipelines.intake.quarantine import REPLAYED
from pipelines.intake.rules import duplicate_pair

MOST_SHARDS = 50
Shards = Sequence[QuarantinedShard]


def set_aside(shards: Shards, left_out: Counter[str], *, num_in_snapshot: int) -> SetAside:
    """Return the outcomes of the rows of `shards`, the newest report on each shard and the replays of their quarantine.

    A replayed row has the outcome of its replay. `left_out` are the accepted rows that the snapshot does not use. The
    numbers add up to the rows of the shards, replays not counted again.
    """
    first = [shard for shard in shards if not shard.is_replay]
    failed = sum(shard.num_rows - shard.num_quarantined for shard in first if shard.failure)
    num_rows = sum(shard.num_rows for shard in first)
    duplicates = sum(shard.num_duplicates for shard in shards)
    used = num_in_snapshot + left_out.total()
    listed = sorted(
        (shard for shard in shards if shard.num_quarantined or shard.failure),
        key=lambda shard: (not shard.failure, -shard.num_quarantined, shard.source, shard.shard),
    )
    return SetAside(
        num_rows=num_rows,
        num_in_snapshot=num_in_snapshot,
        num_quarantined=num_rows - failed - duplicates - used,
        num_duplicates=duplicates,
        num_in_failed_shards=failed,
        left_out=dict(left_out.most_common()),
        reasons=dict(_reasons(shards).most_common()),
        shards=tuple(listed[:MOST_SHARDS]),
        num_other_shards=max(0, len(listed) - MOST_SHARDS),
    )


def _reasons(shards: Shards) -> Counter[str]:
    """Count the rules that rows set aside still break: those of a replay, with the copies that it left out."""
    by_shard: dict[tuple[str, str], list[QuarantinedShard]] = defaultdict(list)
    for shard in shards:
        by_shard[shard.source, shard.shard.removesuffix(REPLAYED)].append(shard)
    found = Counter[str]()
    for reports in by_shard.values():
        replays = [report for report in reports if report.is_replay]
        for report in replays or reports:
            found.update(report.reasons)
        if replays:
            copies = sum(report.num_duplicates for report in reports if not report.is_replay)
            found.update({duplicate_pair.__name__: copies} if copies else {})
    return found
