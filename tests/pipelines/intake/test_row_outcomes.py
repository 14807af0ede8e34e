"""Properties of intake that hold for every set of rows, in any order and any division into shards."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, event, example, given, seed, settings
from hypothesis import strategies as st

from alignment.contracts.data import SPLITS, DatasetSnapshot
from pipelines.contracts.pairs import RawBatch, ValidationReport
from pipelines.contracts.withdrawals import Withdrawal
from pipelines.intake.accepted import accepted_reports
from pipelines.intake.ingestion import annotator_id, ingest, list_source_shards, note_shards
from pipelines.intake.snapshot import build_snapshot
from pipelines.intake.unpaired import UNPAIRED_FILE
from pipelines.intake.validation import validate
from pipelines.project.columns import ColumnsSection
from pipelines.project.file import Project
from pipelines.project.sections import SnapshotSection, SourceSection
from pipelines.records.withdrawals import record_withdrawal
from pipelines.settings import Settings
from pipelines.workspace import Workspace

Make = Callable[..., Any]
Kind = Literal["good", "tie", "no prompt", "hidden", "held out", "not an image", "same image", "illegal label"]
Row = tuple[int, int, Kind, bool]
"""Number of the comparison, annotator, kind, and if the second image is preferred."""

KINDS: tuple[Kind, ...] = (
    *("good", "good", "good", "tie", "no prompt", "hidden", "held out", "not an image", "same image", "illegal label"),
)
ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.sampled_from(KINDS), st.booleans()), max_size=12)

LikeKind = Literal["good", "no prompt", "held out", "not an image", "no image", "illegal label", "no label"]
Like = tuple[int, int, LikeKind, bool]
"""Number of the image, annotator, kind, and if it is liked."""
LIKE_KINDS: tuple[LikeKind, ...] = (
    *("good", "good", "good", "good", "no prompt", "held out", "not an image", "no image", "illegal label", "no label"),
)
LIKES = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 2), st.sampled_from(LIKE_KINDS), st.booleans()), max_size=8
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def of_the_case(function: Callable[..., None]) -> Callable[..., None]:
    """Try a few cases, the same in every run; the fixtures are stateless, each case has its own folder.

    A case takes seconds, so a failing one is not made smaller.
    """
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return seed(20261129)(
        settings(
            max_examples=8,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            deadline=None,
            suppress_health_check=checks,
        )(function)
    )


@pytest.fixture
def written(tiny_row: Make, tiny_pairs: Make) -> Callable[[Row], dict[str, Any]]:
    """Write a row as Pick-a-Pic does. Row 99 of no case makes sure that something is left to train on."""

    def make(row: Row) -> dict[str, Any]:
        number, user, kind, turned = row
        own = tiny_row(number, user_id=user, label_0=float(not turned), label_1=float(turned))
        changes: dict[Kind, dict[str, Any]] = {
            "tie": {"label_0": 0.5, "label_1": 0.5},
            "no prompt": {"caption": ""},
            "hidden": {"caption": "\u200b\u2800"},
            "held out": {"caption": "A held-out prompt, please!"},
            "not an image": {"jpg_0": b"\x89PNG and nothing more"},
            "same image": {"jpg_1": own["jpg_0"]},
            "illegal label": {"label_0": 7.0},
        }
        return {**own, **changes.get(kind, {})}

    return make


@pytest.fixture
def liked(tiny_image: Make) -> Callable[[Like], dict[str, Any]]:
    """Write a row of a single image."""

    def make(row: Like) -> dict[str, Any]:
        number, user, kind, is_liked = row
        own = {"prompt": f"single {number}", "image": tiny_image(500 + number), "liked": str(is_liked), "user_id": user}
        changes: dict[LikeKind, dict[str, Any]] = {
            "no prompt": {"prompt": " "},
            "held out": {"prompt": "A held-out prompt, please!"},
            "not an image": {"image": b"\x89PNG and nothing more"},
            "no image": {"image": None},
            "illegal label": {"liked": "perhaps"},
            "no label": {"liked": None},
        }
        return {**own, **changes.get(kind, {})}

    return make


LIKES_SCHEMA = pa.schema(
    [("prompt", pa.string()), ("image", pa.binary()), ("liked", pa.string()), ("user_id", pa.int64())]
)


class Intake:
    """A project in a folder of this case, and its rows in shards; those of single images are a further source."""

    def __init__(
        self,
        folder: Path,
        project: Project,
        shards: Sequence[Sequence[dict[str, Any]]],
        write: Make,
        likes: Sequence[Sequence[dict[str, Any]]] = (),
    ) -> None:
        pairs = folder / "pairs"
        for number, rows in enumerate(shards):
            write(rows, f"part-{number}.parquet", pairs)
        limits = project.validation.model_copy(update={"max_quarantined_share": 1.0})
        source = project.sources[0].model_copy(update={"uri": str(pairs)})
        section = SnapshotSection(calibration_share=0.3, test_share=0.1)
        single = self._write_likes(folder / "likes", likes) if likes else ()
        changes = {"validation": limits, "sources": (source, *single), "snapshot": section}
        own = Settings(
            store_uri=(folder / "store").as_uri(),
            state_dir=folder / "state",
            projects_dir=folder,
            tracking_uri=f"sqlite:///{folder / 'mlflow.db'}",
            annotator_salt="a salt for tests",
        )
        self.workspace = Workspace(project.model_copy(update=changes), own)

    def _write_likes(self, folder: Path, shards: Sequence[Sequence[dict[str, Any]]]) -> tuple[SourceSection]:
        folder.mkdir()
        for number, rows in enumerate(shards):
            table = pa.Table.from_pylist(list(rows), schema=LIKES_SCHEMA)
            pq.write_table(table, folder / f"part-{number}.parquet")
        columns = ColumnsSection(image="image", liked="liked", annotator="user_id")
        return (SourceSection(name="likes", kind="likes", uri=str(folder), licence="x", columns=columns),)

    def read(self) -> list[tuple[RawBatch, ValidationReport]]:
        found = list_source_shards(self.workspace)
        note_shards(found, self.workspace)
        batches = [ingest(shard, self.workspace) for shard in found]
        return [(batch, validate(batch, self.workspace)) for batch in batches]

    def snapshot(self) -> DatasetSnapshot:
        return build_snapshot(accepted_reports(self.workspace), self.workspace)

    def withdraw(self, user: int, *, revoke: bool = False) -> None:
        own = Withdrawal(kind="annotator", value=annotator_id(str(user), self.workspace.settings))
        record_withdrawal(self.workspace.store, own, reason="asked for it", by="ada", is_revoked=revoke)


def pairs_of(snapshot: DatasetSnapshot) -> set[tuple[Any, ...]]:
    """What a snapshot says of each pair, by split."""
    folder = Path(snapshot.uri.removeprefix("file://"))
    rows = [(split, row) for split in SPLITS for row in pq.read_table(folder / f"{split}.parquet").to_pylist()]
    found = {(split, row["pair_id"], row["is_tie"], row["is_tie"] or row["image_chosen"]) for split, row in rows}
    return found | {(row["split"], row["pair_id"], row["liked"], row["image"]) for row in single_of(snapshot)}


def single_of(snapshot: DatasetSnapshot) -> list[dict[str, Any]]:
    path = Path(snapshot.uri.removeprefix("file://")) / UNPAIRED_FILE
    assert path.exists() == (snapshot.num_unpaired is not None)
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist() if path.exists() else []
    assert len(rows) == sum((snapshot.num_unpaired or {}).values())
    return rows


def cut(rows: Sequence[Any], num_shards: int) -> list[list[Any]]:
    """Deal rows to shards; none is empty unless there are too few rows."""
    return [list(rows[first::num_shards]) for first in range(num_shards) if rows[first::num_shards]]


@of_the_case
@example(rows=[(0, 0, "good", False)] * 3, likes=[(0, 0, "good", True)] * 3, num_shards=2, before={0}, after=set())
@given(
    rows=ROWS,
    likes=LIKES,
    num_shards=st.integers(1, 2),
    before=st.sets(st.integers(0, 2)),
    after=st.sets(st.integers(0, 2)),
)
def test_every_row_has_one_outcome_and_a_withdrawal_is_undone_without_a_trace(
    rows: list[Row],
    likes: list[Like],
    num_shards: int,
    before: set[int],
    after: set[int],
    *,
    written: Make,
    liked: Make,
    tiny_row: Make,
    tiny_pairs: Make,
    tiny_project: Project,
) -> None:
    shards = [[tiny_row(99)], *cut([written(row) for row in rows], num_shards)]
    single = cut([liked(row) for row in likes], num_shards)
    with tempfile.TemporaryDirectory() as folder:
        intake = Intake(Path(folder), tiny_project, shards, tiny_pairs, single)
        for user in before:
            intake.withdraw(user)
        first = intake.read()
        assert intake.read() == first, "reading again is finding"
        for shard, (batch, report) in zip([*shards, *single], first, strict=True):
            duplicates = report.num_duplicates or 0
            outcomes = (report.num_accepted, report.num_quarantined - duplicates, duplicates, report.num_withdrawn)
            assert min(outcomes) >= 0
            assert sum(outcomes) == len(shard), (outcomes, shard)
            folder_ = Path(report.uri.removeprefix("file://"))
            tables = [pq.read_table(folder_ / f"{name}.parquet") for name in ("accepted", "quarantine")]
            places = [row for table in tables for row in table["source_row"].to_pylist()]
            assert len(places) == len(set(places)) == len(shard) - batch.num_withdrawn, "each row is in one table"
            assert all(tables[1]["reasons"].to_pylist()), "and has a reason if it is set aside"
            gone = sum(row.get("user_id") in before for row in shard)
            assert batch.num_withdrawn == gone
        event(f"withdrawn before: {len(before)}, after: {len(after - before)}")
        snapshot = intake.snapshot()
        for user in after - before:
            intake.withdraw(user)
        people = {annotator_id(str(user), intake.workspace.settings) for user in before | after}
        left = intake.snapshot()
        pairs = pq.read_table(Path(left.uri.removeprefix("file://")) / "train.parquet")
        assert not people & {*pairs["annotator_id"].to_pylist()}
        assert not people & {row["annotator_id"] for row in single_of(left)}
        for user in after - before:
            intake.withdraw(user, revoke=True)
        assert intake.snapshot() == snapshot


@of_the_case
@given(rows=ROWS, likes=LIKES, order=st.randoms(use_true_random=False), num_shards=st.integers(1, 2))
def test_a_snapshot_has_the_same_pairs_in_any_order_and_any_division_into_shards(
    rows: list[Row],
    likes: list[Like],
    order: Any,
    num_shards: int,
    *,
    written: Make,
    liked: Make,
    tiny_row: Make,
    tiny_pairs: Make,
    tiny_project: Project,
) -> None:
    data = [written(row) for row in rows]
    mixed = [*data]
    order.shuffle(mixed)
    single = [liked(row) for row in likes]
    mixed_single = [*single]
    order.shuffle(mixed_single)
    ways = (
        ([[tiny_row(99), *data]], [single] if single else []),
        ([[tiny_row(99)], *cut(mixed, num_shards)], cut(mixed_single, num_shards)),
    )
    found = []
    for shards, likes_shards in ways:
        with tempfile.TemporaryDirectory() as folder:
            intake = Intake(Path(folder), tiny_project, shards, tiny_pairs, likes_shards)
            intake.read()
            found.append(pairs_of(intake.snapshot()))
    assert found[0] == found[1]
