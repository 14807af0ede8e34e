"""Checkpointed blocks: the same bits with less memory, in every family; the choice of `auto` on a pretended GPU."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from alignment.contracts.jobs import BlockPolicy
from alignment.training.gradient_checkpointing import (
    CheckpointedBlocks,
    fastest_that_fits,
    memory_of,
    moments_to_come,
    starting_policy,
)

# The first test of a session includes the time to import the model libraries.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


UNET = {
    "sample_size": 8,
    "layers_per_block": 1,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "cross_attention_dim": 8,
}
BATCH, TOKENS = 2, 3


def sd() -> tuple[nn.Module, dict[str, Any]]:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        **UNET,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    return unet, unet_inputs()


def sdxl() -> tuple[nn.Module, dict[str, Any]]:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        **UNET,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 5,
    )
    conditions = {"text_embeds": torch.randn(BATCH, 5), "time_ids": torch.rand(BATCH, 6)}
    return unet, {**unet_inputs(), "added_cond_kwargs": conditions}


def unet_inputs() -> dict[str, Any]:
    return {
        "sample": torch.randn(BATCH, 4, 8, 8),
        "timestep": torch.tensor([3, 500]),
        "encoder_hidden_states": torch.randn(BATCH, TOKENS, 8),
    }


def sd3() -> tuple[nn.Module, dict[str, Any]]:
    from diffusers import SD3Transformer2DModel

    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=4,
        num_attention_heads=2,
        joint_attention_dim=8,
        caption_projection_dim=8,
        pooled_projection_dim=5,
        pos_embed_max_size=4,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    return transformer, {
        "hidden_states": torch.randn(BATCH, 4, 8, 8),
        "timestep": torch.tensor([3.0, 500.0]),
        "encoder_hidden_states": torch.randn(BATCH, TOKENS, 8),
        "pooled_projections": torch.randn(BATCH, 5),
    }


def flux() -> tuple[nn.Module, dict[str, Any]]:
    from diffusers import FluxTransformer2DModel

    transformer = FluxTransformer2DModel(
        in_channels=8,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        pooled_projection_dim=5,
        axes_dims_rope=(2, 2, 4),
        guidance_embeds=True,
    )
    return transformer, {
        "hidden_states": torch.randn(BATCH, 4, 8),
        "timestep": torch.tensor([0.1, 0.5]),
        "guidance": torch.full((BATCH,), 3.5),
        "pooled_projections": torch.randn(BATCH, 5),
        "encoder_hidden_states": torch.randn(BATCH, TOKENS, 8),
        "txt_ids": torch.zeros(TOKENS, 3),
        "img_ids": torch.rand(4, 3).round(),
    }


FAMILIES: dict[str, Callable[[], tuple[nn.Module, dict[str, Any]]]] = {"sd": sd, "sdxl": sdxl, "sd3": sd3, "flux": flux}
NUM_BLOCKS = {"sd": 8 + 4, "sdxl": 8 + 8, "sd3": 3, "flux": 2 + 2}
"""Residual and transformer blocks of each denoiser."""


@dataclass
class Kept:
    """Counts the bytes that a pass keeps for its backward pass, each storage once."""

    storages: dict[int, int] = field(default_factory=dict)

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self.storages[storage.data_ptr()] = storage.nbytes()
        return tensor


def denoiser_of(family: str, tuning: str) -> tuple[nn.Module, dict[str, Any]]:
    torch.manual_seed(0)
    denoiser, inputs = FAMILIES[family]()
    denoiser.requires_grad_(False).eval()
    if tuning == "full":
        denoiser.requires_grad_(True)
    else:
        from peft import LoraConfig

        cast(Any, denoiser).add_adapter(
            LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False)
        )
    return denoiser, inputs


def two_steps(denoiser: nn.Module, inputs: dict[str, Any], *, lora: bool) -> tuple[list[Tensor], int]:
    """Return losses, gradients and weights of two steps against a reference, and the bytes kept by the last pass."""
    weights = [weight for weight in denoiser.parameters() if weight.requires_grad]
    optimiser, found, kept = torch.optim.AdamW(weights, lr=1e-2), [], Kept()
    for _ in range(2):
        target = reference(denoiser, inputs, lora=lora)
        kept = Kept()
        with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
            prediction = denoiser(**inputs, return_dict=False)[0]
        loss = (prediction - 0.5 * target).square().mean()
        torch.autograd.backward(loss)
        found += [loss.detach(), *(weight.grad.clone() for weight in weights if weight.grad is not None)]
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return [*found, *(weight.detach().clone() for weight in weights)], sum(kept.storages.values())


def reference(denoiser: Any, inputs: dict[str, Any], *, lora: bool) -> Tensor:
    """Predict with the adapter off, without a gradient, as the reference pass of a LoRA does."""
    if lora:
        denoiser.disable_adapters()
    with torch.no_grad():
        target: Tensor = denoiser(**inputs, return_dict=False)[0]
    if lora:
        denoiser.enable_adapters()
    return target


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_gradients_and_weights_have_the_same_bits_and_less_is_kept(family: str, tuning: str) -> None:
    results, kept = {}, {}
    policies: tuple[BlockPolicy, ...] = ("none", "every_n", "all")
    for policy in policies:
        denoiser, inputs = denoiser_of(family, tuning)
        CheckpointedBlocks(denoiser, every=2).apply(policy)
        results[policy], kept[policy] = two_steps(denoiser, inputs, lora=tuning == "lora")
    for policy in policies:
        assert len(results[policy]) == len(results["none"])
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(results[policy], results["none"], strict=True))
    assert kept["all"] < kept["every_n"] < kept["none"]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_blocks_are_the_innermost_that_a_model_declares(family: str) -> None:
    denoiser, _ = denoiser_of(family, "full")
    blocks = CheckpointedBlocks(denoiser, every=2).blocks
    assert len(blocks) == NUM_BLOCKS[family]
    assert {type(block).__name__ for block in blocks} <= {
        "BasicTransformerBlock",
        "ResnetBlock2D",
        "JointTransformerBlock",
        "FluxTransformerBlock",
        "FluxSingleTransformerBlock",
    }


def test_every_third_block_runs_twice_and_a_policy_may_be_taken_back() -> None:
    denoiser, inputs = denoiser_of("sd3", "full")
    blocks = CheckpointedBlocks(denoiser, every=3)
    calls = dict.fromkeys(range(3), 0)

    def count(number: int) -> Callable[[nn.Module, Any], None]:
        def add(module: nn.Module, given: Any) -> None:
            calls[number] += 1

        return add

    for number, block in enumerate(blocks.blocks):
        block.register_forward_pre_hook(count(number))
    blocks.apply("every_n")
    denoiser(**inputs, return_dict=False)[0].sum().backward()
    assert calls == {0: 2, 1: 1, 2: 1}
    blocks.apply("none")
    denoiser(**inputs, return_dict=False)[0].sum().backward()
    assert calls == {0: 3, 1: 2, 2: 2}
    blocks.apply("all")
    with torch.no_grad():
        denoiser(**inputs, return_dict=False)
    assert calls == {0: 4, 1: 3, 2: 3}, "a pass without a gradient computes each block once"


@dataclass
class FakeMemory:
    """A device of 100 bytes. `needs` is the peak of a pass under each policy; above 100 the pass fails."""

    needs: dict[str, int]
    policy: str = ""
    held: int = 0

    def usable(self) -> int:
        return 100

    def reset(self) -> None:
        self.held = 0

    def peak(self) -> int:
        return self.held

    def attempt(self) -> None:
        if self.needs[self.policy] > 100:
            raise torch.OutOfMemoryError("no room")
        self.held = self.needs[self.policy]


@dataclass
class FakeBlocks:
    memory: FakeMemory

    def apply(self, policy: str) -> None:
        self.memory.policy = policy


@pytest.mark.parametrize(
    ("needs", "reserve", "expected"),
    [
        ({"none": 90, "every_n": 60}, 0, "none"),
        ({"none": 91, "every_n": 60}, 0, "every_n"),
        ({"none": 101, "every_n": 60}, 30, "every_n"),
        ({"none": 101, "every_n": 60}, 31, "all"),
        ({"none": 101, "every_n": 101}, 0, "all"),
    ],
)
def test_auto_takes_the_fastest_policy_that_leaves_room(needs: dict[str, int], reserve: int, expected: str) -> None:
    memory = FakeMemory(needs)
    blocks = cast(CheckpointedBlocks, FakeBlocks(memory))
    found = fastest_that_fits(blocks, memory.attempt, bool, memory=memory, reserve_bytes=reserve)
    assert (found, memory.policy) == (expected, expected)
    assert memory.held == 0, "the peak of the trials is forgotten"


def test_auto_takes_what_fits_on_every_process() -> None:
    memory = FakeMemory({"none": 10, "every_n": 10})
    answers = iter([False, True])
    found = fastest_that_fits(
        cast(CheckpointedBlocks, FakeBlocks(memory)),
        memory.attempt,
        lambda fits: next(answers),
        memory=memory,
        reserve_bytes=0,
    )
    assert found == "every_n"


def test_until_the_choice_a_gpu_has_all_blocks_checkpointed_and_a_cpu_none() -> None:
    assert memory_of(torch.device("cpu")) is None
    assert starting_policy("auto", None) == "none"
    assert starting_policy("auto", FakeMemory({})) == "all"
    assert starting_policy("every_n", None) == "every_n"
    assert starting_policy("none", FakeMemory({})) == "none"


def test_moments_are_counted_until_the_first_step_has_allocated_them() -> None:
    weights = [nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(4, dtype=torch.bfloat16))]
    optimiser = torch.optim.AdamW(weights)
    assert moments_to_come(weights, "adamw", optimiser) == 2 * (6 * 4 + 4 * 2)
    assert moments_to_come(weights, "adafactor", optimiser) == 0
    assert moments_to_come(weights, "adamw8bit", optimiser) == 2 * (6 * 4 + 4 * 2), "small weights keep float32"
    large = [torch.nn.Parameter(torch.zeros(64, 64, dtype=torch.float32))]
    assert moments_to_come(large, "adamw8bit", optimiser) == 2 * (4096 + 4 * 16)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimiser.step()
    assert moments_to_come(weights, "adamw", optimiser) == 0
