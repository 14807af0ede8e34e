"""Two versions compared by the gate's checks: a page and figures, no decision and no move."""

from typing import Any

import pytest

from pipelines.release.champion import ledger
from pipelines.release.champion.versions import find_version
from pipelines.release.compare_versions import compare_versions
from pipelines.release.gate import decision_log
from pipelines.tracking import registry, runs
from pipelines.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def workspace(world: Any) -> Workspace:
    return Workspace(world.project, world.settings)


def test_a_better_version_is_named_so_and_nothing_is_decided(world: Any) -> None:
    first, second = world.register("a"), world.register("b")
    found = compare_versions(workspace(world), second, first, world.evaluate(second, first))
    assert (found.model, found.first, found.second) == (world.project.name, 2, 1)
    assert (found.outcome, found.reasons) == ("better", ())
    judges = {scorer.scorer: scorer for scorer in found.scorers}
    assert judges["taste_a"].win_rate_low > 0.5
    assert judges["taste_a"].mean_difference_low > 0
    page = world.store.read_bytes(found.report_uri).decode()
    assert f"Version 2 of {world.project.name} is better than version 1." in page
    assert f"plumbline compare projects/{world.project.name}.toml 2 1" in page
    assert "may become the champion" not in page
    assert decision_log.last_decision(workspace(world)) is None
    assert ledger.entries(world.project.name, world.store) == ()
    assert registry.get_alias(world.settings, world.project.name, "champion") is None


def test_against_the_base_and_against_itself(world: Any) -> None:
    first = world.register("a")
    found = compare_versions(workspace(world), first, None, world.evaluate(first, None))
    assert (found.outcome, found.second) == ("better", None)
    assert "is better than the base model." in world.store.read_bytes(found.report_uri).decode()
    same = compare_versions(workspace(world), first, first, world.evaluate(first, first))
    assert same.outcome == "not_better"
    assert same.reasons


def test_a_comparison_is_no_try_of_the_quarter(world: Any) -> None:
    first, second = world.register("a"), world.register("b")
    for _ in range(3):
        world.decide(second, first)
    found = compare_versions(workspace(world), second, first, world.evaluate(second, first))
    assert found.outcome == "better"
    assert "Try 4" not in world.store.read_bytes(found.report_uri).decode()


def test_a_version_is_found_by_number_alias_and_run(world: Any) -> None:
    first, second = world.register("a"), world.register("b")
    target = runs.job_run(
        world.settings,
        project=world.project.name,
        request_job_id="words-train-1-g0",
        kind="train",
        parent_key="k",
        config={},
        tags={runs.OUTPUT_TAG: first.weights_uri},
    )
    assert find_version(workspace(world), "1") == find_version(workspace(world), target.run_id) == first
    assert find_version(workspace(world), "candidate") == second
    assert find_version(workspace(world), "base") is None
    assert find_version(workspace(world), "champion") is None, "the base is in use"
    for name in ("3", "challenger", "f" * 32):
        with pytest.raises(ValueError, match=r"has no (version|run).*"):
            find_version(workspace(world), name)
    other = runs.parent_run(world.settings, project=world.project.name, key="other", tags={})
    with pytest.raises(ValueError, match=r"Give a number \(1, 2\), `champion`"):
        find_version(workspace(world), other)
