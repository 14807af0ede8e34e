"""Time an update of each optimiser over the shapes of a UNet's weights, against the version of transformers or torch.

Run `python benchmarks/optimisers.py`; a minute on one core. Memory traffic decides here, on a GPU also the number of
kernels that are started, which a CPU does not show.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from alignment.catalogues.optimisers import Adafactor, AdamW
from alignment.training.optimisation import build_optimiser

WIDTHS = (160, 320, 640)
BLOCKS = 12
UPDATES = 5


def weights() -> list[nn.Parameter]:
    """Return the weights of attention blocks: each four square matrices, two of a feed-forward, ten vectors."""
    torch.manual_seed(0)
    shapes = [
        shape
        for width in WIDTHS
        for _ in range(BLOCKS)
        for shape in [(width, width)] * 4 + [(8 * width, width), (width, 4 * width)] + [(width,)] * 10
    ]
    made = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    for weight in made:
        weight.grad = torch.randn_like(weight)
    return made


def seconds(make: Callable[[list[nn.Parameter]], Any]) -> float:
    """Return the shortest time of an update after the first, which allocates the state."""
    optimiser = make(weights())
    optimiser.step()
    times = []
    for _ in range(UPDATES):
        started = time.perf_counter()
        optimiser.step()
        times.append(time.perf_counter() - started)
    return min(times)


def theirs(trained: list[nn.Parameter]) -> Any:
    """Return transformers' Adafactor with the settings of ours."""
    from transformers.optimization import Adafactor as TransformersAdafactor

    settings: dict[str, Any] = {"scale_parameter": False, "relative_step": False, "weight_decay": 1e-2}
    return TransformersAdafactor(trained, lr=1e-6, **settings)


def main() -> None:
    """Print the time of each and its ratio."""
    print(f"{sum(weight.numel() for weight in weights()) / 1e6:.0f} M weights in {len(weights())} tensors")
    adafactor, adamw = Adafactor(learning_rate=1e-6), AdamW(learning_rate=1e-6)
    pairs: dict[str, tuple[Callable[[list[nn.Parameter]], Any], Callable[[list[nn.Parameter]], Any]]] = {
        "adafactor, of transformers' time": (lambda trained: build_optimiser(trained, adafactor), theirs),
        "adamw fused, of the plain time": (
            lambda trained: build_optimiser(trained, adamw, fused=True),
            lambda trained: build_optimiser(trained, adamw),
        ),
    }
    for name, (ours, other) in pairs.items():
        own, peer = seconds(ours), seconds(other)
        print(f"{name:34s} {own * 1e3:7.1f} / {peer * 1e3:7.1f} ms = {own / peer:.2f}", flush=True)


if __name__ == "__main__":
    main()
