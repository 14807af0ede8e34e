"""A stack of linear layers on an embedding, found by its weights. B counts embeddings, D their width."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

Activation = Literal["none", "relu", "gelu"]
_ACTIVATIONS: dict[str, type[nn.Module]] = {"none": nn.Identity, "relu": nn.ReLU, "gelu": nn.GELU}


class AffineHead(nn.Module):
    """Linear layers in the order of their numbers, an activation between any two; dropout has no part in scoring.

    Published heads number their layers with the dropouts counted (0, 2, 4, 6, 7), a single layer has no number.
    """

    def __init__(self, layers: list[nn.Linear], activation: Activation) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.between = _ACTIVATIONS[activation]()

    @property
    def width(self) -> int:
        """Of the embeddings it reads."""
        first: nn.Linear = self.layers[0]  # type: ignore[assignment]
        return first.in_features

    def forward(self, embeddings_BD: Tensor) -> Tensor:
        """What the last layer says; B1 for a rating."""
        for index, layer in enumerate(self.layers):
            embeddings_BD = layer(self.between(embeddings_BD) if index else embeddings_BD)
        return embeddings_BD

    @classmethod
    def from_weights(
        cls, weights: Mapping[str, Tensor], folder: Path, activation: Activation = "none", *, biased: bool = False
    ) -> "AffineHead":
        """From `layers.N.weight` and `.bias`, or `N.weight`, or one `weight` and `bias`.

        `biased` says that every layer of this kind of head has a bias. ValueError for other names, for a bias that is
        missing then, and for a tensor that no layer reads: the head has lost a part.
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
                f"The head in {folder} is no chain of linear layers: {', '.join(sorted(weights)) or 'it is empty'}."
            )
        read = {f"{prefix}{part}" for prefix in numbers for part in ("weight", "bias")}
        wrong = [f"lacks {name}" for name in sorted(read - set(weights)) if biased]
        wrong += [f"holds {name}, which no layer reads" for name in sorted(set(weights) - read)]
        if wrong:
            raise ValueError(f"The head in {folder} {' and '.join(wrong)}. Import the judge again.")
        return cls(layers, activation).eval().requires_grad_(False)


def _layer_numbers(weights: Mapping[str, Tensor]) -> list[str]:
    """Prefixes of the two-dimensional weights, a dot at the end, or "" for a head of one layer."""
    return [name.removesuffix("weight") for name in weights if name.endswith("weight") and weights[name].dim() == 2]
