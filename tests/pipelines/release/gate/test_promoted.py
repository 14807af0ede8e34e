"""Which promoted versions may be the anchor of a guard: those still in place, drawn and scored alike."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from alignment.contracts.evaluation import EvalReport
from alignment.contracts.jobs import SCORES_FILE
from pipelines.release.gate.checks.score_table import read_columns, read_grids
from pipelines.release.gate.promoted import comparable_scores
from pipelines.release.promotion.promote import promote
from pipelines.release.promotion.rollback import rollback
from pipelines.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def workspace(world: Any, **policy: Any) -> Workspace:
    gate = world.project.gate.model_copy(update=policy)
    return Workspace(world.project.model_copy(update={"gate": gate}), world.settings)


def anchors(world: Any, candidate: Any, report: EvalReport) -> dict[int, Any]:
    """Return the scores of the promoted versions by version."""
    grids = read_grids(read_columns(world.store.read_bytes(f"{report.uri}/{SCORES_FILE}")))
    return comparable_scores(report, grids, candidate, workspace(world))


@pytest.fixture
def promoted(world: Any) -> tuple[Any, Any, Any]:
    """Two versions that were champions one after the other, and a candidate."""
    first, second, third = (world.register(name) for name in "abc")
    for version, over in ((first, None), (second, first)):
        assert promote(world.decide(version, over), workspace(world), "tester").moved
    return first, second, third


def test_every_promoted_version_still_in_place_is_known_by_its_guards(world: Any, promoted: Any) -> None:
    _, second, third = promoted
    report = world.evaluate(third, second)
    found = anchors(world, third, report)
    assert set(found) == {1, 2}
    guards = {(guard.name, "candidate") for guard in report.spec.guards}
    assert [set(found[version].grids) for version in (1, 2)] == [guards, guards]
    assert set(anchors(world, second, report)) == {1}, "a version is no anchor of itself"
    rollback(workspace(world), "ada", "black images")
    assert set(anchors(world, third, report)) == {1}


def test_other_images_and_other_guards_are_no_anchor(world: Any, promoted: Any) -> None:
    _, second, third = promoted
    report = world.evaluate(third, second)
    for change in ({"seeds": (0, 2)}, {"prompts_digest": "a" * 64}):
        other = report.model_copy(update={"spec": report.spec.model_copy(update=change)})
        assert anchors(world, third, other) == {}
    first_guard, *rest = report.spec.guards
    guards = (first_guard.model_copy(update={"weights_digest": "c" * 64}), *rest)
    found = anchors(world, third, report.model_copy(update={"spec": report.spec.model_copy(update={"guards": guards})}))
    assert {name for grids in found.values() for name, _ in grids.grids} == {guard.name for guard in rest}


def test_a_changed_or_missing_evaluation_is_left_out_and_logged(
    world: Any, promoted: Any, caplog: pytest.LogCaptureFixture
) -> None:
    _, second, third = promoted
    tables = sorted(Path(urlsplit(world.settings.store_uri).path).glob("evaluations/scores-*/scores.parquet"))
    for table in tables:
        table.chmod(0o644)
        table.write_bytes(table.read_bytes() + b" ")
    report = world.evaluate(third, second)
    assert anchors(world, third, report) == {}
    assert "version 2 cannot be read and is no anchor" in caplog.text
    for table in tables:
        (table.parent / "manifest.json").unlink()
    assert anchors(world, third, report) == {}


def test_the_gate_names_the_anchor_it_used(world: Any, promoted: Any) -> None:
    _, second, third = promoted
    world.project = workspace(world, anchor="best").project
    decision = world.decide(third, second)
    (anchor, *_) = [check for check in decision.checks if check.limit == "anchor"]
    assert anchor.passed
    assert "against version " in anchor.explanation
