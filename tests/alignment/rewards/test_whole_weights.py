"""Weights that match their network, and every kind of mismatch."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTModel

from alignment.rewards.whole_weights import load_whole

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = ViTConfig(
        **{"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8},
        **{"image_size": 16, "patch_size": 8},
    )
    with torch.random.fork_rng():
        ViTModel(config).save_pretrained(tmp_path)
    return tmp_path


def rewrite(folder: Path, without: str, **added: torch.Tensor) -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if name != without}
    save_file(kept | added, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_complete_folder_loads_exactly_its_weights(folder: Path) -> None:
    """Every number of the file and no other. Names may differ, because files use the names of older versions."""
    weights = load_file(folder / "model.safetensors")
    own = load_whole(ViTModel, folder, what="tower").state_dict()
    assert sorted(t.flatten().tolist() for t in own.values()) == sorted(t.flatten().tolist() for t in weights.values())


def test_every_mismatch_is_named_in_one_error(folder: Path) -> None:
    rewrite(folder, "layernorm.weight", **{"layernorm.bias": torch.zeros(3), "head.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"The tower .* does not match its config\.json") as error:
        load_whole(ViTModel, folder, what="tower")
    assert "lacks 1 weights, which would be random (layernorm.weight)" in str(error.value)
    assert "wrong shapes for 1 weights (layernorm.bias (3, needed 8))" in str(error.value)
    assert "holds 1 weights that the network does not have (head.weight)" in str(error.value)


def test_named_parts_may_be_missing_or_extra(folder: Path) -> None:
    added = {"head.weight": torch.zeros(1), "embeddings.position_ids": torch.zeros(4)}
    rewrite(folder, "pooler.dense.bias", **added)
    load_whole(ViTModel, folder, what="tower", may_lack=("pooler",), may_hold=("head",))
    with pytest.raises(ValueError, match=r"\(pooler\.dense\.bias\); it holds 1 weights.*\(head\.weight\)"):
        load_whole(ViTModel, folder, what="tower")


def test_a_network_deeper_than_its_config_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 0}))
    with pytest.raises(ValueError, match="weights that the network does not have"):
        load_whole(ViTModel, folder, what="tower")


def test_a_truncated_file_is_refused_with_one_line(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"The tower .* cannot be loaded"):
        load_whole(ViTModel, folder, what="tower")
