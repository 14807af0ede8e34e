"""Records are stored once, found by weights, and expire."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from alignment.catalogues.rewards import ClipPreference
from alignment.contracts.calibration import (
    Calibration,
    CalibrationReport,
    CalibrationSpec,
    JudgeCalibration,
    RaterReliability,
)
from alignment.contracts.judges import Judge
from pipelines.contracts.judges import CalibrationRecord
from pipelines.project.gate import GatePolicy
from pipelines.records import calibrations
from pipelines.settings import Settings
from pipelines.store.storage import open_store

NOW = datetime(2026, 6, 1, tzinfo=UTC)
JUDGE = Judge(name="judge", scorer=ClipPreference(), weights_digest="1" * 64)


@pytest.fixture
def report() -> Callable[..., CalibrationReport]:
    """A function that makes a calibration of one judge; `changes` replace its fields."""

    def make(judge: Judge = JUDGE, **changes: Any) -> CalibrationReport:
        overall = Calibration(
            judge=judge.name, num_pairs=400, num_human_ties=10, accuracy=0.7, accuracy_low=0.65, accuracy_high=0.74
        )
        fields: dict[str, Any] = {
            "judge": judge,
            "snapshot_digest": "2" * 64,
            "confidence": 0.95,
            "tie_rule": "human_ties_left_out_judge_ties_half",
            "overall": overall,
            "slices": (),
            "margin_slope": None,
            "newest_pair_at": NOW - timedelta(days=10),
        }
        return CalibrationReport(
            uri="file:///store/calibrations/reports/3",
            spec=CalibrationSpec(judges=(judge,), snapshot_digest="2" * 64),
            scores_digest="4" * 64,
            reliability=RaterReliability(num_shared_pairs=0, num_labels=0, alpha=None),
            judges=(JudgeCalibration(**{**fields, **changes}),),
        )

    return make


def test_the_same_calibration_is_kept_once_and_keeps_its_date(
    report: Callable[..., CalibrationReport], settings: Settings
) -> None:
    (first,) = calibrations.record(report(), "tiny", open_store(settings.store_uri, settings))
    assert first.number == 1
    assert calibrations.record(report(), "tiny", open_store(settings.store_uri, settings)) == [first]
    (second,) = calibrations.record(report(newest_pair_at=NOW), "tiny", open_store(settings.store_uri, settings))
    assert second.number == 2
    assert calibrations.newest("tiny", JUDGE, open_store(settings.store_uri, settings)) == second
    assert calibrations._history("other", "judge", open_store(settings.store_uri, settings)) == []


def test_a_record_is_valid_for_its_weights_only(report: Callable[..., CalibrationReport], settings: Settings) -> None:
    retrained = JUDGE.model_copy(update={"weights_digest": "5" * 64})
    (old,) = calibrations.record(report(), "tiny", open_store(settings.store_uri, settings))
    assert calibrations.newest("tiny", retrained, open_store(settings.store_uri, settings)) is None
    calibrations.record(report(retrained), "tiny", open_store(settings.store_uri, settings))
    assert calibrations.newest("tiny", JUDGE, open_store(settings.store_uri, settings)) == old, (
        "the later one is of other weights"
    )


def known(report: CalibrationReport) -> CalibrationRecord:
    return CalibrationRecord(
        project="tiny",
        calibration=report.judges[0],
        alpha=None,
        report_uri="",
        scores_digest="4" * 64,
        recorded_at=NOW - timedelta(days=2),
    )


def test_age_counts_from_the_newest_pair_else_from_the_calibration(report: Callable[..., CalibrationReport]) -> None:
    assert calibrations.age_days(known(report()), NOW) == 10
    assert calibrations.age_days(known(report(newest_pair_at=None)), NOW) == 2


def test_a_judge_with_an_expired_or_missing_calibration_may_not_vote(report: Callable[..., CalibrationReport]) -> None:
    policy = GatePolicy(maximum_calibration_age_days=10)
    assert calibrations.refusal(known(report()), policy, NOW) == ""
    later = NOW + timedelta(days=1)
    assert "newest human pairs are 11 days old, more than 10" in calibrations.refusal(known(report()), policy, later)
    assert "never calibrated" in calibrations.refusal(None, policy, NOW)
    assert calibrations.refusal(None, GatePolicy(maximum_calibration_age_days=0), NOW) == ""


def test_judges_without_a_valid_calibration_are_barred(
    report: Callable[..., CalibrationReport], settings: Settings
) -> None:
    other = JUDGE.model_copy(update={"name": "other"})
    calibrations.record(report(), "tiny", open_store(settings.store_uri, settings))
    records = calibrations.records([JUDGE, other], "tiny", GatePolicy(), store=open_store(settings.store_uri, settings))
    assert set(calibrations.barred(records, GatePolicy(), NOW)) == {"other"}
    assert set(calibrations.barred(records, GatePolicy(), NOW + timedelta(days=81))) == {"judge", "other"}
    ageless = GatePolicy(maximum_calibration_age_days=0)
    assert calibrations.records([JUDGE], "tiny", ageless, store=open_store(settings.store_uri, settings)) == {
        "judge": None
    }
    assert calibrations.barred({"judge": None}, ageless, NOW) == {}


def test_only_pairs_within_the_limit_count_and_undated_ones_by_their_record(
    report: Callable[..., CalibrationReport],
) -> None:
    """The date of each pair decides: a single recent pair must not make 999 old ones count."""
    policy = GatePolicy(maximum_calibration_age_days=7, calibration_generators=("sd15",))
    found = calibrations.scope(known(report()), policy, NOW)
    assert (found.since, found.until) == (NOW - timedelta(days=7), NOW)
    assert found.generators == ("sd15",)
    assert found.undated, "the record is two days old"
    assert not calibrations.scope(known(report()), policy, NOW + timedelta(days=6)).undated
    assert not calibrations.scope(None, policy, NOW).undated
    anything = calibrations.scope(None, GatePolicy(maximum_calibration_age_days=0), NOW)
    assert (anything.since, anything.undated) == (None, True)


def test_a_future_date_does_not_make_a_calibration_newer(report: Callable[..., CalibrationReport]) -> None:
    assert calibrations.age_days(known(report(newest_pair_at=NOW + timedelta(days=900))), NOW) == 2


def test_another_table_is_another_record(report: Callable[..., CalibrationReport], settings: Settings) -> None:
    calibrations.record(report(), "tiny", open_store(settings.store_uri, settings))
    (second,) = calibrations.record(
        report().model_copy(update={"scores_digest": "5" * 64}), "tiny", open_store(settings.store_uri, settings)
    )
    assert second.number == 2
