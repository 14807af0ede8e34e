"""Replay the aesthetic heads: named groups of embeddings, layers and ratings, found by their prefixes."""

import re
from pathlib import Path

import torch
from judge_cases import tolerance, weights
from recorded import Case
from torch import Tensor

from alignment.rewards.affine_head import AffineHead
from alignment.rewards.clip_model import unit


def takes(case: Case) -> bool:
    """Embeddings `inputs.*_x` with ratings `outputs.*_y`."""
    return bool(_groups(case)) and all(f"outputs.{group}_y" in case for group in _groups(case))


def replay(case: Case) -> None:
    """Compare unit embeddings, if recorded, and ratings by layers or by the equivalent affine map."""
    for group in _groups(case):
        embeddings_BD = case[f"inputs.{group}_x"]
        if f"outputs.{group}_normalized" in case:
            embeddings_BD = unit(embeddings_BD)
            allowed = tolerance(case, "normalized", 1e-6)
            case.expect(f"outputs.{group}_normalized", embeddings_BD, absolute=allowed)
        allowed = tolerance(case, f"{group}_y", tolerance(case, "y"))
        case.expect(f"outputs.{group}_y", _head(case, group)(embeddings_BD), absolute=allowed)


def _groups(case: Case) -> list[str]:
    return [match[1] for name in case.fields if (match := re.fullmatch(r"inputs\.(\w+)_x", name))]


def _head(case: Case, group: str) -> AffineHead:
    """Layers under the group's name, or under a name that it starts with (`L_anchor` is rated by L), or one map."""
    while group:
        layers = weights(case, f"{group}.") or _affine(case, group)
        if layers:
            return AffineHead.from_weights(layers, Path(case.name))
        group = group.rpartition("_")[0]
    raise ValueError("no head for these embeddings")


def _affine(case: Case, group: str) -> dict[str, Tensor]:
    names = (f"weights.{group}_affine_weight", f"weights.{group}_affine_bias")
    if not all(name in case for name in names):
        return {}
    weight, bias = (case[name].to(torch.float32) for name in names)
    return {"weight": weight, "bias": bias}
