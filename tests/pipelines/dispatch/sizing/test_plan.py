"""The plan of a project: where its numbers come from, the cards it compares, hours and cost."""

from pathlib import Path
from typing import Any

import pytest

from alignment.catalogues.backbones import SDXL
from alignment.contracts.jobs import DevicePrices, Placement
from pipelines.dispatch.sizing import plan
from pipelines.project.file import load_project
from pipelines.project.sections import RecipeSection
from pipelines.settings import Settings
from pipelines.workspace import Workspace

ROOT = Path(__file__).parents[4]


@pytest.fixture
def shapes(settings: Settings) -> Workspace:
    return Workspace(load_project(ROOT / "projects/shapes.toml"), settings)


def sdxl(shapes: Workspace, *overrides: str, **train: Any) -> Workspace:
    """A project of the shipped SDXL recipe, whose base is on no host."""
    project = shapes.project
    changes = {
        "base": project.base.model_copy(update={"uri": f"hub://owner/name@{'0' * 40}", "backbone": SDXL()}),
        "train": (RecipeSection(recipe="diffusion_dpo_sdxl_pickapic", overrides=overrides),),
        "placement": project.placement.model_copy(update={"train": Placement(**train)}),
    }
    return Workspace(project.model_copy(update=changes), shapes.settings)


def test_a_base_on_this_host_is_counted_from_its_own_files(shapes: Workspace) -> None:
    (own, *_) = plan.plan_project(shapes, "rtx4090")
    assert own.base == "the base's folder"
    assert own.num_weights == 1_573_804
    (placement, *_) = own.placements
    assert placement.cards[0].fits
    assert placement.total < 1.5


def test_without_the_base_the_published_one_stands(shapes: Workspace) -> None:
    (own,) = plan.plan_project(sdxl(shapes, micro_batch=1), "h100")
    assert own.base == "SDXL base 1.0 as published"
    assert own.num_weights == pytest.approx(2.567e9, rel=1e-3)
    placement = own.placements[0]
    assert placement.weights == placement.reference == placement.gradients == pytest.approx(9.56, abs=0.01)
    assert placement.total == pytest.approx(
        sum(getattr(placement, name) for name in plan.MemoryParts.model_fields), abs=0.05
    )


def test_several_processes_have_a_row_with_shards_where_the_recipe_allows_it(shapes: Workspace) -> None:
    (adafactor,) = plan.plan_project(sdxl(shapes, num_processes=8), "h100")
    assert {"sharding": "fsdp2"} not in [own.settings for own in adafactor.placements]
    (adamw,) = plan.plan_project(sdxl(shapes, "optimiser={learning_rate=1e-5}", num_processes=8), "h100")
    weights = {tuple(own.settings.items()): own.weights for own in adamw.placements}
    assert next(iter(weights)) == ()
    assert weights[(("sharding", "fsdp2"),)] == pytest.approx(weights[()] / 8, abs=0.01)


def test_hours_and_cost_follow_from_pace_and_price(shapes: Workspace) -> None:
    priced = sdxl(shapes, num_processes=8, micro_batch=1)
    prices = DevicePrices(currency="EUR", gpu_hour=2.5)
    priced = Workspace(priced.project.model_copy(update={"prices": prices}), priced.settings)
    (own,) = plan.plan_project(priced, "h200")
    card = own.placements[0].cards[0]
    assert card.pairs_per_second is not None
    assert card.gpu_hours == pytest.approx(2000 * 2048 / card.pairs_per_second / 3600)
    assert card.hours == pytest.approx(card.gpu_hours / 8)
    assert (card.cost, card.currency) == (pytest.approx(2.5 * card.gpu_hours), "EUR")
    # 6.76 TFLOP a pass, 4 passes of 2 images; docs/scale.md.
    assert card.pairs_per_second == pytest.approx(7.3, rel=0.03)


def test_a_card_that_holds_no_pair_has_no_pace(shapes: Workspace) -> None:
    (own,) = plan.plan_project(sdxl(shapes), "rtx4090")
    card = own.placements[0].cards[0]
    assert (card.fits, card.largest_micro_batch, card.pairs_per_second, card.cost) == (False, 0, None, None)


def test_the_cards_are_this_hosts_and_all_where_there_is_none(
    shapes: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "list_gpus", lambda: ["NVIDIA H200, 143771 MiB"] * 2)
    (own, *_) = plan.plan_project(shapes)
    assert [card.gpu for card in own.placements[0].cards] == ["h200"]
    monkeypatch.setattr(plan, "list_gpus", list)
    (own, *_) = plan.plan_project(shapes)
    assert len(own.placements[0].cards) == len(plan.CARDS)


def test_an_unknown_card_is_named(shapes: Workspace) -> None:
    with pytest.raises(ValueError, match=r"Unknown gpu 'h1000'\. Did you mean 'h100'\?"):
        plan.plan_project(shapes, "h1000")


def test_an_online_recipe_has_memory_and_no_pace(shapes: Workspace) -> None:
    train = (RecipeSection(recipe="prdp_shapes"),)
    project = shapes.project.model_copy(update={"train": train})
    (own,) = plan.plan_project(Workspace(project, shapes.settings), "h100")
    assert "draws its images" in own.note
    assert own.placements[0].cards[0].pairs_per_second is None
