"""Replay HPSv2: recorded open_clip weights, converted by our code, with both ways of shrinking an image."""

import tempfile
from pathlib import Path

from judge_cases import CPU, NO_DIGEST, all_with_all, pictures, tolerance, weights
from recorded import Case

from alignment.catalogues.rewards import HpsV2
from alignment.conversion.open_clip import write_clip
from alignment.rewards.hpsv2 import HpsV2Scorer, _LetterboxedClip


def takes(case: Case) -> bool:
    """A CLIP in open_clip's layout with embeddings and scores."""
    needed = {"weights.visual.conv1.weight", "weights.text_projection", "outputs.score"}
    return {"config", "prompts"} <= set(case.params) and needed <= set(case.fields)


def replay(case: Case) -> None:
    """Compare tokens and text embeddings; then pixels, image embeddings and scores, antialiased and not."""
    vision, text = case.params["config"]["vision_cfg"], case.params["config"]["text_cfg"]
    heads = vision["width"] // vision.get("head_width", 64)
    activation = "quick_gelu" if case.params["config"].get("quick_gelu") else "gelu"
    with tempfile.TemporaryDirectory() as folder:
        write_clip(weights(case), Path(folder), vision_heads=heads, text_heads=text["heads"], activation=activation)
        for suffix, antialias in (("", True), ("_legacy", False)):
            _replay_variant(case, Path(folder), suffix, antialias=antialias)


def _replay_variant(case: Case, folder: Path, suffix: str, *, antialias: bool) -> None:
    images, prompts = pictures(case), list(case.params["prompts"])
    clip = _LetterboxedClip(folder, CPU, antialias=antialias)
    embeds = tolerance(case, "embeds", 2e-5)
    if not suffix:
        tokens = clip.tokens(prompts)
        case.expect("inputs.input_ids", tokens.input_ids * tokens.attention_mask, relative=0.0)
        case.expect("outputs.text_embeds", clip.embed_texts(prompts), absolute=embeds)
    pixels = tolerance(case, "pixel_values")
    case.expect(f"outputs.pixel_values{suffix}", clip.pixels(images), absolute=pixels)
    case.expect(f"outputs.image_embeds{suffix}", clip.embed_images(images), absolute=embeds)
    params = HpsV2(version="2.1", antialias=antialias)
    scorer = HpsV2Scorer(folder, params, weights_digest=NO_DIGEST, device=CPU)
    scores_PB = scorer.score(*all_with_all(images, prompts)).reshape(len(prompts), len(images))
    case.expect(f"outputs.score{suffix}", scores_PB, absolute=tolerance(case, "score", 2e-5))
