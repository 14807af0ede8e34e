"""Properties of intake that hold for every set of rows, in any order and any division into shards."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

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
from pipelines.intake.validation import validate
from pipelines.project.file import Project
from pipelines.project.sections import SnapshotSection
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


class Intake:
    """A project in a folder of this case, and its rows in shards."""

    def __init__(self, folder: Path, project: Project, shards: Sequence[Sequence[dict[str, Any]]], write: Make) -> None:
        pairs = folder / "pairs"
        for number, rows in enumerate(shards):
            write(rows, f"part-{number}.parquet", pairs)
        limits = project.validation.model_copy(update={"max_quarantined_share": 1.0})
        source = project.sources[0].model_copy(update={"uri": str(pairs)})
        section = SnapshotSection(calibration_share=0.3, test_share=0.1)
        changes = {"validation": limits, "sources": (source,), "snapshot": section}
        own = Settings(
            store_uri=(folder / "store").as_uri(),
            state_dir=folder / "state",
            projects_dir=folder,
            tracking_uri=f"sqlite:///{folder / 'mlflow.db'}",
            annotator_salt="a salt for tests",
        )
        self.workspace = Workspace(project.model_copy(update=changes), own)

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
    return {(split, row["pair_id"], row["is_tie"], row["is_tie"] or row["image_chosen"]) for split, row in rows}


def cut(rows: Sequence[Any], num_shards: int) -> list[list[Any]]:
    """Deal rows to shards; none is empty unless there are too few rows."""
    return [list(rows[first::num_shards]) for first in range(num_shards) if rows[first::num_shards]]


@of_the_case
@example(rows=[(0, 0, "good", False)] * 3, num_shards=2, before={0}, after=set())
@given(rows=ROWS, num_shards=st.integers(1, 2), before=st.sets(st.integers(0, 2)), after=st.sets(st.integers(0, 2)))
def test_every_row_has_one_outcome_and_a_withdrawal_is_undone_without_a_trace(
    rows: list[Row],
    num_shards: int,
    before: set[int],
    after: set[int],
    *,
    written: Make,
    tiny_row: Make,
    tiny_pairs: Make,
    tiny_project: Project,
) -> None:
    shards = [[tiny_row(99)], *cut([written(row) for row in rows], num_shards)]
    with tempfile.TemporaryDirectory() as folder:
        intake = Intake(Path(folder), tiny_project, shards, tiny_pairs)
        for user in before:
            intake.withdraw(user)
        first = intake.read()
        assert intake.read() == first, "reading again is finding"
        for shard, (batch, report) in zip(shards, first, strict=True):
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
        left = pq.read_table(Path(intake.snapshot().uri.removeprefix("file://")) / "train.parquet")
        assert not people & {*left["annotator_id"].to_pylist()}
        for user in after - before:
            intake.withdraw(user, revoke=True)
        assert intake.snapshot() == snapshot


@of_the_case
@given(rows=ROWS, order=st.randoms(use_true_random=False), num_shards=st.integers(1, 2))
def test_a_snapshot_has_the_same_pairs_in_any_order_and_any_division_into_shards(
    rows: list[Row],
    order: Any,
    num_shards: int,
    *,
    written: Make,
    tiny_row: Make,
    tiny_pairs: Make,
    tiny_project: Project,
) -> None:
    data = [written(row) for row in rows]
    mixed = [*data]
    order.shuffle(mixed)
    found = []
    for shards in ([[tiny_row(99), *data]], [[tiny_row(99)], *cut(mixed, num_shards)]):
        with tempfile.TemporaryDirectory() as folder:
            intake = Intake(Path(folder), tiny_project, shards, tiny_pairs)
            intake.read()
            found.append(pairs_of(intake.snapshot()))
    assert found[0] == found[1]
