"""The demo's summary, by the verdict and by each check."""

from pathlib import Path
from typing import Any

from pipelines.contracts.release import CandidateVersion, GateCheck, GateDecision
from pipelines.platform.summary import Outcome, summarise
from pipelines.project.file import load_project
from pipelines.release.gate.decision_log import save_decision
from pipelines.settings import Settings
from pipelines.workspace import Workspace

PROJECT = Path(__file__).parents[3] / "projects/shapes.toml"
CANDIDATE = CandidateVersion(
    model="shapes",
    version=2,
    kind="full",
    weights_digest="a" * 64,
    weights_uri="file:///models/1",
    spec_digest="e" * 64,
    base_digest="b" * 64,
    snapshot_digest="f" * 64,
    trained_on=("shapes_pairs",),
    run_id="1",
)
PAIRS = {"pairs_in": 6, "accepted": 4, "quarantined": 1, "duplicates": 1}


def outcome(champion: dict[str, Any] | None, **fields: Any) -> Outcome:
    status = {"champion": champion, "previous_champion": None, "candidate": {"version": 2}}
    given = {"newly_trained": 0, "judged": True, "new_ledger_entries": 0, **fields}
    return Outcome(pairs=PAIRS, status=status, **given)


def test_a_fresh_store_has_no_verdict_and_no_champion(settings: Settings) -> None:
    summary = summarise(outcome(None), Workspace(load_project(PROJECT), settings), seconds=61.4)
    assert "pairs      6 in, 4 accepted, 1 quarantined, 1 duplicates" in summary
    assert "training   nothing new" in summary
    assert "verdict    none" in summary
    assert "champion   none: serve the base model" in summary
    assert "time       61 s" in summary
    assert not outcome(None).is_champion


def test_the_champion_is_the_candidate_only_when_it_is_that_version() -> None:
    assert outcome({"version": 2}).is_champion
    assert not outcome({"version": 1}).is_champion


def test_checks_are_marked_by_their_effect(settings: Settings) -> None:
    project = load_project(PROJECT)
    line: dict[str, Any] = {"relation": ">", "bound": 0.0, "explanation": "so", "measured": 0.5}
    checks = (
        GateCheck(kind="guard", subject="w", passed=True, **line),
        GateCheck(kind="guard", subject="x", passed=False, **line),
        GateCheck(kind="drift", subject="y", passed=False, decisive=False, **{**line, "measured": None}),
    )
    decision = GateDecision(
        verdict="hold",
        mode="enforce",
        checks=checks,
        reasons=("so",),
        candidate=CANDIDATE,
        champion_version=None,
        champion_weights_digest="b" * 64,
        report_digest="c" * 64,
        evaluation_uri="file:///evaluations/1",
        report_uri="file:///reports/1.html",
        scores_digest="d" * 64,
        policy_digest=project.gate.digest,
    )
    save_decision(decision, Workspace(project, settings))
    champion = {"version": 1, "weights_digest": "ab" * 32}
    summary = summarise(outcome(champion, judged=False), Workspace(project, settings), seconds=1)
    assert "verdict    hold for version 2 (made earlier; nothing new to judge)" in summary
    marks = [row.split(maxsplit=2)[:2] for row in summary.splitlines() if "required > 0" in row]
    assert marks == [["ok", "guard:w:"], ["FAIL", "guard:x:"], ["note", "drift:y:"]]
    assert "drift:y: -, required > 0" in summary
    assert "champion   version 1 (nothing new promoted), weights abababababab" in summary
