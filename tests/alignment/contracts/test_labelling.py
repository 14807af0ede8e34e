"""Invalid labelling specs are refused before a job starts."""

import pytest

from alignment.contracts.labelling import LabelModel, ProxyVoting, check_labelers, check_templates, fill_template


def test_a_proxy_vote_needs_exactly_one_judge() -> None:
    check_labelers(ProxyVoting(), 1)
    with pytest.raises(ValueError, match="needs 1 judge, but 2 are named"):
        check_labelers(ProxyVoting(), 2)


def test_a_label_model_needs_two_labelers() -> None:
    check_labelers(LabelModel(heuristics=("contrast",)), 1)
    check_labelers(LabelModel(crowd=True), 0)
    with pytest.raises(ValueError, match="needs at least 2 labelers to compare, but 1 are named"):
        check_labelers(LabelModel(), 1)


def test_templates_contain_the_prompt_field_and_differ() -> None:
    check_templates("{prompt}, safe", "{prompt}")
    with pytest.raises(ValueError, match=r"chosen_template is 'pixel art' .* Write \{prompt\} in it"):
        check_templates("pixel art", "{prompt}")
    with pytest.raises(ValueError, match="rejected_template is ''"):
        check_templates("{prompt}!", "")
    with pytest.raises(ValueError, match="they must differ"):
        check_templates("{prompt}", "{prompt}")


def test_braces_other_than_the_prompt_field_stay_unchanged() -> None:
    assert fill_template("{prompt}, {bold}", "a {0} cat") == "a {0} cat, {bold}"
