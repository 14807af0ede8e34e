"""Decisions of schema version 2 get their fields and keep their digest."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipelines.contracts.earlier_decisions import read_check, write_check
from pipelines.contracts.release import GateCheck, GateDecision

FILE = Path(__file__).parents[1] / "release/data/decision_version_2.json"
DIGEST = "1776449e73a195d4d422fc84e298b0dd4bffe97b9d382622f4ee159f09acd238"
"""Digest computed by the version that wrote the file."""


def old_check(name: str, required: str = "> 0") -> dict[str, Any]:
    return {"name": name, "measured": 0.5, "required": required, "passed": True, "decisive": True, "family": "votes",
            "note": "", "explanation": "so"}  # fmt: skip


@pytest.fixture
def decision() -> GateDecision:
    return GateDecision.model_validate_json(FILE.read_bytes())


def test_a_decision_of_version_2_keeps_its_digest_and_its_form(decision: GateDecision) -> None:
    assert (decision.schema_version, decision.digest) == (2, DIGEST)
    assert decision.model_dump(mode="json") == json.loads(FILE.read_bytes())
    assert decision.model_dump_json(indent=1) + "\n" == FILE.read_text(encoding="utf-8")
    copied = decision.model_copy(update={"report_uri": "s3://bucket/another.html"})
    assert GateDecision.model_validate(copied.model_dump(mode="json")) == copied


def test_its_checks_have_fields(decision: GateDecision) -> None:
    found = {check.name: (check.kind, check.subject, check.relation, check.bound) for check in decision.checks}
    assert found["may_vote:taste_a"] == ("may_vote", "taste_a", ">", 0.5)
    assert found["guard:diversity:relative"] == ("guard", "diversity", ">", -0.25)
    assert found["slice:circle"] == ("slice", "circle", "not below", 0.35)
    assert found["rank_correlation:taste_a:taste_b"] == ("rank_correlation", "taste_a", "not clearly >", 0.2)
    assert found["candidate_digest"] == ("candidate_digest", None, None, None)
    assert len(found) == len(decision.checks) == 34


@pytest.mark.parametrize(
    ("name", "about"),
    [
        ("power", ("power", None, None, None)),
        ("power:match", ("power", "match", None, None)),
        ("guard:match:floor", ("guard", "match", "floor", None)),
        ("guard:floor", ("guard", "floor", None, None)),
        ("rank_correlation:a:b", ("rank_correlation", "a", None, "b")),
        ("slice:", ("slice", "", None, None)),
        ("slice:a: b:floor", ("slice", "a: b:floor", None, None)),
    ],
)
def test_a_name_is_split_into_fields_that_form_it_again(
    name: str, about: tuple[str, str | None, str | None, str | None]
) -> None:
    check = GateCheck(**read_check(old_check(name)))
    assert (check.kind, check.subject, check.limit, check.against) == about
    assert write_check(check.model_dump(), check.name) == old_check(name)


@pytest.mark.parametrize(
    ("required", "relation", "bound"),
    [
        (">= 1632", ">=", 1632),
        ("> -0.5", ">", -0.5),
        ("< 1e-05", "<", 1e-5),
        ("<= 1e+06", "<=", 1e6),
        ("p <= 0.0125", "<=", 0.0125),
        ("> 0.6 on >= 50 pairs, independent", ">", 0.6),
        ("lower bound <= 0.5", "<=", 0.5),
        ("share not clearly > 0.8", "not clearly >", 0.8),
        ("not below 0.35", "not below", 0.35),
        ("within 0.1", "within", 0.1),
        ("none", None, None),
        ("enough prompts", None, None),
        ("other weights than the champion", None, None),
    ],
)
def test_the_requirement_is_split_into_relation_and_bound(
    required: str, relation: str | None, bound: float | None
) -> None:
    check = GateCheck(**read_check(old_check("prompts", required)))
    assert (check.relation, check.bound, check.required) == (relation, bound, required)


@pytest.mark.parametrize("damage", [{"name": "no_such_kind"}, {"name": 3}, {"required": None}, {"surplus": 1}])
def test_a_damaged_check_is_refused_as_any_other(damage: dict[str, Any]) -> None:
    data = json.loads(FILE.read_bytes())
    data["checks"][0] |= damage
    with pytest.raises(ValidationError, match=r"checks\.0"):
        GateDecision.model_validate(data)
