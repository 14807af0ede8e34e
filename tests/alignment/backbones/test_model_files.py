"""All files that a base's folder lacks are named in one error."""

import json
from pathlib import Path

import pytest

from alignment.backbones.model_files import WeightFile, absent_parts, require_parts


def complete(folder: Path) -> Path:
    for name in (
        "model_index.json",
        "scheduler/scheduler_config.json",
        *(f"{part}/config.json" for part in ("unet", "vae", "text_encoder")),
        *(f"{part}/diffusion_pytorch_model.safetensors" for part in ("unet", "vae")),
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer.json",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def check(folder: Path) -> None:
    require_parts(folder, "unet", text_encoders=["text_encoder"], tokenizers=["tokenizer"])


def test_a_complete_folder_passes_in_each_layout_of_weights_and_tokenizer(tmp_path: Path) -> None:
    check(complete(tmp_path))
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("part-1.safetensors"))
    index = weights.with_name("diffusion_pytorch_model.safetensors.index.json")
    index.write_text(json.dumps({"weight_map": {"a": "part-1.safetensors"}}))
    for names in (("vocab.json", "merges.txt"), ("spiece.model",)):
        for path in (tmp_path / "tokenizer").iterdir():
            path.unlink()
        for name in names:
            (tmp_path / "tokenizer" / name).touch()
        check(tmp_path)


def test_every_missing_file_is_named_once_in_one_error(tmp_path: Path) -> None:
    folder = complete(tmp_path)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")
    (folder / "text_encoder" / "config.json").unlink()
    (folder / "tokenizer" / "tokenizer.json").rename(folder / "tokenizer" / "vocab.json")
    with pytest.raises(ValueError) as refused:
        check(folder)
    message = str(refused.value)
    for name in ("unet/diffusion_pytorch_model.safetensors", "text_encoder/config.json", "tokenizer/tokenizer.json"):
        assert message.count(name) == 1
    assert "vae/" not in message
    assert "save_pretrained" in message


def test_a_name_without_suffix_means_safetensors(tmp_path: Path) -> None:
    assert str(WeightFile("model")) == "model.safetensors"
    assert not WeightFile("model").present(tmp_path)


def test_absent_parts_are_those_whose_class_is_null(tmp_path: Path) -> None:
    assert absent_parts(tmp_path) == set()
    index = {"_class_name": "X", "vae": ["diffusers", "Y"], "text_encoder_3": [None, None], "force": True, "none": None}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert absent_parts(tmp_path) == {"text_encoder_3"}
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        absent_parts(tmp_path)


def test_every_shard_must_exist_inside_the_folder(tmp_path: Path) -> None:
    folder = complete(tmp_path / "base")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("part-1.safetensors"))
    index = weights.with_name("diffusion_pytorch_model.safetensors.index.json")
    index.write_text(json.dumps({"weight_map": {"a": "part-1.safetensors"}}))
    check(folder)
    index.write_text(json.dumps({"weight_map": {"a": "part-1.safetensors", "b": "part-2.safetensors"}}))
    with pytest.raises(ValueError, match="lacks unet/diffusion_pytorch_model"):
        check(folder)
    index.write_text(json.dumps({"weight_map": {"a": "../../part-1.safetensors"}}))
    with pytest.raises(ValueError, match="does not stay inside"):
        check(folder)
