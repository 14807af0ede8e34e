"""Replay CLIPScore: pairs, the clamped mean, images with images, texts with texts, and long prompts."""

import tempfile
from pathlib import Path

from judge_cases import CPU, NO_DIGEST, all_with_all, pictures, tolerance, weights, write_clip_folder
from PIL import Image
from recorded import Case
from torch import Tensor

from alignment.catalogues.rewards import ClipScore
from alignment.rewards.clip_model import ClipModel
from alignment.rewards.clip_score import ClipScoreScorer


def takes(case: Case) -> bool:
    """A CLIP in transformers' layout whose scores are 100 * cosine."""
    needed = {"weights.text_projection.weight", "outputs.pair_score"}
    return {"config", "prompts", "image_processor"} <= set(case.params) and needed <= set(case.fields)


def replay(case: Case) -> None:
    """Compare every recorded field."""
    images, prompts = pictures(case), list(case.params["prompts"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_clip_folder(
            folder, config=case.params["config"], processor=case.params["image_processor"], state=weights(case)
        )
        clip = ClipModel(folder, CPU)
        scorer = ClipScoreScorer(folder, ClipScore(), weights_digest=NO_DIGEST, device=CPU)
    scores_PB = scorer.score(*all_with_all(images, prompts)).reshape(len(prompts), len(images))
    allowed = tolerance(case, "score", 2e-3)
    short, long = case.params.get("short_prompt_indices", []), case.params.get("long_prompt_indices", [])
    case.expect("outputs.pair_score", scores_PB[short] if short else scores_PB, absolute=allowed)
    case.expect("outputs.pair_score_long_truncated", scores_PB[long], absolute=allowed)
    if "outputs.pair_score_long_sliced" in case:
        case.remarks.append(
            "long prompts keep their end token; the recorded sliced scores, which lose it, are not ours"
        )
    pairs = case.params.get("batched_pairs", [])
    batched_B = scorer.score([images[image] for _, image in pairs], [prompts[prompt] for prompt, _ in pairs])
    case.expect("outputs.batched_pair_score", batched_B, absolute=allowed)
    if pairs:
        for field in ("outputs.functional_mean", "outputs.class_mean"):
            case.expect(field, batched_B.mean().clamp(min=0), absolute=allowed)
    _expect_clamp(case, scores_PB, allowed)
    _expect_alike(case, clip, images, prompts, allowed)


def _expect_clamp(case: Case, scores_PB: Tensor, allowed: float) -> None:
    """The published metric is 0 here. Our score has no clamp, so differences stay visible."""
    clamp = case.params.get("clamp_case")
    if clamp is None:
        return
    ours = scores_PB[clamp["prompt"], clamp["image"]]
    case.expect("outputs.clamped", ours.clamp(min=0), absolute=allowed)
    if ours < 0:
        case.remarks.append(f"the clamped score is {ours:.2f} here: ours keeps differences between bad images")


def _expect_alike(case: Case, clip: ClipModel, images: list[Image.Image], prompts: list[str], allowed: float) -> None:
    """Compare the first two images, and the first two prompts, with each other: a mean over one pair, clamped at 0."""
    embedded = {"image_image": clip.embed_images(images[:2]), "text_text": clip.embed_texts(prompts[:2])}
    for name, (first, second) in embedded.items():
        ours = 100 * (first * second).sum()
        case.expect(f"outputs.{name}", ours.clamp(min=0), absolute=allowed)
        if ours < 0:
            case.remarks.append(f"the clamped mean of {name} is {ours:.2f} here")
