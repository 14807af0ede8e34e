"""Cards by the driver's name, and the pace that follows from the work of a pair."""

import pytest

from alignment.config import load_recipe
from alignment.contracts.jobs import Placement
from pipelines.dispatch.sizing.architecture import Unit
from pipelines.dispatch.sizing.cards import CARDS, UTILISATION, find_card, pair_flops, pairs_per_second
from pipelines.dispatch.sizing.memory import TrainingCase, case_of

UNITS = (Unit("resnet", 1, 1, flops=1e12),)


def case(name: str, *overrides: str) -> TrainingCase:
    return case_of(load_recipe(name, overrides), Placement())


@pytest.mark.parametrize(
    ("driver_name", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA RTX A6000", "a6000"),
    ],
)
def test_a_card_is_found_by_the_drivers_name(driver_name: str, name: str) -> None:
    found = find_card(driver_name)
    assert found is not None
    assert found.name == name


def test_an_unknown_card_has_no_rate() -> None:
    assert find_card("NVIDIA GeForce GTX 1080") is None
    assert find_card("NVIDIA A100-SXM4-40GB") is None


@pytest.mark.parametrize(
    "driver_name",
    [
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA H200 NVL",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
    ],
)
def test_a_slower_card_of_the_same_name_is_another_card(driver_name: str) -> None:
    assert find_card(driver_name) is None


@pytest.mark.parametrize(
    ("overrides", "passes"),
    [
        ((), 4),
        (("tuning={kind='lora', rank=2, alpha=2}",), 3),
        (("objective={name='mapo'}",), 3),
    ],
)
def test_a_pair_costs_the_passes_of_its_two_images(overrides: tuple[str, ...], passes: int) -> None:
    assert pair_flops(case("diffusion_dpo_shapes", *overrides), UNITS) == 2 * passes * 1e12


def test_checkpointing_costs_one_more_forward_pass() -> None:
    repeated = case("diffusion_dpo_shapes").model_copy(update={"checkpoint_every": 1})
    assert pair_flops(repeated, UNITS) == 2 * 5 * 1e12


def test_the_pace_is_a_share_of_the_cards_rate_in_the_recipes_precision() -> None:
    for precision, rate in (("fp32", 67.0), ("bf16", 989.0)):
        own = case("diffusion_dpo_shapes", f"precision='{precision}'")
        assert pairs_per_second(own, UNITS, CARDS["h100"]) == pytest.approx(UTILISATION * rate / 8)
