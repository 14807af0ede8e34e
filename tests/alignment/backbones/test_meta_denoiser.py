"""The count on the meta device against a real pass of the same network, and the emulated autocast."""

from typing import Any

import pytest
import torch
from torch import Tensor

from alignment.backbones.meta_denoiser import PassInput, _training_pass, meta_denoiser, weight_groups
from alignment.contracts.training import FullFineTune, Lora

UNET: dict[str, Any] = {
    "block_out_channels": [16, 32],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "cross_attention_dim": 24,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
    "in_channels": 4,
    "out_channels": 4,
}
SIZE = PassInput(latent_side=8, num_images=2, text_tokens=5)


def really_kept(tuning: Lora | FullFineTune) -> int:
    """Bytes that a real pass on the CPU keeps, its attention replaced by one that keeps what fused kernels keep."""
    from diffusers import UNet2DConditionModel

    from alignment.backbones import meta_denoiser as counted

    model: Any = UNet2DConditionModel.from_config(UNET).requires_grad_(False).eval()
    counted._attach(model, tuning)
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, tuple[int, Tensor]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes(), tensor
        return tensor

    with counted._Emulated(counted._Kept(), lower=False), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        model(torch.randn(2, 4, 8, 8), torch.ones(2), torch.randn(2, 5, 24))
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("tuning", [Lora(rank=2, alpha=2), FullFineTune()], ids=lambda tuning: tuning.kind)
def test_the_meta_device_keeps_what_a_real_pass_keeps(tuning: Lora | FullFineTune) -> None:
    kept = _training_pass(
        meta_denoiser("stable_diffusion", UNET), "stable_diffusion", tuning, size=SIZE, precision="fp32"
    )
    # Real tensors of one number share a storage with others, and the times' embedding is kept as another dtype.
    assert kept.activations == pytest.approx(really_kept(tuning), rel=0.01)
    assert kept.weight_copies == 0


def test_autocast_keeps_less_and_a_copy_of_each_matrix() -> None:
    whole, half = (
        _training_pass(
            meta_denoiser("stable_diffusion", UNET),
            "stable_diffusion",
            FullFineTune(),
            size=SIZE,
            precision=precision,
        )
        for precision in ("fp32", "bf16")
    )
    denoiser = meta_denoiser("stable_diffusion", UNET)
    matrices = sum(weight.numel() for weight in denoiser.parameters() if weight.ndim > 1)
    assert half.activations < whole.activations
    assert half.weight_copies == pytest.approx(2 * matrices, rel=0.05)
    assert half.flops == whole.flops > 0


def test_a_denoiser_on_the_meta_device_has_no_memory_and_all_weights() -> None:
    denoiser = meta_denoiser("stable_diffusion", UNET)
    tensors = [*denoiser.parameters(), *denoiser.buffers()]
    assert all(tensor.is_meta for tensor in tensors)
    counted = sum(count * torch.Size(shape).numel() for _, shape, count in weight_groups(denoiser))
    assert counted == sum(weight.numel() for weight in denoiser.parameters())


def test_equal_weights_of_repeated_blocks_are_one_group() -> None:
    blocks = torch.nn.ModuleList(
        torch.nn.ModuleDict({"to_out": torch.nn.ModuleList([torch.nn.Linear(2, 3)])}) for _ in "ab"
    )
    groups = {(name, shape): count for name, shape, count in weight_groups(torch.nn.ModuleDict({"blocks": blocks}))}
    assert groups == {("blocks.*.to_out.0.weight", (3, 2)): 2, ("blocks.*.to_out.0.bias", (3,)): 2}
