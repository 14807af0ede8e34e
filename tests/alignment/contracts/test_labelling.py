"""Specs that make no sense are refused before a job is made of them."""

import pytest

from alignment.contracts.labelling import LabelModel, ProxyVoting, check_labelers, check_templates, filled


def test_a_proxy_vote_is_one_judges() -> None:
    check_labelers(ProxyVoting(), 1)
    with pytest.raises(ValueError, match="one judge's; 2 are named"):
        check_labelers(ProxyVoting(), 2)


def test_a_label_model_compares_two_labelers_at_least() -> None:
    check_labelers(LabelModel(heuristics=("contrast",)), 1)
    check_labelers(LabelModel(crowd=True), 0)
    with pytest.raises(ValueError, match="needs 2 labelers at least to compare, 1 named"):
        check_labelers(LabelModel(), 1)


def test_templates_say_where_the_prompt_goes_and_differ() -> None:
    check_templates("{prompt}, safe", "{prompt}")
    with pytest.raises(ValueError, match=r"chosen_template is 'pixel art' .* Write \{prompt\} in it"):
        check_templates("pixel art", "{prompt}")
    with pytest.raises(ValueError, match="rejected_template is ''"):
        check_templates("{prompt}!", "")
    with pytest.raises(ValueError, match="nothing would be preferred"):
        check_templates("{prompt}", "{prompt}")


def test_a_prompt_with_braces_stays_as_it_is() -> None:
    assert filled("{prompt}, {bold}", "a {0} cat") == "a {0} cat, {bold}"
