"""A stack of linear layers on an embedding, built from its weights. B counts embeddings, D their width."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from alignment.rewards.dead_weights import check_alive

Activation = Literal["none", "relu", "gelu"]
_ACTIVATIONS: dict[str, type[nn.Module]] = {"none": nn.Identity, "relu": nn.ReLU, "gelu": nn.GELU}


class AffineHead(nn.Module):
    """Linear layers in the order of their numbers, with an activation between them. Scoring uses no dropout.

    Published heads count dropouts in the numbers of their layers (0, 2, 4, 6, 7); a single layer has no number.
    """

    def __init__(self, layers: list[nn.Linear], activation: Activation) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.between = _ACTIVATIONS[activation]()

    @property
    def width(self) -> int:
        """Width of the input embeddings."""
        first: nn.Linear = self.layers[0]  # type: ignore[assignment]
        return first.in_features

    def forward(self, embeddings_BD: Tensor) -> Tensor:
        """Return the output of the last layer; B1 for a rating."""
        for index, layer in enumerate(self.layers):
            embeddings_BD = layer(self.between(embeddings_BD) if index else embeddings_BD)
        return embeddings_BD

    @classmethod
    def from_weights(
        cls, weights: Mapping[str, Tensor], folder: Path, activation: Activation = "none", *, biased: bool = False
    ) -> "AffineHead":
        """Build a head from `layers.N.weight` and `.bias`, or `N.weight`, or one `weight` and `bias`.

        `biased` means that every layer of this kind of head has a bias. ValueError for other names, for a missing bias
        if `biased`, and for a tensor that no layer uses, because the head is then incomplete.
        """
        numbers = sorted(_layer_numbers(weights), key=lambda prefix: [int(n) for n in prefix.split(".") if n.isdigit()])
        layers = []
        for prefix in numbers:
            weight, bias = weights[f"{prefix}weight"], weights.get(f"{prefix}bias")
            with torch.random.fork_rng(devices=[]):
                layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
            layer.load_state_dict({"weight": weight.float()} | ({} if bias is None else {"bias": bias.float()}))
            layers.append(layer)
        if not layers or any(a.out_features != b.in_features for a, b in itertools.pairwise(layers)):
            raise ValueError(
                f"The head in {folder} is not a chain of linear layers: {', '.join(sorted(weights)) or 'it is empty'}."
            )
        read = {f"{prefix}{part}" for prefix in numbers for part in ("weight", "bias")}
        wrong = [f"lacks {name}" for name in sorted(read - set(weights)) if biased]
        wrong += [f"holds {name}, which no layer uses" for name in sorted(set(weights) - read)]
        if wrong:
            raise ValueError(f"The head in {folder} {' and '.join(wrong)}. Import the judge again.")
        check_alive(weights, f"head in {folder}")
        return cls(layers, activation).eval().requires_grad_(False)


def _layer_numbers(weights: Mapping[str, Tensor]) -> list[str]:
    """Prefixes of the two-dimensional weights, with a dot at the end; "" for a head of one layer."""
    return [name.removesuffix("weight") for name in weights if name.endswith("weight") and weights[name].dim() == 2]
