"""The policy refuses nonsense, and its defaults are the documented ones."""

import functools
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from alignment.statistics.power import prompts_needed, shift_power
from pipelines.project.gate import PRESETS, DetectorRules, GatePolicy, GuardRule, PowerRule, SliceRule
from pipelines.release.gate.checks.power import _vote_power

DOCS = (Path(__file__).parents[3] / "docs" / "gate.md").read_text()


@pytest.mark.parametrize(
    "fields",
    [
        {"guards": {"g": {}}},
        {"guards": {"g": {"margin": -1.0}}},
        {"guards": {"g": {"margin": float("nan")}}},
        {"guards": {"g": {"margin": float("inf")}}},
        {"guards": {"g": {"threshold": 0.5, "relative_margin": 0.1}}},
        {"guards": {"g": {"threshold": 0.5, "margin": 0.0}}},
        {"guards": {"g": {"margin": 1.0}}, "detectors": {"drift": {"g": {"margin": 1.0}}}},
        {"detectors": {"lone_judge": {"action": "shout", "margin": 1.0}}},
        {"required_judges": 0},
        {"minimum_win_rate": 1.5},
        {"power": {"effect": 0.0}},
        {"guard_margins": {"g": 1.0}},
        {"preset": "tiny"},
        {"preset": ["small"]},
    ],
)
def test_nonsense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        GatePolicy.model_validate(fields)


def test_a_policy_without_a_preset_keeps_the_digest_that_it_had_before_presets_existed() -> None:
    """A decision is carried out only under the policy with the digest that it names."""
    given = GatePolicy.model_validate(
        {"required_judges": 1, "guards": {"g": {"margin": 1.0}}, "slices": {"margin": 0.1}}
    )
    for policy in (GatePolicy(), GatePolicy(preset="standard"), GatePolicy.model_validate({"preset": "standard"})):
        assert policy.digest == "9337d7eac170b1c8e16c263dd1d9183da89739af28e81e5927884488bc158a0e"
    assert given.digest == "ee3b1118d51180cc80c2a8bfb358622c2e5e2f272d647f83531c88507490ea17"
    assert GatePolicy(preset="small").digest != GatePolicy().digest


@pytest.mark.parametrize("preset", ["small", "strict"])
def test_a_preset_sets_defaults_and_a_given_field_wins(preset: str) -> None:
    whole = GatePolicy.model_validate({"preset": preset})
    assert GatePolicy.model_validate(whole.model_dump(mode="json")) == whole
    for name, value in PRESETS[preset].items():
        found = getattr(whole, name)
        assert (found.model_dump() | value if isinstance(value, dict) else value) == (
            found.model_dump() if isinstance(value, dict) else found
        ), name
    own = GatePolicy.model_validate(
        {"preset": preset, "minimum_prompts": 7, "slices": {"minimum_prompts": 9}, "power": PowerRule(effect=0.2)}
    )
    assert (own.minimum_prompts, own.slices.minimum_prompts, own.power) == (7, 9, PowerRule(effect=0.2))
    assert own.slices.margin == whole.slices.margin != SliceRule().margin
    assert own.required_judges == whole.required_judges


def test_the_presets_are_ordered_and_documented() -> None:
    small, standard, strict = (GatePolicy.model_validate({"preset": name}) for name in PRESETS)
    assert [policy.needs_person for policy in (small, standard, strict)] == [True, False, False]
    for field in ("minimum_prompts", "required_judges", "calibration_floor", "minimum_calibration_pairs"):
        values = [getattr(policy, field) for policy in (small, standard, strict)]
        assert values == sorted(set(values)), field
    section = DOCS.partition("## Presets")[2].partition("\n## ")[0]
    shown = dict(re.findall(r"^\| `([\w.]+)` \| (.+) \|$", section, flags=re.MULTILINE))
    for name in {name for preset in PRESETS.values() for name in preset} - {"slices", "power", "detectors"}:
        values = (getattr(policy, name) for policy in (small, standard, strict))
        assert shown[name] == " | ".join(
            f"{value:g}" if not isinstance(value, str) else f"`{value}`" for value in values
        )


def test_the_documented_numbers_of_prompts_equal_those_of_the_code() -> None:
    needed = [
        prompts_needed(functools.partial(shift_power, effect, level=0.025), 0.9) for effect in (0.1, 0.15, 0.2, 0.3)
    ]
    sentence = "an effect of 0.10 needs {} prompts, 0.15 needs {}, 0.20 needs {} and 0.30 needs {}".format(*needed)
    assert sentence in DOCS
    two_of_three = prompts_needed(_vote_power(GatePolicy(), judges=3, level=0.025, minimum=0.52, tie_share=0.0), 0.9)
    assert f"{two_of_three} prompts for 0.15" in DOCS


def test_at_least_the_required_judges_must_vote() -> None:
    assert GatePolicy(required_judges=2).voting_judges == 2
    assert GatePolicy(required_judges=2, minimum_voting_judges=3).voting_judges == 3


def test_every_field_is_documented_with_its_default() -> None:
    policy = GatePolicy()
    plain = {name: value for name, value in policy.model_dump().items() if isinstance(value, (int, float, str))}
    plain.pop("schema_version")
    plain["preset"] = policy.preset
    plain |= {f"slices.{name}": value for name, value in SliceRule().model_dump().items()}
    plain |= {f"power.{name}": value for name, value in PowerRule().model_dump().items()}
    for name, value in plain.items():
        number = f"{value:g}" if isinstance(value, (int, float)) else f"`{value}`"
        shown = str(value).lower() if isinstance(value, bool) else number
        assert re.search(rf"^\| `{re.escape(name)}` \| {re.escape(shown)} \|", DOCS, flags=re.MULTILINE), name
    for name, detector in DetectorRules():
        if name != "drift":
            assert f"| `{name}` | {detector.action}, {detector.margin:g} |" in DOCS
    for name in GuardRule.model_fields:
        assert f"`{name}`" in DOCS
