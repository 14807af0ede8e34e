"""Replay PickScore: recorded weights, images and prompts in our scorer, and its accuracy with ties."""

import tempfile
from pathlib import Path

import torch
from judge_cases import CPU, NO_DIGEST, all_with_all, pictures, tolerance, weights, write_clip_folder
from recorded import Case

from alignment.catalogues.rewards import PickScore
from alignment.rewards.clip_model import ClipModel, unit
from alignment.rewards.pickscore import PickScoreScorer
from alignment.statistics.published_agreement import _pickscore_accuracy, _pickscore_chance

FLOW_GRPO = 26.0
"""Divisor of the logits in flow_grpo."""


def takes(case: Case) -> bool:
    """A CLIP in transformers' layout whose scores include a logit scale."""
    needed = {"weights.text_projection.weight", "weights.logit_scale", "outputs.score", "outputs.probs"}
    return {"config", "prompts", "image_processor"} <= set(case.params) and needed <= set(case.fields)


def replay(case: Case) -> None:
    """Compare tokens, pixels, embeddings, cosines, scores and probabilities; then accuracy by tie threshold."""
    with tempfile.TemporaryDirectory() as folder:
        write_clip_folder(
            Path(folder), config=case.params["config"], processor=case.params["image_processor"], state=weights(case)
        )
        _replay_scores(case, Path(folder))
    _replay_accuracy(case)


def _replay_scores(case: Case, folder: Path) -> None:
    images, prompts = pictures(case), list(case.params["prompts"])
    clip = ClipModel(folder, CPU)
    _expect_tokens(case, clip, prompts)
    case.expect("outputs.pixel_values", clip.pixels(images), absolute=tolerance(case, "pixel_values_pil"), relative=0.0)
    embeds = tolerance(case, "embeds")
    case.expect("outputs.image_embeds", clip.embed_images(images), absolute=embeds)
    if "outputs.image_features" in case:
        features = unit(case["outputs.image_features"])
        case.expect("image_features, scaled", clip.embed_images(images), absolute=embeds, against=features)
    case.expect("outputs.text_embeds", clip.embed_texts(prompts), absolute=embeds)
    scorer = PickScoreScorer(folder, PickScore(), weights_digest=NO_DIGEST, device=CPU)
    scores_PB = scorer.score(*all_with_all(images, prompts)).reshape(len(prompts), len(images))
    allowed = tolerance(case, "score")
    case.expect("outputs.score", scores_PB, absolute=allowed)
    case.expect("outputs.cosine", scores_PB / clip.logit_scale, absolute=allowed / clip.logit_scale)
    case.expect("outputs.probs", scores_PB.softmax(dim=1), absolute=tolerance(case, "probs"))
    case.expect("outputs.flow_grpo_score", scores_PB / FLOW_GRPO, absolute=allowed / FLOW_GRPO)


def _expect_tokens(case: Case, clip: ClipModel, prompts: list[str]) -> None:
    """Check that our tokens without padding equal the recorded ones."""
    ours = clip.tokens(prompts)
    for row in range(len(prompts)):
        if f"inputs.input_ids_{row}" in case:
            words = ours.input_ids[row][ours.attention_mask[row].bool()]
            case.expect(f"inputs.input_ids_{row}", words.unsqueeze(0), relative=0.0)


def _replay_accuracy(case: Case) -> None:
    if not {"inputs.acc_prob_0", "inputs.acc_label_0", "outputs.acc_thresholds"} <= set(case.fields):
        return
    first_wins, labels = case["inputs.acc_prob_0"].tolist(), case["inputs.acc_label_0"].tolist()
    thresholds = case["outputs.acc_thresholds"].tolist()
    for name, ours in (
        ("outputs.acc_by_threshold", [_pickscore_accuracy(first_wins, labels, t) for t in thresholds]),
        ("outputs.random_acc_by_threshold", [_pickscore_chance(labels, t) for t in thresholds]),
    ):
        case.expect(name, torch.tensor(ours, dtype=torch.float64), absolute=1e-9)
