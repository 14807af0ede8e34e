"""Tiny bases of the larger families, built from the real classes' configurations: 64 px images, 8x8 latents."""

from pathlib import Path
from typing import Any

import pytest
import torch

Tokens = tuple[dict[str, int], list[tuple[str, str]]]


def clip_tokenizer(tokens: Tokens) -> Any:
    """A tokenizer with 12 tokens per caption, the length that the text encoders read."""
    from transformers import CLIPTokenizer

    vocabulary, merges = tokens
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=12)


def clip_text_config(tokenizer: Any, *, hidden_size: int = 16, projection_dim: int = 16) -> Any:
    """Three layers, so that the penultimate states are not the embeddings."""
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=12,
        projection_dim=projection_dim,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )


def tiny_vae(**changes: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
        sample_size=64,
        **{"latent_channels": 4, **changes},
    )


@pytest.fixture(scope="session")
def tiny_sdxl_dir(tiny_tokens: Tokens, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved StableDiffusionXLPipeline: two text encoders of widths 16 and 24, epsilon, SDXL's scheduler."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = clip_tokenizer(tiny_tokens)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(16, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2),
            cross_attention_dim=40,
            attention_head_dim=(2, 4),
            norm_num_groups=8,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 20,
        )
        vae = tiny_vae(scaling_factor=0.13025, force_upcast=True)
        text_encoder = CLIPTextModel(clip_text_config(tokenizer))
        text_encoder_2 = CLIPTextModelWithProjection(clip_text_config(tokenizer, hidden_size=24, projection_dim=20))
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1
    )
    folder = tmp_path_factory.mktemp("tiny_sdxl") / "base"
    StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
        tokenizer=tokenizer,
        tokenizer_2=clip_tokenizer(tiny_tokens),
        unet=unet,
        scheduler=scheduler,
        add_watermarker=False,
    ).save_pretrained(folder, safe_serialization=True)
    return folder


def t5_tokenizer() -> Any:
    """A unigram tokenizer of words and letters."""
    from transformers import T5TokenizerFast

    words = ["a", "plain", "picture", "red", "green", "blue", "white"]
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = ["<pad>", "</s>", "<unk>", "▁", *(f"▁{word}" for word in words), *letters]
    vocabulary = [(piece, -1.0 if piece.startswith("▁") else -5.0) for piece in dict.fromkeys(pieces)]
    return T5TokenizerFast(vocab=vocabulary, extra_ids=0, model_max_length=32)


def t5_encoder(tokenizer: Any) -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=2, dropout_rate=0.0)
    )


@pytest.fixture(scope="session")
def tiny_sd3_dir(tiny_tokens: Tokens, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved StableDiffusion3Pipeline: CLIPs of widths 16 and 12, T5 of 32, shift 3."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import CLIPTextModelWithProjection

    tokenizer, t5 = clip_tokenizer(tiny_tokens), t5_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=8,
            out_channels=8,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=16,
            pooled_projection_dim=20 + 12,
            pos_embed_max_size=8,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        )
        pipeline = StableDiffusion3Pipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=flow_vae(),
            text_encoder=CLIPTextModelWithProjection(clip_text_config(tokenizer, projection_dim=20)),
            tokenizer=tokenizer,
            text_encoder_2=CLIPTextModelWithProjection(clip_text_config(tokenizer, hidden_size=12, projection_dim=12)),
            tokenizer_2=clip_tokenizer(tiny_tokens),
            text_encoder_3=t5_encoder(t5),
            tokenizer_3=t5,
        )
    folder = tmp_path_factory.mktemp("tiny_sd3") / "base"
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def flow_vae() -> Any:
    return tiny_vae(
        latent_channels=8, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False
    )


@pytest.fixture(scope="session")
def tiny_flux_dir(tiny_tokens: Tokens, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved FluxPipeline, guidance-distilled, with a shift that grows with the image."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextModel

    tokenizer, t5 = clip_tokenizer(tiny_tokens), t5_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = FluxTransformer2DModel(
            patch_size=1,
            in_channels=32,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=16,
            axes_dims_rope=(4, 6, 6),
            guidance_embeds=True,
        )
        pipeline = FluxPipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
            vae=flow_vae(),
            text_encoder=CLIPTextModel(clip_text_config(tokenizer)),
            tokenizer=tokenizer,
            text_encoder_2=t5_encoder(t5),
            tokenizer_2=t5,
        )
    folder = tmp_path_factory.mktemp("tiny_flux") / "base"
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder
