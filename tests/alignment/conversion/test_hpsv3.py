"""Conversion of HPSv3.safetensors to a folder, and the rubric."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from alignment.conversion.hpsv3 import read_instruction, write_hpsv3

RUBRIC = "Look.\nPrompt: {text_prompt}\nRate: <|Reward|>"


def test_names_are_converted_the_language_head_dropped_and_the_extra_token_counted(
    tiny_qwen: tuple[dict[str, object], dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    config, weights = tiny_qwen
    half = {name: tensor.bfloat16() for name, tensor in weights.items()}
    write_hpsv3(half, tmp_path, config=config, instruction=RUBRIC)
    written = load_file(tmp_path / "model.safetensors")
    assert torch.equal(written["language_model.norm.weight"], half["model.norm.weight"])
    assert {name.split(".")[0] for name in written} == {"language_model", "visual"}
    assert set(load_file(tmp_path / "head.safetensors")) == {f"{n}.{p}" for n in (0, 3, 5) for p in ("weight", "bias")}
    assert json.loads((tmp_path / "config.json").read_text())["vocab_size"] == 14
    assert (tmp_path / "instruction.txt").read_text() == RUBRIC


def test_the_rubric_is_read_from_the_authors_module_without_running_it(tmp_path: Path) -> None:
    module = tmp_path / "data_collator_qwen.py"
    module.write_text(
        "import nowhere\nraise SystemExit\nINSTRUCTION = '''Look: {text_prompt} \n'''\n"
        "prompt_with_special_token = 'Rate <|Reward|>'\n"
    )
    assert read_instruction(module) == "Look: {text_prompt} \nRate <|Reward|>"
    module.write_text("INSTRUCTION = open('x').read()\n")
    with pytest.raises(ValueError, match="no text INSTRUCTION, prompt_with_special_token"):
        read_instruction(module)


@pytest.mark.parametrize("text", ["no marks", "{text_prompt}", "{text_prompt} <|Reward|> <|Reward|>"])
def test_a_rubric_without_its_marks_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "rubric.txt").write_text(text)
    with pytest.raises(ValueError, match="must contain"):
        read_instruction(tmp_path / "rubric.txt")
