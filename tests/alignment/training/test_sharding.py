"""Shards of one process: the tests of two processes are in jobs/test_train.py."""

from collections.abc import Iterator

import pytest
import torch
from torch import distributed, nn
from torch.distributed.tensor import DTensor

from alignment.training.sharding import own_part, shard, whole

CPU = torch.device("cpu")


@pytest.fixture
def group() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


class Block(nn.Linear):
    pass


class Model(nn.Module):
    _no_split_modules = ("Block",)

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(3, 3), Block(3, 3))
        self.head = nn.Linear(3, 2)
        self.head.requires_grad_(False)

    def forward(self, x_BD: torch.Tensor) -> torch.Tensor:
        head: torch.Tensor = self.head(self.blocks(x_BD))
        return head


def test_the_blocks_and_the_rest_are_sharded_and_compute_the_same(group: None) -> None:
    torch.manual_seed(0)
    model = Model()
    values = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    expected = model(torch.ones(1, 3)).detach()
    shard(model, CPU, num_processes=1)
    assert all(isinstance(weight, DTensor) for weight in model.parameters())
    sharded = {name for name, module in model.named_modules() if type(module).__name__.startswith("FSDP")}
    assert sharded == {"", "blocks.0", "blocks.1"}
    with torch.no_grad():
        assert torch.equal(model(torch.ones(1, 3)), expected)
    assert all(isinstance(weight, DTensor) for weight in model.parameters()), "a pass without a gradient divides again"
    assert torch.equal(model(torch.ones(1, 3)), expected)
    assert all(torch.equal(whole(weight), values[name]) for name, weight in model.named_parameters())
    assert [name for name, weight in model.named_parameters() if not weight.requires_grad] == [
        "head.weight",
        "head.bias",
    ]


class Stored(nn.Module):
    """A frozen matrix in two bytes, codes of one byte, and a trained matrix."""

    _no_split_modules = ("Block",)

    def __init__(self) -> None:
        super().__init__()
        self.block = Block(3, 3)
        self.block.weight.requires_grad_(False)
        self.block.weight.data = self.block.weight.data.bfloat16()
        self.block.codes = nn.Parameter(torch.tensor([[7], [-3], [1]], dtype=torch.int8), requires_grad=False)
        self.block.adapter = nn.Parameter(torch.ones(3, 3))
        self.block.forward = self.product  # type: ignore[method-assign]

    def product(self, x_BD: torch.Tensor) -> torch.Tensor:
        block = self.block
        return x_BD @ (block.weight.float() + block.codes + block.adapter) + block.bias

    def forward(self, x_BD: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.block(x_BD)
        return result


def test_frozen_weights_of_several_formats_are_divided_with_the_trained_ones(group: None) -> None:
    torch.manual_seed(0)
    model = Stored()
    expected = model(torch.ones(1, 3)).detach()
    shard(model, CPU, num_processes=1)
    formats = {name.rpartition(".")[2]: weight.dtype for name, weight in model.named_parameters()}
    assert formats["weight"] == torch.bfloat16
    assert formats["codes"] == torch.int8
    assert all(isinstance(weight, DTensor) for weight in model.parameters())
    result = model(torch.ones(1, 3))
    assert torch.equal(result, expected)
    result.sum().backward()
    assert torch.equal(whole(model.block.adapter.grad), torch.ones(3, 3))


def test_a_part_is_a_copy_in_the_shards_of_the_weight(group: None) -> None:
    model, values = Model(), torch.arange(6.0).reshape(2, 3)
    shard(model, CPU, num_processes=1)
    part = own_part(values, model.head.weight)
    assert isinstance(part, DTensor)
    assert part.placements == model.head.weight.placements
    part.mul_(2)
    assert torch.equal(values, torch.arange(6.0).reshape(2, 3))
    factor = own_part(torch.ones(2), model.head.weight)
    assert not isinstance(factor, DTensor)


def test_a_weight_that_is_not_sharded_is_whole() -> None:
    weight = torch.ones(2)
    assert whole(weight) is weight
    part = own_part(weight, torch.zeros(2))
    assert torch.equal(part, weight)
    assert part.data_ptr() != weight.data_ptr()
