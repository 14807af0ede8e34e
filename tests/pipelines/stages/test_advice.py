"""The facts that the advice is given, read from a project that was never calibrated."""

from pathlib import Path

import pytest

from pipelines.stages.advice import advice

SHAPES = Path(__file__).parents[3] / "projects/shapes.toml"


def test_the_facts_of_a_fresh_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUMBLINE_STATE_DIR", str(tmp_path / "state"))
    found = advice(str(SHAPES))
    assert (found["project"], found["prompts"], found["seeds"], found["human_pairs"]) == ("shapes", 200, 2, 0)
    assert [(judge["judge"], judge["basis"]) for judge in found["judges"]] == [
        ("taste_a", "assumed"),
        ("taste_b", "assumed"),
    ]
    assert found["advised"] is None
    assert found["policies"][1]["lacks"] == [
        "human pairs for calibration: 0 of 20",
        '[approval] with mode = "required" and approvers',
    ]
    assert [row["people_prefer"] for row in found["to_show_more"]] == [0.55, 0.6, 0.65, 0.7]
