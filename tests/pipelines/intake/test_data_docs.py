import re

import numpy as np
import pandas as pd
import pytest

from pipelines.intake.data_docs import data_docs_page
from pipelines.intake.rule_runs import judge
from pipelines.intake.rules import image_format, position_bias, prompt_length
from pipelines.project.sections import ValidationSection

pytestmark = pytest.mark.timeout(180)


def page() -> str:
    data = pd.DataFrame({"row": [0, 1], "image_format": ["PNG", "GIF"], "prompt_length": [3, 4]})
    rules = [image_format(ValidationSection()), prompt_length(ValidationSection())]
    return data_docs_page(judge(data, rules), title="a <b> shard", verdict="1 of 2 & so on")


def test_the_page_shows_every_rule_and_its_outcome() -> None:
    text = page()
    assert "Both images are JPEG or PNG or WEBP." in text
    assert "Characters of the prompt, outer white space aside: at least 1 and at most 10000." in text
    assert text.count("text-success") - text.count(".text-success") == 1
    assert "GIF" in text
    assert "<h1>a &lt;b&gt; shard</h1>" in text
    assert "1 of 2 &amp; so on" in text
    assert "Status:" not in text, "a second verdict, which says Failed where one row broke one rule"
    assert "Data asset" not in text
    assert "Evaluated Expectations" in text


def test_a_rule_on_the_whole_table_shows_the_number_it_found() -> None:
    data = pd.DataFrame({"row": [0, 1], "position_bias": np.array([0.0625, 0.03125])})
    (judged,) = judge(data, [position_bias(ValidationSection())])
    assert "0.0625" in data_docs_page([judged], title="a shard", verdict="2 of 2")


def test_the_page_is_self_contained_and_reproducible() -> None:
    text = page()
    assert not re.search(r"https?:|<script|<link|<img|@import|url\(", text)
    assert not re.search(r"\d{8}T\d{6}|20\d\d-\d\d-\d\d", text)
    assert page() == text
