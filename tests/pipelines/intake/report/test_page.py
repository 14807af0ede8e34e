"""The page is one file without scripts or addresses, text from outside is escaped, and drift is said in words."""

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from pipelines.contracts.data_report import (
    AgreementFigures,
    AnnotatorFigures,
    DataFigures,
    DataReport,
    DriftRow,
    SetAside,
)
from pipelines.contracts.pairs import QuarantinedShard
from pipelines.intake.report.examples import Example
from pipelines.intake.report.page import percent, render_page

HOSTILE = '<script>alert("x")</script>'
PICTURE = ("data:image/jpeg;base64,AAAA", "")


def report(**changes: Any) -> DataReport:
    shard = QuarantinedShard(
        source=HOSTILE,
        shard="part-0.parquet",
        num_rows=9,
        num_accepted=4,
        num_quarantined=5,
        num_duplicates=1,
        reasons={"image_format": 3, "duplicate_pair": 2},
        failure="",
        data_docs_uri="file:///store/raw/validated/v/data_docs/index.html",
        rows_uri="file:///store/raw/validated/v/quarantine.parquet",
    )
    fields: dict[str, Any] = {
        "project": "tiny",
        "snapshot_uri": "file:///store/snapshots/s",
        "snapshot_digest": "5" * 64,
        "previous_digest": None,
        "figures": DataFigures(
            num_pairs=4,
            counts={"source": {HOSTILE: {"train": 3, "test": 1}}, "generator": {}},
            num_annotators=30,
            num_unnamed=2,
            annotators=(
                AnnotatorFigures(
                    annotator_id=HOSTILE, num_pairs=1, num_ties=0, first_share=None, num_compared=0, agreement=None
                ),
            ),
            agreement=AgreementFigures(num_comparisons=7, num_labels=20, agreement=0.75, by_chance=0.5),
        ),
        "set_aside": SetAside(
            num_rows=9,
            num_in_snapshot=4,
            num_quarantined=3,
            num_duplicates=1,
            num_in_failed_shards=0,
            left_out={"prompt was held out": 1},
            reasons={"image_format": 3},
            shards=(shard,),
            num_other_shards=2,
        ),
        "drift": (),
    }
    return DataReport(**{**fields, **changes})


EXAMPLES = [Example(HOSTILE, "panel", False, ("g", ""), (PICTURE, ("", "animation")))]


class Text(HTMLParser):
    """Text, and the tags and attributes, of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.tags, self.attributes = "", set[str](), list[tuple[str, str | None]]()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_self_contained_and_reproducible() -> None:
    html = render_page(report(), EXAMPLES)
    assert html == render_page(report(), EXAMPLES)
    assert not re.search(r"https?://|<link|@import|url\(", html)
    assert "default-src 'none'" in html
    assert not Text(html).tags & {"script", "iframe", "object", "svg"}


def test_text_from_outside_is_escaped_wherever_it_is_shown() -> None:
    page = Text(render_page(report(), EXAMPLES))
    assert page.text.count(HOSTILE) == 3, "category, example and shard"
    assert ("title", HOSTILE) in page.attributes
    assert ("alt", f"chosen image of: {HOSTILE}") in page.attributes


def test_every_figure_is_shown() -> None:
    page = Text(render_page(report(), EXAMPLES))
    words = " ".join(page.text.split())
    assert "4 pairs of 9 rows; 5 rows are not in the snapshot. There is no earlier report to compare it with." in words
    assert "gave the same label in 75.0 % of the cases; by chance it would be 50.0 %" in words
    assert "30 people, of whom the 25 with the most pairs are listed; 2 pairs name no annotator" in words
    assert "1: prompt was held out" in words
    assert "image_format 3, duplicate_pair 2" in words
    assert "2 more shards have rows set aside: plumbline quarantine show tiny" in words
    assert "animation" in words
    assert ("href", "file:///store/raw/validated/v/data_docs/index.html") in page.attributes
    assert "Source (pairs)" in words
    assert "Generator" not in page.text, "nothing was counted"


def test_data_docs_of_another_store_are_no_link() -> None:
    page = Text(render_page(report(snapshot_uri="s3://bucket/snapshots/s"), EXAMPLES))
    assert not any(name == "href" and str(value).startswith("file:") for name, value in page.attributes)
    assert "file:///store/raw/validated/v/data_docs/index.html" in page.text


@pytest.mark.parametrize("drifted", [True, False])
def test_drift_is_named_in_the_first_sentence(drifted: bool) -> None:
    row = DriftRow(
        property="source", category="a", num_before=50, num_now=870, share_before=0.5, share_now=0.58,
        has_drifted=drifted,
    )  # fmt: skip
    page = Text(render_page(report(previous_digest="4" * 64, drift=(row,)), EXAMPLES))
    assert ("these have drifted: source" in page.text) == drifted
    assert ("Nothing has drifted" in page.text) == (not drifted)
    assert "+8.0" in page.text
    assert "870" in page.text
    assert "at least 5 percentage points" in page.text
    assert f"plumbline diff tiny {'4' * 12} {'5' * 12}" in page.text


def test_a_report_without_rows_set_aside_and_examples() -> None:
    empty = SetAside(
        num_rows=4, num_in_snapshot=4, num_quarantined=0, num_duplicates=0, num_in_failed_shards=0,
        left_out={}, reasons={}, shards=(), num_other_shards=0,
    )  # fmt: skip
    text = Text(render_page(report(set_aside=empty), [])).text
    assert "Broken rules" not in text
    assert "4 pairs of 4 rows; 0 rows are not in the snapshot" in text


def test_an_unknown_share_is_a_dash() -> None:
    assert (percent(None), percent(0.1234)) == ("-", "12.3 %")
