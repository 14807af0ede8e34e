"""Conversion from open_clip's layout. The test inverts it on a transformers model, then converts back."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel

from alignment.conversion.open_clip import _to_transformers, write_clip
from alignment.rewards.clip_model import ClipModel

pytestmark = pytest.mark.timeout(180)

SMALL = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_act": "gelu", "intermediate_size": 24}


@pytest.fixture(scope="module")
def model() -> CLIPModel:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        config = CLIPConfig(
            text_config=SMALL | {"hidden_size": 8, "vocab_size": 49408, "eos_token_id": 2},
            vision_config=SMALL | {"hidden_size": 16, "image_size": 32, "patch_size": 16},
            projection_dim=6,
        )
        return CLIPModel(config).eval()


def open_clip_weights(model: CLIPModel) -> dict[str, torch.Tensor]:
    """The layout of the other library, in half precision as the published files are."""
    state, made = model.state_dict(), {}
    for side, prefix in (("text", ""), ("vision", "visual.")):
        for index in range(2):
            layer, block = f"{side}_model.encoder.layers.{index}.", f"{prefix}transformer.resblocks.{index}."
            for part in ("weight", "bias"):
                joined = [state[f"{layer}self_attn.{letter}_proj.{part}"] for letter in "qkv"]
                made[f"{block}attn.in_proj_{part}"] = torch.cat(joined)
                names = {"self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2"}
                for ours, theirs in (names | {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}).items():
                    made[f"{block}{theirs}.{part}"] = state[f"{layer}{ours}.{part}"]
    for part in ("weight", "bias"):
        made[f"ln_final.{part}"] = state[f"text_model.final_layer_norm.{part}"]
        made[f"visual.ln_pre.{part}"] = state[f"vision_model.pre_layrnorm.{part}"]
        made[f"visual.ln_post.{part}"] = state[f"vision_model.post_layernorm.{part}"]
    embeddings = "vision_model.embeddings."
    made |= {
        "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        "visual.class_embedding": state[f"{embeddings}class_embedding"],
        "visual.conv1.weight": state[f"{embeddings}patch_embedding.weight"],
        "visual.positional_embedding": state[f"{embeddings}position_embedding.weight"],
        "visual.proj": state["visual_projection.weight"].T,
        "text_projection": state["text_projection.weight"].T,
        "logit_scale": state["logit_scale"],
        "attn_mask": torch.zeros(77, 77),
    }
    return {name: tensor.half() for name, tensor in made.items()}


def test_every_tensor_is_converted_back(model: CLIPModel) -> None:
    back, state = _to_transformers(open_clip_weights(model)), model.state_dict()
    assert set(back) == {name for name in state if not name.endswith("position_ids")}
    assert all(torch.equal(back[name], state[name].half()) for name in back)


def test_the_folder_gives_the_embeddings_of_the_model(
    model: CLIPModel, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    write_clip(open_clip_weights(model), tmp_path, vision_heads=2, text_heads=2)
    clip = ClipModel(tmp_path, torch.device("cpu"))
    tokens = clip.tokens(["a cat", "a dog"])
    with torch.no_grad():
        features = model.half().float().get_text_features(tokens.input_ids, tokens.attention_mask).pooler_output
    torch.testing.assert_close(clip.embed_texts(["a cat", "a dog"]), features / features.norm(dim=1, keepdim=True))
    assert clip.pixels(pictures).shape == (3, 3, 32, 32)


def test_other_weights_are_refused(model: CLIPModel, tmp_path: Path) -> None:
    weights = open_clip_weights(model)
    with pytest.raises(ValueError, match=r"A CLIP has no tensor surprise"):
        _to_transformers(weights | {"surprise": torch.ones(1)})
    del weights["visual.proj"]
    with pytest.raises(ValueError, match=r"it lacks visual\.proj"):
        write_clip(weights, tmp_path / "out", vision_heads=2, text_heads=2)
    assert not (tmp_path / "out").exists()
