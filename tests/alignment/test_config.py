"""What a recipe may not say is refused in words, without its whole content."""

import pytest

from alignment.config import load_recipe


@pytest.mark.parametrize(
    ("recipe", "overrides", "message"),
    [
        (
            "prdp_shapes",
            ("images.kind=square", "images.flip=true"),
            "Objective 'prdp' draws its own images, squares; leave images out.",
        ),
        (
            "diffusion_dpo_shapes",
            ("images.kind=aspect_buckets", "images.step_pixels=128"),
            "images.step_pixels is 128, above the backbone's resolution of 64.",
        ),
    ],
)
def test_images_that_cannot_be_cut_are_refused(recipe: str, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError) as refused:
        load_recipe(recipe, overrides)
    assert message in str(refused.value)
    assert "got {" not in str(refused.value)
