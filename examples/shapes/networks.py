"""The tiny networks of the shapes world, in the classes and folder layout of diffusers and transformers.

Shape letters: B batch, L caption tokens, C H W channels and sides.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from drawing import BACKGROUNDS, CANVAS, HUES, RADII, SHAPES
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer, CLIPVisionConfig

MAX_TOKENS = 16
WIDTH = 64
LATENT_SIDE = CANVAS // 8
START, END = "<|startoftext|>", "<|endoftext|>"
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
_EXTRA_WORDS = ("a", "an", "the", "on", "in", "of", "with", "and", "background", "shape", "picture")


def caption_words() -> tuple[str, ...]:
    """Every word that is a single token."""
    return tuple(sorted({*_EXTRA_WORDS, *RADII, *HUES, *SHAPES, *BACKGROUNDS}))


def _byte_letters() -> list[str]:
    """The 256 letters that byte-level BPE writes bytes with: printable ones as themselves, the rest from 256 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


def _pieces(word: str, merges: Sequence[tuple[str, str]]) -> list[str]:
    """Split a word by BPE: the earliest merge that applies is applied first."""
    parts = [*word[:-1], word[-1] + "</w>"]
    for left, right in merges:
        index = 0
        while index < len(parts) - 1:
            if (parts[index], parts[index + 1]) == (left, right):
                parts[index : index + 2] = [left + right]
            index += 1
    return parts


def vocabulary(words: Sequence[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A byte-level BPE vocabulary and its merges, in which each of the words is one token."""
    merges: list[tuple[str, str]] = []
    for word in words:
        parts = _pieces(word, merges)
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts[:2] = [parts[0] + parts[1]]
    letters = _byte_letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in merges), START, END]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}, merges


def make_tokenizer() -> CLIPTokenizer:
    """The tokenizer that the pipeline and the judges share."""
    vocab, merges = vocabulary(caption_words())
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_TOKENS)


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Save in today's one-file form and, for older readers, as vocab.json and merges.txt."""
    tokenizer.save_pretrained(folder)
    vocab, merges = vocabulary(caption_words())
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")


def tokenize(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> torch.Tensor:
    """Token ids [B, L], padded to the model's length as StableDiffusionPipeline does."""
    batch = tokenizer(list(captions), padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
    ids = batch["input_ids"]
    assert isinstance(ids, torch.Tensor)
    return ids


def _text_config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        projection_dim=WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The pipeline's text encoder, untrained."""
    return CLIPTextModel(_text_config(tokenizer))


def make_vae() -> AutoencoderKL:
    """An autoencoder from [B, 3, 64, 64] to [B, 4, 8, 8], untrained.

    Few groups per norm and no attention: norms over one or two channels wipe out flat colour, which is most of this
    world, and without attention it can learn on crops.
    """
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 24, 32, 48),
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=CANVAS,
        mid_block_add_attention=False,
    )


def make_unet() -> UNet2DConditionModel:
    """The denoiser, untrained."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIDE,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(48, 72),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=4,
        cross_attention_dim=WIDTH,
    )


def make_scheduler() -> DDIMScheduler:
    """The noise schedule. Linear betas, so that the last step keeps almost nothing of the picture's mean colour."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="linear",
        beta_start=0.0001,
        beta_end=0.02,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


def make_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """A judge's two towers, untrained."""
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=CANVAS,
        patch_size=8,
        projection_dim=WIDTH,
    )
    text = _text_config(tokenizer)
    return CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=WIDTH))


def judge_pixels(images_BHWC: torch.Tensor) -> torch.Tensor:
    """uint8 images as the judges' normalised input [B, 3, H, W], as their image processor makes it."""
    pixels = images_BHWC.permute(0, 3, 1, 2).float() / 255.0
    mean = torch.tensor(_MEAN, device=pixels.device)[:, None, None]
    return (pixels - mean) / torch.tensor(_STD, device=pixels.device)[:, None, None]


def save_judge(model: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write a judge as a transformers folder: CLIPModel, CLIPTokenizer and a CLIPImageProcessor configuration."""
    model.to("cpu").save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": CANVAS},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": CANVAS, "width": CANVAS},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": _MEAN,
        "image_std": _STD,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")


def save_pipeline(
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    *,
    tokenizer: CLIPTokenizer,
    folder: Path,
) -> None:
    """Write the base model as a StableDiffusionPipeline folder."""
    pipeline = StableDiffusionPipeline(
        vae=vae.to("cpu"),
        text_encoder=text_encoder.to("cpu"),
        tokenizer=tokenizer,
        unet=unet.to("cpu"),
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    save_tokenizer(tokenizer, folder / "tokenizer")
