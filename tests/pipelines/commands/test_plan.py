"""`plumbline plan`: JSON in a pipe, a table's rows for a person, one error for a card that is not known."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.commands import plan
from pipelines.commands.cli import BAD_INPUT, DONE, main
from pipelines.commands.rows import plan_rows

ROOT = Path(__file__).parents[3]
PROJECT = str(ROOT / "projects/shapes.toml")


@pytest.fixture(autouse=True)
def _state_of_the_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without it the project file of another recipe is written to the state folder of this checkout."""
    monkeypatch.setenv("PLUMBLINE_STATE_DIR", str(tmp_path / "state"))


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert callable(plan.plan)
    assert main(["plan", PROJECT, *arguments]) == DONE
    return json.loads(capsys.readouterr().out)["recipes"]


def test_a_pipe_gets_json_and_a_terminal_a_row_for_each_card(capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys)
    rows = plan_rows(found)
    assert len(rows) == sum(len(own["cards"]) for recipe in found for own in recipe["placements"])
    row = rows[0]
    assert row["recipe"] == found[0]["recipe"]
    assert row["placement"] == "as written"
    assert row["total"] == found[0]["placements"][0]["total"]
    assert "too large" not in row["batch"]


def test_a_recipe_and_a_card_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = planned(capsys, "--recipe", "mapo_shapes", "--gpu", "h100")
    assert found["recipe"] == "mapo_shapes"
    assert [card["gpu"] for card in found["placements"][0]["cards"]] == ["h100"]


def test_a_card_that_does_not_hold_the_batch_is_marked() -> None:
    card = {"gpu": "l4", "memory_gib": 22.5, "fits": False, "largest_micro_batch": 0, "currency": ""}
    card |= dict.fromkeys(("pairs_per_second", "gpu_hours", "hours", "cost"))
    parts = dict.fromkeys(
        ("weights", "reference", "gradients", "optimiser", "copies", "activations", "reserve", "total"), 9.0
    )
    placement = {"settings": {"sharding": "fsdp2"}, "micro_batch": 4, **parts, "cards": [card]}
    (row,) = plan_rows([{"recipe": "a", "placements": [placement]}])
    assert (row["placement"], row["batch"], row["holds"]) == ("sharding = fsdp2", "4 (too large)", 0)
    assert row["weights"] == row["activations"] == 18.0


def test_a_row_says_if_its_pace_is_measured() -> None:
    card: dict[str, Any] = {"gpu": "h200", "memory_gib": 140.4, "fits": True, "largest_micro_batch": 16, "currency": ""}
    card |= {"pairs_per_second": 7.5, "gpu_hours": 3.0, "hours": 3.0, "cost": None, "measured": None, "late": False}
    parts = dict.fromkeys(
        ("weights", "reference", "gradients", "optimiser", "copies", "activations", "reserve", "total"), 9.0
    )
    run = {"gpu": "NVIDIA H200", "job_id": "own-train-a-g0", "on": "2026-11-29", "micro_batch": 16, "peak_gib": 61.5}
    cards = [card, card | {"measured": run}, card | {"late": True}]
    placement = {"settings": {}, "micro_batch": 8, **parts, "cards": cards}
    estimated, measured, late = plan_rows([{"recipe": "a", "placements": [placement]}])
    assert estimated["pace"] == "estimated"
    assert measured["pace"] == "measured on NVIDIA H200, 2026-11-29, job own-train-a-g0: micro-batch 16, 61.5 GiB"
    assert late["pace"] == "estimated; later than deadline_hours"


def test_an_unknown_card_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", PROJECT, "--gpu", "h1000"]) == BAD_INPUT
    assert "Unknown gpu 'h1000'. Did you mean 'h100'?" in capsys.readouterr().err
