"""Exports end to end: a weights folder becomes another program's files, or one error and no folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from alignment.backbones.model_files import LORA_FILE, LORA_METADATA
from alignment.catalogues.backbones import BACKBONES
from alignment.contracts.export import FORMATS, ExportRequest, Family, check_format
from alignment.conversion.export import write_export
from alignment.files.durable import content_digest
from alignment.jobs.export_weights import main

pytestmark = pytest.mark.timeout(180)

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
COMFYUI_BLOCKS = ("down_blocks.", "mid_block.", "up_blocks.", "conv_", "time_embedding.linear_")
"""Beginnings of the names that ComfyUI's loader of diffusion models knows in a UNet of diffusers."""


def request(**changes: Any) -> ExportRequest:
    fields = {"format": "kohya", "kind": "lora", "family": "stable_diffusion", "name": "shapes-v3"}
    return ExportRequest.model_validate({**fields, **changes})


@pytest.fixture
def lora_dir(tmp_path: Path) -> Path:
    """A weights folder with an adapter of one layer, rank 2 and alpha 6."""
    folder = tmp_path / "weights"
    folder.mkdir()
    tensors = {
        f"unet.{LAYER}.lora.down.weight": torch.arange(8.0).reshape(2, 4),
        f"unet.{LAYER}.lora.up.weight": torch.arange(6.0).reshape(3, 2),
    }
    save_file(tensors, folder / LORA_FILE, {LORA_METADATA: json.dumps({"unet.r": 2, "unet.lora_alpha": 6})})
    return folder


@pytest.fixture
def full_dir(tmp_path: Path) -> Path:
    """A weights folder with a denoiser in several shards."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            layers_per_block=1,
            block_out_channels=(8, 16),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=8,
            attention_head_dim=4,
            norm_num_groups=4,
        )
    unet.save_pretrained(tmp_path / "weights" / "unet", max_shard_size="60KB")
    assert len(list((tmp_path / "weights" / "unet").glob("*.safetensors"))) > 1
    return tmp_path / "weights"


@pytest.fixture
def export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[ExportRequest, Path, Path], dict[str, Any]]:
    """Run the job and return its record; a failed job gives its code and its error."""

    def run(wanted: ExportRequest, weights_dir: Path, out: Path) -> dict[str, Any]:
        (tmp_path / "request.json").write_text(wanted.model_dump_json())
        options = {"request": tmp_path / "request.json", "weights": weights_dir, "out": out}
        code = main([part for name, path in options.items() for part in (f"--{name}", str(path))])
        shown = capsys.readouterr()
        record: dict[str, Any] = json.loads(shown.out) if code == 0 else {"code": code, "error": shown.err}
        return record

    return run


def test_every_backbone_is_a_family_of_exports() -> None:
    assert {own.model_fields["name"].default for own in BACKBONES} == set(get_args(Family))


@pytest.mark.parametrize("format", ["kohya", "comfyui"])
def test_an_adapter_becomes_one_file_with_its_alpha(
    format: str, lora_dir: Path, tmp_path: Path, export: Callable[..., dict[str, Any]]
) -> None:
    record = export(request(format=format), lora_dir, tmp_path / "out")
    assert record == {"files": ["shapes-v3.safetensors"], "num_layers": 1}
    written = load_file(tmp_path / "out" / "shapes-v3.safetensors")
    name = f"lora_unet_{LAYER.replace('.', '_')}"
    assert set(written) == {f"{name}.{end}" for end in ("lora_down.weight", "lora_up.weight", "alpha")}
    assert written[f"{name}.alpha"].shape == ()
    assert written[f"{name}.alpha"].item() == 6
    with safe_open(tmp_path / "out" / "shapes-v3.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_the_format_of_diffusers_is_the_registered_file(
    lora_dir: Path, tmp_path: Path, export: Callable[..., dict[str, Any]]
) -> None:
    assert export(request(format="diffusers"), lora_dir, tmp_path / "out")["files"] == [LORA_FILE]
    assert content_digest(tmp_path / "out") == content_digest(lora_dir)


def test_a_full_fine_tune_is_a_folder_of_diffusers(
    full_dir: Path, tmp_path: Path, export: Callable[..., dict[str, Any]]
) -> None:
    record = export(request(format="diffusers", kind="full"), full_dir, tmp_path / "out")
    assert content_digest(tmp_path / "out") == content_digest(full_dir)
    assert "unet/config.json" in record["files"]
    UNet2DConditionModel.from_pretrained(tmp_path / "out", subfolder="unet", use_safetensors=True)


def test_a_full_fine_tune_is_one_file_for_comfyui(
    full_dir: Path, tmp_path: Path, export: Callable[..., dict[str, Any]]
) -> None:
    record = export(request(format="comfyui", kind="full"), full_dir, tmp_path / "out")
    assert record == {"files": ["shapes-v3.safetensors"], "num_layers": 0}
    written = load_file(tmp_path / "out" / "shapes-v3.safetensors")
    assert all(name.startswith(COMFYUI_BLOCKS) for name in written)
    trained = UNet2DConditionModel.from_pretrained(full_dir, subfolder="unet").state_dict()
    assert written.keys() == trained.keys()
    assert all(torch.equal(written[name], trained[name]) for name in trained)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "full"}, "Weights of kind 'full' cannot be exported as 'kohya'. Possible: diffusers, comfyui."),
        ({"family": "sd3"}, "does not state"),
    ],
)
def test_a_bad_request_is_one_line_and_leaves_no_folder(
    changes: dict[str, str],
    message: str,
    lora_dir: Path,
    tmp_path: Path,
    export: Callable[..., dict[str, Any]],
) -> None:
    if changes == {"family": "sd3"}:
        save_file(load_file(lora_dir / LORA_FILE), lora_dir / LORA_FILE)
    failed = export(request(**changes), lora_dir, tmp_path / "out")
    assert failed["code"] == 2
    assert message in failed["error"]
    assert len(failed["error"].splitlines()) == 1
    assert not list(tmp_path.glob("*out*"))


def test_a_folder_that_exists_is_not_touched(
    lora_dir: Path, tmp_path: Path, export: Callable[..., dict[str, Any]]
) -> None:
    (tmp_path / "out").mkdir()
    assert "exists already" in export(request(), lora_dir, tmp_path / "out")["error"]
    assert not any((tmp_path / "out").iterdir())


def test_unknown_formats_are_answered_with_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match=r"Unknown format 'koya'\. Did you mean 'kohya'\? Known: comfyui, diffusers, k"
    ):
        check_format("koya", "lora")
    assert set(FORMATS) == {"lora", "full"}


def test_an_empty_folder_holds_no_denoiser(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    with pytest.raises(ValueError, match="holds no safetensors file"):
        write_export(request(format="comfyui", kind="full"), tmp_path / "weights", tmp_path)
