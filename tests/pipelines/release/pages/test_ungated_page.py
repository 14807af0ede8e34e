"""The page of an ungated version; test_by_hand.py makes one with a real MLflow."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from pipelines.project.file import load_project
from pipelines.release.pages import ungated_page
from pipelines.release.pages.model_card import render_ungated_card
from pipelines.release.pages.provenance import Provenance

ROOT = Path(__file__).parents[4]


def test_the_hub_reads_the_card_of_an_ungated_version(good_decision: Any) -> None:
    project = load_project(ROOT / "projects/shapes.toml")
    text = render_ungated_card(
        good_decision.candidate,
        project,
        Provenance(),
        actor="<b>ada</b>",
        reason="line one\n## two",
        at=datetime(2026, 3, 1, 12, 30, tzinfo=UTC),
        earlier=None,
    )
    card = ModelCard(text, ignore_metadata_errors=False)
    assert card.data.tags is not None
    assert "preference-alignment" in card.data.tags
    assert r"&lt;b&gt;ada&lt;/b&gt; promoted this version by hand on 2026-03-01 12:30 UTC" in text
    assert r"Reason: line one \#\# two" in text
    assert f"`{good_decision.candidate.weights_digest}`" in text
    assert ungated_page.write_ungated_card
