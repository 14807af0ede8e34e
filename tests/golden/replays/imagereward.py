"""Replay ImageReward: recorded weights of the published layout, converted by our code, with our scorer."""

import tempfile
from pathlib import Path

import torch
from judge_cases import CPU, NO_DIGEST, all_with_all, pictures, tolerance, weights
from recorded import Case

from alignment.catalogues.rewards import ImageReward
from alignment.conversion.imagereward import DEVIATION, MEAN, _tokenizer_of, write_imagereward
from alignment.rewards.imagereward import NUM_TOKENS, ImageRewardScorer, _Blip


def takes(case: Case) -> bool:
    """Both BLIP towers and a head."""
    needed = {"weights.blip.visual_encoder.pos_embed", "weights.mlp.layers.0.weight", "outputs.reward"}
    return {"config", "prompts", "vocab"} <= set(case.params) and needed <= set(case.fields)


def replay(case: Case) -> None:
    """Compare tokens, pixels, patches, [CLS], rewards and ranks."""
    config = case.params["config"]
    case.require(
        "the published normalisation", (case.params["reward_mean"], case.params["reward_std"]) == (MEAN, DEVIATION)
    )
    case.require("the published length", case.params["max_length"] == NUM_TOKENS)
    with tempfile.TemporaryDirectory() as folder:
        write_imagereward(
            weights(case),
            Path(folder),
            tokenizer=_tokenizer_of(case.params["vocab"]),
            vision_heads=config["vision"]["num_heads"],
            text_heads=config["text"]["num_attention_heads"],
        )
        _replay(case, Path(folder))


def _replay(case: Case, folder: Path) -> None:
    images, prompts = pictures(case), list(case.params["prompts"])
    blip = _Blip(folder, CPU)
    tokens = blip.tokens(prompts)
    case.expect("inputs.input_ids", tokens.input_ids, relative=0.0)
    case.expect("inputs.attention_mask", tokens.attention_mask, relative=0.0)
    case.expect("outputs.pixel_values", blip.pixels(images), absolute=tolerance(case, "pixel_values", 1e-6))
    case.expect("outputs.image_embeds", blip.image_states(images), absolute=tolerance(case, "image_embeds", 2e-5))
    pairs, shape = all_with_all(images, prompts), (len(prompts), len(images))
    features = blip.features(*pairs)
    case.expect("outputs.cls_features", features.reshape(*shape, -1), absolute=tolerance(case, "cls_features", 2e-5))
    scorer = ImageRewardScorer(folder, ImageReward(), weights_digest=NO_DIGEST, device=CPU)
    rewards_PB = scorer.score(*pairs).reshape(shape)
    case.expect("outputs.reward", rewards_PB, absolute=tolerance(case, "reward", 2e-4))
    if "outputs.rank" in case:
        ranks_PB = rewards_PB.argsort(dim=1, descending=True).argsort(dim=1) + 1
        case.require("ranks", torch.equal(ranks_PB, case["outputs.rank"].long()))
