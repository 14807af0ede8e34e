"""Decisions are stored once, in order, and cannot be replaced by others."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from alignment.statistics.tries import Tries
from pipelines.contracts.release import GateDecision
from pipelines.project.file import Project, load_project
from pipelines.release.gate import decision_log
from pipelines.release.gate.decision_log import (
    _read_decision,
    asked_by,
    find_decision,
    last_decision,
    last_decision_about,
    note_asked,
    save_decision,
    tries_before,
)
from pipelines.settings import Settings
from pipelines.store.storage import open_store
from pipelines.workspace import Workspace


@pytest.fixture
def project() -> Project:
    return load_project(Path(__file__).parents[4] / "projects/shapes.toml")


def test_the_last_decision_is_the_one_saved_last(
    settings: Settings, project: Project, evaluation_of: Callable[..., Any]
) -> None:
    assert last_decision(Workspace(project, settings)) is None
    good = evaluation_of({"taste_a": 0.6, "taste_b": 0.5}, {"caption_match": 0.0}).decided()
    bad = evaluation_of({"taste_a": -0.6, "taste_b": -0.5}, {"caption_match": 0.0}).decided()
    uri = save_decision(good, Workspace(project, settings))
    assert uri.endswith(f"/evaluations/decisions/shapes/{good.digest}.json")
    save_decision(good, Workspace(project, settings))
    assert last_decision(Workspace(project, settings)) == good
    save_decision(bad, Workspace(project, settings))
    assert last_decision(Workspace(project, settings)) == bad
    save_decision(good, Workspace(project, settings))
    assert last_decision(Workspace(project, settings)) == good
    order = Path(urlsplit(settings.store_uri).path) / "evaluations/decisions/shapes/order"
    assert sorted(path.name for path in order.iterdir()) == ["000001.json", "000002.json", "000003.json"]


def test_a_changed_decision_is_refused(settings: Settings, project: Project, good_evaluation: Any) -> None:
    decision = good_evaluation.decided()
    path = Path(urlsplit(save_decision(decision, Workspace(project, settings))).path)
    path.chmod(0o644)
    path.write_text(path.read_text().replace('"verdict": "promote"', '"verdict": "hold"'))
    with pytest.raises(ValueError, match=r"holds a decision with digest .*: it was changed"):
        _read_decision(decision.digest, Workspace(project, settings))


def test_a_decision_that_was_not_made_is_not_found(settings: Settings, project: Project, good_evaluation: Any) -> None:
    decision = good_evaluation.decided()
    assert find_decision(decision.digest, Workspace(project, settings)) is None
    save_decision(decision, Workspace(project, settings))
    assert find_decision(decision.digest, Workspace(project, settings)) == decision


def test_the_newest_decision_about_a_version_is_found_by_the_beginning_of_its_digest(
    settings: Settings, project: Project, good_evaluation: Any
) -> None:
    first = good_evaluation.decided()
    second = first.model_copy(update={"report_uri": "file:///another/page.html"})
    other = first.model_copy(update={"candidate": first.candidate.model_copy(update={"version": 5})})
    assert last_decision_about(4, Workspace(project, settings)) is None
    for made in (first, second, other):
        save_decision(made, Workspace(project, settings))
    assert last_decision_about(4, Workspace(project, settings)) == second
    assert last_decision_about(4, Workspace(project, settings), digest=first.digest[:12]) == first
    assert last_decision_about(5, Workspace(project, settings), digest=first.digest[:12]) is None


def test_the_first_request_is_kept(settings: Settings, project: Project, good_evaluation: Any) -> None:
    decision = good_evaluation.decided()
    assert asked_by(decision, Workspace(project, settings)) is None
    note_asked(decision, "ada", Workspace(project, settings))
    note_asked(decision, "", Workspace(project, settings))
    assert asked_by(decision, Workspace(project, settings)) == "ada"
    scheduled = decision.model_copy(update={"report_uri": "file:///another/page.html"})
    note_asked(scheduled, "", Workspace(project, settings))
    assert asked_by(scheduled, Workspace(project, settings)) == "", (
        "a scheduled decision differs from one without a record"
    )


def test_a_decision_of_version_2_is_found_by_its_digest(settings: Settings, project: Project) -> None:
    digest = "1776449e73a195d4d422fc84e298b0dd4bffe97b9d382622f4ee159f09acd238"
    stored = (Path(__file__).parents[1] / "data/decision_version_2.json").read_bytes()
    store = open_store(settings.store_uri, settings)
    folder = ("evaluations", "decisions", project.name)
    store.create_bytes(store.uri(*folder, f"{digest}.json"), stored)
    store.create_bytes(store.uri(*folder, "order", "000001.json"), json.dumps({"decision_digest": digest}).encode())
    decision = last_decision(Workspace(project, settings))
    assert decision is not None
    assert (
        decision
        == find_decision(digest, Workspace(project, settings))
        == last_decision_about(1, Workspace(project, settings))
    )
    save_decision(decision, Workspace(project, settings))
    assert last_decision(Workspace(project, settings)) == decision
    store.create_bytes(store.uri(*folder, f"{digest[::-1]}.json"), stored)
    with pytest.raises(ValueError, match="it was changed"):
        _read_decision(digest[::-1], Workspace(project, settings))


def test_every_check_in_version_2_has_the_contents_of_its_fields(good_decision: GateDecision) -> None:
    old = good_decision.model_copy(update={"schema_version": 2}).model_dump(mode="json")
    read = GateDecision.model_validate(old)
    assert [check.model_copy(update={"bound": None}) for check in read.checks] == [
        check.model_copy(update={"bound": None}) for check in good_decision.checks
    ]
    for own, check in zip(read.checks, good_decision.checks, strict=True):
        assert own.bound == (None if check.bound is None else pytest.approx(check.bound, rel=0.01)), check.name


# --- the tries of a quarter -----------------------------------------------------------------------------------------

NOVEMBER = datetime(2026, 11, 28, tzinfo=UTC)


def saved_at(moment: datetime, evaluation: Any, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    class _Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return moment

    monkeypatch.setattr(decision_log, "datetime", _Clock)
    save_decision(evaluation.decided(), workspace)


def test_other_evaluations_of_the_quarter_are_tries(
    settings: Settings, project: Project, evaluation_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(project, settings)
    own, bad, good, old = (
        evaluation_of({"taste_a": gain, "taste_b": gain}, {"caption_match": 0.0}, seed=seed)
        for seed, gain in enumerate((0.6, -0.6, 0.5, 0.4))
    )
    saved_at(datetime(2026, 9, 30, tzinfo=UTC), old, workspace, monkeypatch)
    for day, evaluation in ((1, bad), (2, good), (3, bad)):
        saved_at(datetime(2026, 10, day, tzinfo=UTC), evaluation, workspace, monkeypatch)
    assert tries_before(own.report, workspace, NOVEMBER) == Tries("2026-Q4", 2, 1)
    # A decision that was made keeps its count, whatever is decided after it and in whichever quarter.
    assert tries_before(good.report, workspace, NOVEMBER + timedelta(days=60)) == Tries("2026-Q4", 1, 0)


def test_an_invalid_evaluation_is_no_try(
    settings: Settings, project: Project, evaluation_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(project, settings)
    unusable = evaluation_of({"taste_a": 0.6, "taste_b": 0.6}, {"caption_match": 0.0}, accuracy=0.5)
    assert unusable.decided().verdict == "invalid"
    saved_at(NOVEMBER, unusable, workspace, monkeypatch)
    own = evaluation_of({"taste_a": 0.6, "taste_b": 0.6}, {"caption_match": 0.0}, seed=1)
    assert tries_before(own.report, workspace, NOVEMBER) == Tries("2026-Q4")


def test_an_evaluation_is_a_try_from_its_first_valid_decision(
    settings: Settings, project: Project, evaluation_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else evaluations that were all invalid at first, for want of calibrated judges, would all be the first try."""
    workspace = Workspace(project, settings)
    own = evaluation_of({"taste_a": 0.6, "taste_b": 0.6}, {"caption_match": 0.0}, seed=1)
    other = evaluation_of({"taste_a": 0.6, "taste_b": 0.6}, {"caption_match": 0.0})
    strict = own.policy.model_copy(update={"minimum_prompts": 10_000})
    unusable = own.decided(policy=strict)
    assert unusable.verdict == "invalid"
    save_decision(unusable, workspace)
    saved_at(NOVEMBER, other, workspace, monkeypatch)
    assert tries_before(own.report, workspace, NOVEMBER) == Tries("2026-Q4", 1, 1)


def test_lines_of_earlier_versions_count_by_their_decision(
    settings: Settings, project: Project, evaluation_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(project, settings)
    good, own = (evaluation_of({"taste_a": 0.6, "taste_b": 0.6}, {"caption_match": 0.0}, seed=s) for s in (0, 1))
    saved_at(NOVEMBER, good, workspace, monkeypatch)
    line = Path(urlsplit(settings.store_uri).path) / "evaluations/decisions/shapes/order/000001.json"
    known = json.loads(line.read_text())
    line.chmod(0o644)
    line.write_text(json.dumps({name: known[name] for name in known if name not in ("report_digest", "verdict")}))
    assert tries_before(own.report, workspace, NOVEMBER) == Tries("2026-Q4", 1, 1)
