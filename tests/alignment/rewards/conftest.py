"""A CLIP of a few thousand random weights in transformers' layout."""

import string
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

PROMPTS = ("a red circle", "blue", "a green square on a white background and then many more words than fit")


@pytest.fixture(scope="session")
def tiny_clip_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLIPModel, CLIPTokenizer (letters only, 16 tokens) and CLIPImageProcessor (32 px)."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    letters = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    vocabulary = {piece: i for i, piece in enumerate(["<|startoftext|>", "<|endoftext|>", *letters])}
    text = {"vocab_size": len(vocabulary), "max_position_embeddings": 16, "eos_token_id": 1, "bos_token_id": 0}
    width = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {"image_size": 32, "patch_size": 8}
    config = CLIPConfig(
        text_config={**text, **width, "pad_token_id": 1},
        vision_config={**vision, **width},
        projection_dim=8,
        logit_scale_init_value=3.0,
        initializer_factor=8.0,
    )
    folder = tmp_path_factory.mktemp("tiny_clip") / "judge"
    with torch.random.fork_rng():
        torch.manual_seed(5)
        CLIPModel(config).save_pretrained(folder)
    CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77).save_pretrained(folder)
    side = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=side).save_pretrained(folder)
    return folder


@pytest.fixture
def pictures() -> list[Image.Image]:
    """Three images of different sizes and modes."""
    rng = np.random.default_rng(2)
    sizes = ((64, 64), (50, 80), (90, 40))
    images = [Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in sizes]
    images[1] = images[1].convert("L")
    return images


@pytest.fixture
def captions() -> list[str]:
    """One caption per picture; the last is longer than the text encoder reads."""
    return list(PROMPTS)
