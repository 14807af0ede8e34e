"""Imports end to end: a published file becomes a judge's folder with its origin pinned; or one error and no folder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from alignment.catalogues.rewards import AestheticV2, ClipHead, ImageReward, PickScore, Reward
from alignment.contracts.judges import Judge
from alignment.conversion.catalogue import ImportRequest
from alignment.files.durable import content_digest, file_sha256
from alignment.jobs.import_judge import _import_judge, main
from alignment.rewards.clip_model import ClipModel
from alignment.rewards.interface import load_scorer

pytestmark = pytest.mark.timeout(180)

CPU = torch.device("cpu")
PICTURE = Image.linear_gradient("L").resize((40, 60)).convert("RGB")


def score(scorer: Reward, folder: Path) -> float:
    judge = Judge(name="j", scorer=scorer, weights_digest=content_digest(folder))
    return load_scorer(judge, folder, CPU).score([PICTURE], ["a red circle"]).item()


@pytest.fixture
def head(tmp_path: Path, tiny_clip_dir: Path) -> Path:
    weight = torch.linspace(-1, 1, ClipModel(tiny_clip_dir, CPU).width)[None]
    torch.save({"weight": weight, "bias": torch.tensor([5.0])}, tmp_path / "head.pth")
    return tmp_path / "head.pth"


def test_a_head_comes_with_its_clip_and_its_origin(tmp_path: Path, tiny_clip_dir: Path, head: Path) -> None:
    out = tmp_path / "judge"
    request = ImportRequest(kind="clip_head", source=str(head), base=str(tiny_clip_dir))
    _import_judge(request, out)
    record = json.loads((out / "import.json").read_text())
    assert record["source_sha256"]["head.pth"] == file_sha256(head)
    assert record["source_sha256"]["model.safetensors"] == file_sha256(tiny_clip_dir / "model.safetensors")
    assert record["request"]["source"] == "head.pth"
    embedding = ClipModel(tiny_clip_dir, CPU).embed_images([PICTURE])[0]
    expected = float(embedding @ load_file(out / "head.safetensors")["weight"][0]) + 5
    assert score(ClipHead(), out) == pytest.approx(expected, abs=1e-5)
    again = tmp_path / "again"
    _import_judge(request, again)
    assert content_digest(again) == content_digest(out)


def test_a_file_with_an_unpublished_digest_needs_sha256(tmp_path: Path, tiny_clip_dir: Path, head: Path) -> None:
    request = ImportRequest(kind="aesthetic_v2", source=str(head), base=str(tiny_clip_dir))
    with pytest.raises(ValueError, match="none of the published files"):
        _import_judge(request, tmp_path / "judge")
    with pytest.raises(ValueError, match="Download it again"):
        _import_judge(request.model_copy(update={"sha256": "0" * 64}), tmp_path / "judge")
    assert not list(tmp_path.glob("*judge*"))
    _import_judge(request.model_copy(update={"sha256": file_sha256(head)}), tmp_path / "judge")
    assert json.loads((tmp_path / "judge" / "import.json").read_text())["is_published"] is False
    assert score(AestheticV2(), tmp_path / "judge") == pytest.approx(5, abs=3)


def test_a_pickled_clip_becomes_safetensors(tmp_path: Path, tiny_clip_dir: Path) -> None:
    source, side = tmp_path / "source", tmp_path / "side"
    source.mkdir()
    shutil.copy(tiny_clip_dir / "config.json", source)
    torch.save(load_file(tiny_clip_dir / "model.safetensors"), source / "pytorch_model.bin")
    request = ImportRequest(kind="pickscore", source=str(source))
    with pytest.raises(ValueError, match=r"lacks preprocessor_config\.json, tokenizer\.json"):
        _import_judge(request, tmp_path / "judge")
    shutil.copytree(tiny_clip_dir, side)
    _import_judge(request.model_copy(update={"base": str(side)}), tmp_path / "judge")
    assert score(PickScore(), tmp_path / "judge") == pytest.approx(score(PickScore(), tiny_clip_dir), abs=1e-5)


def test_imagereward_needs_berts_vocabulary(tmp_path: Path, tiny_blip: dict[str, torch.Tensor]) -> None:
    torch.save(tiny_blip, tmp_path / "ImageReward.pt")
    bert = tmp_path / "bert"
    bert.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "circle"]
    (bert / "vocab.txt").write_text("\n".join(words))
    request = ImportRequest(kind="imagereward", source=str(tmp_path / "ImageReward.pt"))
    with pytest.raises(ValueError, match="--base is needed"):
        _import_judge(request, tmp_path / "judge")
    # The tiny towers have heads narrower than the published 64, which the folder's config would state as none.
    with pytest.raises(ValueError, match="attention head"):
        _import_judge(request.model_copy(update={"base": str(bert)}), tmp_path / "judge")
    assert not (tmp_path / "judge").exists()
    assert ImageReward().kind == "imagereward"


def test_the_command_prints_json_or_one_line(
    tmp_path: Path, tiny_clip_dir: Path, head: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = tmp_path / "request.json"
    good = ImportRequest(kind="clip_head", source=str(head), base=str(tiny_clip_dir))
    request.write_text(good.model_dump_json())
    out = tmp_path / "judge"
    assert main(["--request", str(request), "--out", str(out)]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["digest"] == content_digest(out)
    assert main(["--request", str(request), "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
    request.write_text(good.model_copy(update={"kind": "hpsv4"}).model_dump_json())
    assert main(["--request", str(request), "--out", str(tmp_path / "b")]) == 2
    assert "Did you mean" in capsys.readouterr().err


def clip_with(tiny_clip_dir: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> ImportRequest:
    """Copy the CLIP, change its weights, and return the request that imports it."""
    shutil.copytree(tiny_clip_dir, folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return ImportRequest(kind="pickscore", source=str(folder))


def kill_layer(weights: dict[str, torch.Tensor]) -> None:
    weights["vision_model.encoder.layers.0.mlp.fc1.weight"].zero_()


def spoil_value(weights: dict[str, torch.Tensor]) -> None:
    weights["text_projection.weight"][0, 0] = float("nan")


def drop_layer(weights: dict[str, torch.Tensor]) -> None:
    del weights["vision_model.encoder.layers.0.mlp.fc1.weight"]


def swap_projections(weights: dict[str, torch.Tensor]) -> None:
    """The towers of published CLIPs differ in width; here that of the images becomes wider."""
    wide = torch.cat([weights["visual_projection.weight"], weights["visual_projection.weight"]], dim=1)
    weights["visual_projection.weight"] = weights["text_projection.weight"]
    weights["text_projection.weight"] = wide


def blind_to_images(weights: dict[str, torch.Tensor]) -> None:
    weights["vision_model.post_layernorm.weight"].zero_()
    weights["vision_model.post_layernorm.bias"].fill_(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (kill_layer, r"zeros only \(vision_model\.encoder\.layers\.0\.mlp\.fc1\.weight\)"),
        (spoil_value, "not finite"),
        (drop_layer, "lacks 1 weights, which would be random"),
        (swap_projections, "wrong shapes for"),
        (blind_to_images, "the same score whatever the image"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_damaged_weights_are_refused_and_leave_no_folder(
    tmp_path: Path, tiny_clip_dir: Path, change: Callable[[dict[str, torch.Tensor]], None], message: str
) -> None:
    request = clip_with(tiny_clip_dir, tmp_path / "source", change)
    with pytest.raises(ValueError, match=message):
        _import_judge(request, tmp_path / "judge")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
