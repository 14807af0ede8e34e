"""Layers without a name in the authors' layout are refused. tests/.../test_adapters.py checks the names themselves."""

import pytest

from alignment.conversion.original_names import flux_place, sd3_place, sdxl_place


def test_the_places_of_a_joined_layer_follow_each_other() -> None:
    names = [f"single_transformer_blocks.7.{name}" for name in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")]
    places = [flux_place(names)[name] for name in names]
    assert {place.name for place in places} == {"single_blocks.7.linear1"}
    assert [place.index for place in places] == [0, 1, 2, 3]
    assert sum(places[0].widths) == 7


@pytest.mark.parametrize("place", [sdxl_place, sd3_place, flux_place])
def test_every_unknown_layer_is_counted(place: object) -> None:
    names = [f"controlnet.{number}.linear" for number in range(5)]
    with pytest.raises(ValueError, match=r"controlnet\.0\.linear, .* and 2 more\. Export the adapter as diffusers"):
        place(names)  # type: ignore[operator]


def test_numbers_of_blocks_are_those_of_sgm() -> None:
    names = {
        "down_blocks.2.attentions.1.proj_in": "input_blocks.8.1.proj_in",
        "up_blocks.1.attentions.2.proj_out": "output_blocks.5.1.proj_out",
        "down_blocks.0.downsamplers.0.conv": "input_blocks.3.0.op",
        "up_blocks.0.upsamplers.0.conv": "output_blocks.2.2.conv",
        "mid_block.resnets.1.conv2": "middle_block.2.out_layers.3",
    }
    assert {name: place.name for name, place in sdxl_place(list(names)).items()} == names
