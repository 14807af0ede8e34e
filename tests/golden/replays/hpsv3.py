"""Replay HPSv3: recorded weights with the published names, converted by our code, on recorded tokens and patches."""

import tempfile
from pathlib import Path

import torch
from judge_cases import CPU, tolerance, weights
from recorded import Case

from alignment.conversion.hpsv3 import write_hpsv3
from alignment.rewards.hpsv3 import PROMPT, REWARD_TOKEN, _RewardModel


def takes(case: Case) -> bool:
    """A Qwen2-VL with a reward head."""
    needed = {"weights.rm_head.0.weight", "weights.visual.patch_embed.proj.weight", "inputs.image_grid_thw"}
    return {"config", "reward_token_id"} <= set(case.params) and needed <= set(case.fields)


def replay(case: Case) -> None:
    """Compare image tokens, rewards of the padded batch, and rewards of each row alone."""
    with tempfile.TemporaryDirectory() as folder:
        write_hpsv3(
            weights(case), Path(folder), config=dict(case.params["config"]), instruction=f"{PROMPT} {REWARD_TOKEN}"
        )
        model = _RewardModel(Path(folder), int(case.params["reward_token_id"]), CPU)
    ids_BL, mask_BL = case["inputs.input_ids"], case["inputs.attention_mask"]
    pixels, grid_B3 = case["inputs.pixel_values"], case["inputs.image_grid_thw"]
    allowed = tolerance(case, "reward", 2e-4)
    vision = tolerance(case, "vision", 2e-5)
    case.expect("outputs.vision", model.image_states(pixels, grid_B3), absolute=vision)
    case.expect("outputs.reward", model.rewards(ids_BL, mask_BL, pixels, grid_B3=grid_B3), absolute=allowed)
    singles, start = [], 0
    for row, grid_3 in enumerate(grid_B3):
        length, end = int(mask_BL[row].sum()), start + int(grid_3.prod())
        ids_1L, mask_1L = (tensor[row : row + 1, :length] for tensor in (ids_BL, mask_BL))
        singles.append(model.rewards(ids_1L, mask_1L, pixels[start:end], grid_B3=grid_3[None]))
        start = end
    case.expect("outputs.reward_single", torch.cat(singles), absolute=allowed)
