import pytest

from pipelines.intake.rules import PAIR_RULES, pair_rules, unpaired_rules
from pipelines.intake.validation import _reasons
from pipelines.project.sections import ValidationSection

pytestmark = pytest.mark.timeout(180)


def test_rules_carry_the_projects_limits() -> None:
    limits = ValidationSection(
        max_image_bytes=11, max_image_pixels=12, max_image_side=13, min_image_side=4, max_prompt_chars=15,
        max_annotator_share=0.16, allowed_formats=("PNG",),
    )  # fmt: skip
    rules = {rule.name: rule.expectation for rule in pair_rules(limits)}
    found = {
        name: rules[name].max_value
        for name in ("image_bytes", "image_pixels", "image_longest_side", "prompt_length", "annotator_flood")
    }
    assert found == {
        "image_bytes": 11, "image_pixels": 12, "image_longest_side": 13, "prompt_length": 15, "annotator_flood": 0.16
    }  # fmt: skip
    assert rules["image_shortest_side"].min_value == 4
    assert rules["image_format"].value_set == ["PNG"]


def test_names_are_those_of_the_functions_and_severities_agree() -> None:
    rules = pair_rules(ValidationSection())
    assert [rule.name for rule in rules] == [function.__name__ for function in PAIR_RULES]
    assert [rule.severity for rule in rules] == [rule.expectation.severity.value for rule in rules]
    warnings = {"annotator_flood", "annotator_one_sided", "annotator_disagrees"}
    assert {rule.name for rule in rules if rule.severity == "warning"} == warnings
    lenient = pair_rules(ValidationSection(annotator_severity="warn"))
    added = {"annotator_dominates", "annotator_prefers_a_side"}
    assert {rule.name for rule in lenient if rule.severity == "warning"} == warnings | added
    assert _reasons([]) == {}


def test_rules_of_one_image_compare_no_two_and_speak_of_one() -> None:
    pairs = {rule.name: rule for rule in pair_rules(ValidationSection())}
    found = unpaired_rules(ValidationSection())
    of_two = {"identical_images", "position_bias", "annotator_one_sided", "annotator_prefers_a_side"}
    assert [rule.name for rule in found] == [name for name in pairs if name not in of_two]
    texts = {rule.name: rule.expectation.description for rule in found}
    of_pairs = {"Both", "Neither", "images", "images,", "larger", "pair", "pairs"}
    for text in texts.values():
        assert not of_pairs & {*text.replace("from 20 images on", "").split()}
    assert texts["labels_legal"] == "The label is 1 or 0 (-1 is anything else)."
    assert texts["contradictory_labels"] == "No row of the same image, prompt and annotator has the other label."
    assert texts["image_bytes"].startswith("Encoded bytes of the image: at most ")
    for rule in found:
        changed = {"description": pairs[rule.name].expectation.description}
        assert rule.expectation.copy(update=changed) == pairs[rule.name].expectation, "only the text differs"
