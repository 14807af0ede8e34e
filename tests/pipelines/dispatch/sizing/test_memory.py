"""The memory of a process, part by part, by hand; and the shipped SDXL recipe."""

from typing import Any

import pytest

from alignment.backbones.meta_denoiser import PassInput, _training_pass, meta_denoiser
from alignment.catalogues.published import WeightGroup, published_base, published_bases
from alignment.config import load_recipe
from alignment.contracts.jobs import Placement
from alignment.contracts.training import FullFineTune, Lora
from pipelines.dispatch.sizing.architecture import Unit, units_of
from pipelines.dispatch.sizing.memory import GIB, Denoiser, case_of, largest_micro_batch, training_memory

GROUPS = (WeightGroup(name="attn.to_q.weight", shape=(8, 6)), WeightGroup(name="mid.bias", shape=(8,)))
NUM_WEIGHTS = 48 + 8
UNITS = (Unit("resnet", values=1000, inputs=100, flops=0),)
TINY = Denoiser(GROUPS, UNITS)


def parts_of(name: str, *overrides: str, denoiser: Denoiser = TINY, **placement: Any) -> Any:
    return training_memory(case_of(load_recipe(name, overrides), Placement(**placement)), denoiser)


def test_a_full_fine_tune_with_reference_and_adamw_has_five_copies() -> None:
    parts = parts_of("diffusion_dpo_shapes")
    one = 4 * NUM_WEIGHTS
    assert (parts.weights, parts.reference, parts.gradients, parts.optimiser) == (one, one, one, 2 * one)
    assert parts.copies == 0
    assert parts.floor == 5 * one


def test_without_reference_there_is_no_copy() -> None:
    assert parts_of("mapo_shapes").reference == 0


def test_adapters_train_their_own_weights_and_need_no_copy() -> None:
    parts = parts_of("diffusion_dpo_shapes", "tuning={kind='lora', rank=2, alpha=2}")
    adapter = 2 * (6 + 8)
    assert (parts.weights, parts.reference) == (4 * (NUM_WEIGHTS + adapter), 0)
    assert (parts.gradients, parts.optimiser) == (4 * adapter, 8 * adapter)


def test_adafactor_keeps_rows_and_columns() -> None:
    parts = parts_of("diffusion_dpo_shapes", "optimiser={kind='adafactor', learning_rate=1e-5}")
    assert parts.optimiser == 4 * ((8 + 6) + 8)


def test_autocast_keeps_a_copy_of_every_float32_weight() -> None:
    parts = parts_of("diffusion_dpo_shapes", "precision='bf16'")
    assert parts.copies == 2 * NUM_WEIGHTS


def test_shards_divide_weights_and_states_and_not_activations() -> None:
    whole = parts_of("diffusion_dpo_shapes", num_processes=2)
    half = parts_of("diffusion_dpo_shapes", num_processes=2, sharding="fsdp2")
    assert half.floor == whole.floor / 2
    assert half.activations == whole.activations


def test_activations_grow_with_the_micro_batch_up_to_the_share_of_the_batch() -> None:
    pair = 2 * 12 * 1000
    assert parts_of("diffusion_dpo_shapes", micro_batch=3).activations == 3 * pair
    batch = load_recipe("diffusion_dpo_shapes").global_batch
    assert parts_of("diffusion_dpo_shapes", micro_batch=10**6, num_processes=2).activations == batch // 2 * pair


def test_gradient_checkpointing_keeps_inputs_and_one_unit() -> None:
    units = [Unit("resnet", values=1000, inputs=100, flops=0)] * 4
    case = case_of(load_recipe("diffusion_dpo_shapes"), Placement(micro_batch=1))
    found = {
        every: training_memory(case.model_copy(update={"checkpoint_every": every}), Denoiser(GROUPS, units)).activations
        for every in (0, 1, 2)
    }
    assert found == {0: 2 * 4 * 12_000, 1: 2 * (4 * 400 + 12_000), 2: 2 * (2 * 12_000 + 2 * 400 + 12_000)}


def test_the_largest_micro_batch_fits_and_one_more_does_not() -> None:
    base = published_base("sdxl")
    denoiser = Denoiser(base.weights, units_of("sdxl", base.config, 128))
    case = case_of(load_recipe("diffusion_dpo_sdxl_pickapic"), Placement())
    largest = largest_micro_batch(case, denoiser, 140)
    totals = [
        training_memory(case.model_copy(update={"micro_batch": size}), denoiser).total
        for size in (largest, largest + 1)
    ]
    assert largest >= 1
    assert totals[0] <= 140 * GIB < totals[1]
    assert largest_micro_batch(case, denoiser, 30) == 0


def test_the_shipped_sdxl_recipe_has_three_copies_and_the_factors_of_adafactor() -> None:
    """AdamW's moments would make 47.8 GiB of it, and a card of 48 GB would be refused."""
    base = published_base("sdxl")
    parts = parts_of("diffusion_dpo_sdxl_pickapic", denoiser=Denoiser(base.weights, ()))
    copies = parts.weights + parts.reference + parts.gradients
    assert copies / GIB == pytest.approx(28.7, abs=0.05)
    assert parts.floor - copies < 0.1 * copies


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd35_medium", "flux1_dev"])
@pytest.mark.parametrize("tuning", [Lora(rank=8), FullFineTune()], ids=lambda tuning: tuning.kind)
def test_the_copies_of_autocast_are_those_that_torch_keeps(name: str, tuning: Lora | FullFineTune) -> None:
    base = published_bases()[name]
    case = case_of(load_recipe("diffusion_dpo_shapes", ("precision='bf16'",)), Placement())
    own = training_memory(case.model_copy(update={"tuning": tuning}), Denoiser(base.weights, ())).copies
    size = PassInput(latent_side=16)
    denoiser = meta_denoiser(base.family, base.config)
    exact = _training_pass(denoiser, base.family, tuning, size=size, precision="bf16").weight_copies
    # The first convolution and the embeddings of text and time have no input with a gradient either.
    assert own == pytest.approx(exact, rel=0.04)
