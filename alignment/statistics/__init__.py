"""The arithmetic of evaluation, calibration and gate. Torch-free."""

__all__ = [
    "agreement",
    "best_and_worst",
    "calibration",
    "comparison",
    "coverage",
    "human_pairs",
    "judge_calibration",
    "noninferiority",
    "normal_text",
    "power",
    "prompt_groups",
    "prompts",
    "reward_hacking",
    "score_grids",
    "seed_noise",
    "sequential",
    "shuffled_prompts",
    "similar_prompts",
    "skewness",
    "tries",
]
