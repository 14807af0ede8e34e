"""Loading a CLIP and its cosines, against transformers' own forward pass."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from alignment.rewards.clip_model import ClipModel

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def clip(tiny_clip_dir: Path) -> ClipModel:
    return ClipModel(tiny_clip_dir, torch.device("cpu"))


def logits(folder: Path, images: list[Image.Image], texts: list[str]) -> torch.Tensor:
    """logits_per_image BB as transformers computes them."""
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    tokens = CLIPTokenizer.from_pretrained(folder)(
        texts, padding=True, truncation=True, max_length=16, return_tensors="pt"
    )
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(
        images=[image.convert("RGB") for image in images], return_tensors="pt"
    )
    model = CLIPModel.from_pretrained(folder, use_safetensors=True).eval()
    with torch.no_grad():
        return model(**tokens, **pixels).logits_per_image


def test_cosines_equal_those_of_the_transformers_model(
    clip: ClipModel, tiny_clip_dir: Path, pictures: list[Image.Image], captions: list[str]
) -> None:
    expected = logits(tiny_clip_dir, pictures, captions).diagonal() / clip.logit_scale
    found = clip.cosines(pictures, captions)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert found.std() > 1e-3


def test_a_pair_scores_the_same_alone_and_in_any_batch(
    clip: ClipModel, pictures: list[Image.Image], captions: list[str]
) -> None:
    together = clip.cosines([*pictures, pictures[0]], [*captions, captions[2]])
    alone = [clip.cosines([image], [text]) for image, text in zip(pictures, captions, strict=True)]
    torch.testing.assert_close(together[:3], torch.cat(alone), atol=1e-6, rtol=0)
    torch.testing.assert_close(together[3:], clip.cosines(pictures[:1], captions[2:]), atol=1e-6, rtol=0)


def test_a_long_text_is_cut_and_keeps_its_end_token(clip: ClipModel, captions: list[str]) -> None:
    long, longer = captions[2], captions[2] + " with yet another ending"
    torch.testing.assert_close(clip.embed_texts([long]), clip.embed_texts([longer]), atol=1e-6, rtol=0)
    assert (clip.embed_texts([long]) - clip.embed_texts([long[:3]])).abs().max() > 1e-3


def test_embeddings_have_unit_length_and_no_gradient(clip: ClipModel, pictures: list[Image.Image]) -> None:
    embeddings = clip.embed_images(pictures)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(3))
    assert not embeddings.requires_grad


def test_unequal_lengths_are_refused_and_empty_inputs_allowed(clip: ClipModel, pictures: list[Image.Image]) -> None:
    assert clip.cosines([], []).shape == (0,)
    with pytest.raises(ValueError, match="3 images for 1 prompts"):
        clip.cosines(pictures, ["a"])


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(tiny_clip_dir: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "judge"
    shutil.copytree(tiny_clip_dir, folder)
    for path in [folder / name, folder / "vocab.json"]:
        path.unlink(missing_ok=True)
    with pytest.raises(ValueError, match=name):
        ClipModel(folder, torch.device("cpu"))


def test_a_weight_that_would_be_random_is_refused(tiny_clip_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "judge"
    shutil.copytree(tiny_clip_dir, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights, which would be random \(text_projection\.weight\)"):
        ClipModel(folder, torch.device("cpu"))


def test_pickled_weights_are_not_loaded(tiny_clip_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "judge"
    shutil.copytree(tiny_clip_dir, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        ClipModel(folder, torch.device("cpu"))
