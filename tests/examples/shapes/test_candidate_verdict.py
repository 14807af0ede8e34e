"""The gate's verdict under a changed policy: guards left out, lineage hidden, another number of judges."""

from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import pytest

from pipelines.project.gate import GatePolicy, GuardRule


@pytest.fixture(scope="module")
def verdict(shapes_module: Callable[[str], ModuleType]) -> ModuleType:
    return shapes_module("candidate_verdict")


def test_the_policy_is_the_projects_except_for_the_changes(verdict: ModuleType) -> None:
    policy = GatePolicy(guards={"caption": GuardRule(margin=1.0), "diversity": GuardRule(margin=0.1)})
    assert verdict.policy_for(policy, verdict.NO_CHANGE) == policy
    found = verdict.policy_for(policy, verdict.PolicyChange(without=("diversity",), required_judges=1))
    assert (set(found.guards), found.required_judges) == ({"caption"}, 1)


def test_a_lineage_can_be_hidden(verdict: ModuleType) -> None:
    trained_on_a_judge = SimpleNamespace(training="pleasing")
    assert verdict.training_sources(trained_on_a_judge, verdict.NO_CHANGE) == ("taste_a",)
    assert verdict.training_sources(trained_on_a_judge, verdict.PolicyChange(undeclared=True)) == ("shapes_pairs",)
    assert verdict.training_sources(SimpleNamespace(training="noise"), verdict.NO_CHANGE) == ("shapes_pairs",)


def test_a_guard_that_is_left_out_is_removed_from_report_and_table(verdict: ModuleType) -> None:
    columns = {"scorer": ["taste", "diversity", "taste"], "score": [1.0, 2.0, 3.0]}
    report = SimpleNamespace(
        spec=SimpleNamespace(
            guards=(SimpleNamespace(name="caption"), SimpleNamespace(name="diversity")),
            model_copy=lambda update: SimpleNamespace(**update),
        ),
        comparisons=(SimpleNamespace(scorer="taste"), SimpleNamespace(scorer="diversity")),
        model_copy=lambda update: SimpleNamespace(**update),
    )
    found, rest = verdict.left_out(report, columns, ["diversity"])
    assert rest == {"scorer": ["taste", "taste"], "score": [1.0, 3.0]}
    assert [guard.name for guard in found.spec.guards] == ["caption"]
    assert [comparison.scorer for comparison in found.comparisons] == ["taste"]
    assert verdict.left_out(report, columns, []) == (report, columns)
