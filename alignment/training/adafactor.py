"""Adafactor without momentum, at a stated learning rate."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from alignment.catalogues.optimisers import Adafactor


class AdafactorOptimiser(torch.optim.Optimizer):
    """Shazeer and Stern 2018, arXiv:1804.04235, algorithm 5, with rates neither relative to the step nor to the weight.

    The same numbers as transformers' Adafactor with `scale_parameter` and `relative_step` off, bit for bit on a CPU,
    and the same state, without the norm of every weight, which nothing uses then. Vectors are updated together,
    matrices one by one: an update of all together would need a copy of every gradient. A convolution's kernel is a
    stack of matrices, as there.
    """

    def __init__(self, weights: Iterable[nn.Parameter], params: Adafactor) -> None:
        self.params = params
        super().__init__(weights, {"lr": params.learning_rate})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every weight that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            trained = [weight for weight in group["params"] if weight.grad is not None]
            for weight in trained:
                state = self.state[weight]
                state["step"] = state.get("step", 0) + 1
            vectors: dict[int, list[nn.Parameter]] = {}
            for weight in trained:
                if weight.ndim < 2:
                    vectors.setdefault(self.state[weight]["step"], []).append(weight)
            for step, weights in vectors.items():
                self._apply(weights, self._vector_updates(weights, step), group["lr"])
            for weight in trained:
                if weight.ndim >= 2:
                    self._apply([weight], [self._matrix_update(weight)], group["lr"])

    def _vector_updates(self, weights: Sequence[nn.Parameter], step: int) -> list[Tensor]:
        """Return gradients over the root of their second moments, of weights with one number of steps."""
        gradients = [_gradient(weight) for weight in weights]
        squares = torch._foreach_mul(gradients, gradients)
        torch._foreach_add_(squares, self.params.epsilon)
        moments = [self._moment(weight, "exp_avg_sq", square) for weight, square in zip(weights, squares, strict=True)]
        decay = self._decay(step)
        torch._foreach_mul_(moments, decay)
        torch._foreach_add_(moments, squares, alpha=1.0 - decay)
        updates = list(torch._foreach_rsqrt(moments))
        torch._foreach_mul_(updates, gradients)
        return updates

    def _matrix_update(self, weight: nn.Parameter) -> Tensor:
        """As `_vector_updates`; the second moments are the product of their means over columns and over rows."""
        gradient = _gradient(weight)
        square = gradient.square().add_(self.params.epsilon)
        decay = self._decay(self.state[weight]["step"])
        rows, columns = square.mean(dim=-1), square.mean(dim=-2)
        row_moment = self._moment(weight, "exp_avg_sq_row", rows).mul_(decay).add_(rows, alpha=1.0 - decay)
        column_moment = self._moment(weight, "exp_avg_sq_col", columns).mul_(decay).add_(columns, alpha=1.0 - decay)
        row_factor = (row_moment / row_moment.mean(dim=-1, keepdim=True)).rsqrt_().unsqueeze(-1)
        return torch.mul(row_factor, column_moment.unsqueeze(-2).rsqrt(), out=square).mul_(gradient)

    def _apply(self, weights: Sequence[nn.Parameter], updates: list[Tensor], rate: float) -> None:
        """Clip the updates by their root mean squares, decay the weights, and subtract."""
        sizes = torch._foreach_norm(updates)
        scales = [
            (size / (update.numel() ** 0.5) / self.params.clip_threshold).clamp_(min=1.0)
            for size, update in zip(sizes, updates, strict=True)
        ]
        torch._foreach_div_(updates, scales)
        torch._foreach_mul_(updates, rate)
        if self.params.weight_decay:
            torch._foreach_add_(list(weights), list(weights), alpha=-self.params.weight_decay * rate)
        torch._foreach_sub_(list(weights), updates)

    def _decay(self, step: int) -> float:
        return float(1.0 - step**self.params.decay_rate)

    def _moment(self, weight: nn.Parameter, name: str, like: Tensor) -> Tensor:
        state = self.state[weight]
        if name not in state:
            state[name] = torch.zeros_like(like)
        moment: Tensor = state[name]
        return moment


def _gradient(weight: nn.Parameter) -> Tensor:
    assert weight.grad is not None
    return weight.grad
