"""Conversion of ImageReward.pt to a folder."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from alignment.conversion.imagereward import _tokenizer_of, bert_tokenizer, write_imagereward

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "##s"]


def test_sizes_follow_from_the_weights_and_epsilons_are_those_of_blip(
    tiny_blip: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    write_imagereward(tiny_blip, tmp_path, tokenizer=_tokenizer_of(WORDS), vision_heads=4, text_heads=3)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["vision"]["image_size"], config["vision"]["num_hidden_layers"]) == (32, 1)
    assert (config["text"]["num_hidden_layers"], config["text"]["encoder_hidden_size"]) == (2, 16)
    assert (config["vision"]["layer_norm_eps"], config["text"]["layer_norm_eps"]) == (1e-6, 1e-12)
    weights = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert not [name for name in weights if "vision_proj" in name or "position_ids" in name]
    assert torch.equal(weights["vision.embeddings.class_embedding"], tiny_blip["blip.visual_encoder.cls_token"].float())


def test_the_two_extra_tokens_of_blip_come_last(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    tokenizer = bert_tokenizer(tmp_path)
    assert tokenizer.convert_tokens_to_ids(["[DEC]", "[ENC]"]) == [7, 8]
    assert tokenizer("REDs").input_ids == [2, 5, 6, 3]
    with pytest.raises(ValueError, match=r"no vocab\.txt"):
        bert_tokenizer(tmp_path / "elsewhere")


def test_another_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not ImageReward\.pt"):
        write_imagereward({"a": torch.ones(1)}, tmp_path, tokenizer=_tokenizer_of(WORDS))
