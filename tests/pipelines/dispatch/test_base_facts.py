"""Facts of a base from configurations alone, for each family, with the published values and with tiny ones."""

from pathlib import Path
from typing import Any

import pytest
from made_bases import FLUX, SD, SD3, XL, make_base

from alignment.catalogues.backbones import SDXL, Flux, StableDiffusion, StableDiffusion3
from pipelines.dispatch.base_facts import _usual_facts, licence_of, read_base_facts

ROOT = Path(__file__).parents[3]
KIB = 1024


@pytest.mark.parametrize(
    ("denoiser", "vae", "backbone", "latent", "text_kib"),
    [
        (SD, {}, StableDiffusion(resolution=512), (4, 64, 64), 231),
        ({**SD, "sample_size": 96}, {}, StableDiffusion(resolution=768), (4, 96, 96), 231),
        (XL, {}, SDXL(), (4, 128, 128), 621),
        (SD3, {"latent_channels": 16}, StableDiffusion3(), (16, 128, 128), 2672),
        (FLUX, {"latent_channels": 16, "sample_size": 1024}, Flux(), (16, 128, 128), 4099),
        (FLUX, {"latent_channels": 16}, Flux(), (16, 128, 128), 4099),
        (FLUX, {"latent_channels": 16, "sample_size": 64}, Flux(resolution=64), (16, 8, 8), 4099),
    ],
    ids=["sd15", "sd21", "sdxl", "sd3", "flux", "flux without a size", "tiny flux"],
)
def test_family_resolution_and_features_of_each_family(
    tmp_path: Path, denoiser: Any, vae: Any, backbone: Any, latent: tuple[int, int, int], text_kib: int
) -> None:
    facts = read_base_facts(make_base(tmp_path, denoiser, **vae))
    assert (facts.backbone, facts.latent_shape, facts.text_bytes // KIB) == (backbone, latent, text_kib)


@pytest.mark.parametrize(
    ("denoiser", "vae"), [(SD, 4), (XL, 4), (SD3, 16), (FLUX, 16)], ids=["sd15", "sdxl", "sd3", "flux"]
)
def test_the_usual_facts_are_those_of_the_published_configurations(tmp_path: Path, denoiser: Any, vae: int) -> None:
    facts = read_base_facts(make_base(tmp_path, denoiser, latent_channels=vae))
    assert _usual_facts(facts.backbone) == facts


def test_the_shapes_base_is_read() -> None:
    facts = read_base_facts(ROOT / "examples/shapes/base")
    assert (facts.backbone, facts.latent_shape) == (StableDiffusion(resolution=64), (4, 8, 8))
    assert facts.text_bytes == 77 * 64 * 4
    assert facts.feature_bytes(10, 5) == 10 * 4 * (4 * 8 * 8) * 4 + 5 * 77 * 64 * 4


@pytest.mark.parametrize(
    ("denoiser", "complaint"),
    [
        ({**SD, "in_channels": 9}, r"reads 9 channels and predicts 4, as for inpainting"),
        (
            {**SD3, "_class_name": "PixArtTransformer2DModel"},
            r"denoiser 'PixArtTransformer2DModel', which",
        ),
        ({**SD, "sample_size": 4}, r"resolution: Input should be greater than or equal to 64 \(got 32\)"),
    ],
)
def test_a_base_that_cannot_be_trained_is_refused(tmp_path: Path, denoiser: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read_base_facts(make_base(tmp_path, denoiser))


def test_a_folder_that_is_no_base_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model_index\.json cannot be read .* A base model is a folder in diffusers'"):
        read_base_facts(tmp_path)
    (make_base(tmp_path, SD) / "vae/config.json").write_text("{")
    with pytest.raises(ValueError, match=r"vae/config\.json is not JSON"):
        read_base_facts(tmp_path)


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: openrail++\ntags:\n- x\n---\n# A model\n", "openrail++"),
        ("---\nlanguage: en\nlicense: 'mit'\n---\n", "mit"),
        ("---\nlicense: other\nlicense_name: flux-1-dev\n---\n", "flux-1-dev"),
        ("---\nlicense: other\n---\n", "other"),
        ("# A model\nlicense: mit\n", ""),
        ("---\ntags: x\n---\nlicense: mit\n", ""),
        ("", ""),
    ],
)
def test_the_licence_of_a_card_is_in_its_front_matter(card: str, licence: str) -> None:
    assert licence_of(card) == licence
