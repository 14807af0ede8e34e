"""Codes by hand, and a layer that is the restored matrix in both directions without keeping it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from alignment.backbones.quantised import BLOCK, NF4_LEVELS, Kind, QuantisedLinear, quantise, restore


def layer_of(kind: Kind, dtype: torch.dtype = torch.float32) -> tuple[nn.Linear, QuantisedLinear]:
    torch.manual_seed(0)
    source = nn.Linear(128, 96, dtype=dtype).requires_grad_(False)
    return source, QuantisedLinear(source, kind)


def test_int8_by_hand() -> None:
    codes, scales = quantise(torch.tensor([[1.0, -2.0, 0.51], [0.0, 0.0, 0.0]]), "int8")
    assert codes.tolist() == [[64, -127, 32], [0, 0, 0]], "1 / 2 * 127 = 63.5 rounds to even, 0.51 / 2 * 127 = 32.4"
    assert scales.flatten().tolist() == [2.0, 0.0]
    expected = torch.tensor([[64 * 2 / 127, -2.0, 32 * 2 / 127], [0, 0, 0]])
    torch.testing.assert_close(restore(codes, scales, (2, 3), "int8", torch.float32), expected)


def test_nf4_keeps_its_levels_and_rounds_to_the_nearest() -> None:
    levels = torch.tensor(NF4_LEVELS)
    row = torch.cat([levels.repeat(4) * 3.0, levels.repeat(4) * 0.5])
    codes, scales = quantise(row.reshape(4, 32), "nf4")
    assert codes.dtype == torch.uint8
    assert codes.shape == (2, BLOCK // 2)
    assert codes[0, :8].tolist() == [0x01, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF]
    torch.testing.assert_close(restore(codes, scales, (4, 32), "nf4", torch.float32).flatten(), row)
    values = torch.cat([torch.tensor([1.0]), torch.rand(BLOCK - 1, generator=torch.Generator().manual_seed(0)) * 2 - 1])
    restored = restore(*quantise(values.reshape(1, -1), "nf4"), (1, BLOCK), "nf4", torch.float32).flatten()
    nearest = levels[(values[:, None] - levels).abs().argmin(dim=1)]
    assert torch.equal(restored, nearest)


def test_nf4_codes_are_those_of_bitsandbytes() -> None:
    """Recorded with bitsandbytes 0.50.2: `quantize_4bit(weight, blocksize=64, quant_type="nf4")`."""
    weight = torch.tensor([(k * k * 37 % 251 - 125) / 64 * (1 + k // 64) for k in range(128)]).reshape(2, 64)
    codes, scales = quantise(weight, "nf4")
    assert scales.flatten().tolist() == [1.953125, 3.90625]
    assert bytes(codes.flatten().tolist()).hex() == (
        "01934b326fce2ee1cad2f04fe1b69fbbf8590de2ed0957eaaf8591ee3fe1b7b0"
        "dd1cae3118216fef5117102d8a0cbf848fcd1cbe523c55b213c78e87c2019339"
    )


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_codes_of_zeros_are_zeros(kind: Kind) -> None:
    codes, scales = quantise(torch.zeros(2, 64), kind)
    assert torch.equal(restore(codes, scales, (2, 64), kind, torch.float32), torch.zeros(2, 64))


@pytest.mark.parametrize(("kind", "bits", "most"), [("int8", 8, 0.01), ("nf4", 4.5, 0.12)])
def test_a_layer_is_near_its_source_in_fewer_bits(kind: Kind, bits: float, most: float) -> None:
    """Relative error of uniform weights. int8: a step of 1/127 over sqrt(12), over the rms of 1/sqrt(3): 0.4 %."""
    source, layer = layer_of(kind)
    values = torch.randn(16, 128)
    error = (layer(values) - source(values)).norm() / source(values).norm()
    assert 0 < error < most
    stored = sum(tensor.numel() * tensor.element_size() for tensor in (layer.weight, layer.scales))
    assert stored * 8 <= bits * source.weight.numel() + 32 * source.out_features


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_the_gradient_is_that_of_the_restored_matrix(kind: Kind) -> None:
    _, layer = layer_of(kind)
    dense = restore(layer.weight, layer.scales, (96, 128), kind, torch.float32)
    values = torch.randn(2, 5, 128, requires_grad=True)
    result, expected = layer(values), F.linear(values, dense, layer.bias)
    assert torch.equal(result, expected)
    weights = torch.randn_like(result)
    (got,) = torch.autograd.grad((result * weights).sum(), values)
    (wanted,) = torch.autograd.grad((expected * weights).sum(), values)
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_the_backward_pass_keeps_no_restored_matrix(kind: Kind) -> None:
    _, layer = layer_of(kind)
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(torch.randn(3, 128, requires_grad=True))
    assert kept
    assert not any(tensor.is_floating_point() and tensor.numel() >= 96 * 128 for tensor in kept)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_products_have_the_dtype_of_autocast(half: torch.dtype) -> None:
    _, layer = layer_of("nf4", half)
    values = torch.randn(3, 128, requires_grad=True)
    with torch.autocast("cpu", dtype=half):
        result = layer(values)
    assert result.dtype == half
    result.float().sum().backward()
    assert values.grad is not None
    assert values.grad.dtype == torch.float32
    assert layer(values).dtype == torch.float32
