"""A folder that is not a captioner is refused before a job is queued."""

import json
from pathlib import Path

import pytest

from alignment.labelling.captioner_files import CAPTIONER_CLASS, check_captioner_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("model.safetensors", "processor_config.json", "tokenizer.json"):
        (tmp_path / name).write_text("")
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [CAPTIONER_CLASS]}))
    return tmp_path


def test_a_complete_folder_passes_in_both_layouts(folder: Path) -> None:
    check_captioner_files(folder)
    for new, old in (("processor_config.json", "preprocessor_config.json"), ("tokenizer.json", "vocab.txt")):
        (folder / new).rename(folder / old)
    (folder / "model.safetensors").rename(folder / "model.safetensors.index.json")
    check_captioner_files(folder)


def test_every_missing_file_is_named(folder: Path) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).unlink()
    (folder / "pytorch_model.bin").write_text("")
    expected = r"lacks config.json, model.safetensors or model.safetensors.index.json, tokenizer.json or vocab.txt\."
    with pytest.raises(ValueError, match=expected):
        check_captioner_files(folder)


@pytest.mark.parametrize(
    ("config", "named"),
    [({"architectures": ["BlipForImageTextRetrieval"]}, "BlipForImageTextRetrieval"), ({}, "no class")],
)
def test_another_class_is_refused_by_name(folder: Path, config: dict[str, object], named: str) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"is of {named}, but captions come from BlipForConditionalGeneration"):
        check_captioner_files(folder)


def test_a_config_that_is_not_json_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        check_captioner_files(folder)
