"""Read many shards: groups that a scheduler can map over, and every shard tried whatever happens to the others."""

import errno
import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

import pyarrow as pa

from alignment.contracts.values import canonical_json
from pipelines.contracts.pairs import ShardFailure, ShardGroup, SourceShard
from pipelines.store.folders import NO_SPACE, NoSpaceError, NotWritableError
from pipelines.store.storage import Store

log = logging.getLogger(__name__)

Value = TypeVar("Value")

_SHOWN = 20
_DISK = {*NO_SPACE, errno.EROFS}


def group_shards(shards: Sequence[SourceShard], store: Store, *, most: int) -> list[ShardGroup]:
    """Divide shards into at most `most` groups of neighbours whose sizes differ by at most one.

    Up to `most` shards are one to a group. More are listed in a file of the store, of which a group names its part, so
    that a group stays small however many shards there are.
    """
    if len(shards) <= most:
        return [ShardGroup(shards=(shard,), num_shards=1) for shard in shards]
    data = canonical_json([shard.model_dump(mode="json") for shard in shards]).encode()
    listing = store.uri("raw/listings", f"{hashlib.sha256(data).hexdigest()}.json")
    store.write_bytes(listing, data)
    bounds = [number * len(shards) // most for number in range(most + 1)]
    return [ShardGroup(listing_uri=listing, first=first, num_shards=last - first) for first, last in pairwise(bounds)]


def shards_of(group: ShardGroup, store: Store) -> tuple[SourceShard, ...]:
    """Return the shards of a group; OSError when its listing is not in the store."""
    if not group.listing_uri:
        return group.shards
    rows = json.loads(store.read_bytes(group.listing_uri))[group.first : group.first + group.num_shards]
    return tuple(SourceShard.model_validate(row) for row in rows)


def read_each(
    shards: Sequence[SourceShard], read: Callable[[SourceShard], Value]
) -> tuple[list[Value], list[ShardFailure]]:
    """Read every shard and return the values of those that can be read, and the failures of the others.

    A store or disk that cannot be written is no failure of a shard: that error ends the reading.
    """
    values, failures = [], []
    for shard in shards:
        try:
            values.append(read(shard))
        except (NotWritableError, NoSpaceError):
            raise
        except (ValueError, LookupError, OSError, RuntimeError, MemoryError, pa.ArrowException) as error:
            if isinstance(error, OSError) and error.errno in _DISK:
                raise
            failures.append(_failure(shard, error))
            log.error("%s, %s: %s", shard.source, failures[-1].shard, failures[-1].reason)
    return values, failures


def _failure(shard: SourceShard, error: BaseException) -> ShardFailure:
    return ShardFailure(
        source=shard.source,
        shard=shard.uri.rsplit("/", 1)[-1],
        reason=" ".join(str(error).split()) or type(error).__name__,
        may_pass=isinstance(error, OSError) and not isinstance(error, FileNotFoundError),
    )


def failure_message(failures: Sequence[ShardFailure], num_shards: int) -> str:
    """Return one message for all failures; the first of them in full."""
    shown = [f"{own.source}, {own.shard}: {own.reason}" for own in failures[:_SHOWN]]
    rest = [f"and {len(failures) - _SHOWN} more"] if len(failures) > _SHOWN else []
    return f"{len(failures)} of {num_shards} shards could not be used: " + "\n- ".join(["", *shown, *rest])


def check_failures(failures: Sequence[ShardFailure], num_shards: int, limit: float) -> None:
    """Raise ValueError with every failure when their share of the shards is above `limit`."""
    if len(failures) > limit * num_shards:
        raise ValueError(
            f"{failure_message(failures, num_shards)}\nThat is more than max_failed_shards = {limit:g} of [validation]"
            " allows. Repair or remove these shards, or raise the limit."
        )
