"""Cases of methods with several parts that no recording holds, computed here."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def unseen_pal(seed: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """PAL-B between unit vectors with four prototypes and all weight on the largest one, computed here in float64."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def project(name: str, inputs: Tensor) -> Tensor:
        for index in (0, 3):
            weight, bias = draw(5, inputs.shape[1]) / 3, draw(5)
            tensors[f"weight.{name}.mlp.layers.{index}.weight"] = weight
            tensors[f"weight.{name}.mlp.layers.{index}.bias"] = bias
            inputs = inputs @ weight.T + bias
            inputs = inputs.relu() if index == 0 else inputs
        return inputs

    tensors: dict[str, Tensor] = {
        "weight.logit_scale": torch.tensor(2.0),
        "weight.softmax_w.temperature": torch.ones(1),
    }
    left, right, prompt = draw(7, 6), draw(7, 6), draw(7, 6)
    users, logits = torch.tensor([0, 1, 2, 0, 1, 2, 0]), draw(3, 4)
    items = project("projector_f", torch.cat([left, right]))
    views = torch.stack([project(f"user_learner.projectors.{k}", prompt) for k in range(4)], dim=1)
    point = views[torch.arange(7), logits[users].argmax(dim=1)]
    unit_left, unit_right, unit_point = (x / x.norm(dim=1, keepdim=True) for x in (*items.chunk(2), point))
    difference = (unit_left - unit_point).norm(dim=1) - (unit_right - unit_point).norm(dim=1)
    sign = torch.tensor([1, -1, 1, 1, -1, -1, 1])
    tensors |= {"left_embeds": left, "right_embeds": right, "prompt_embeds": prompt, "u_prime": point}
    tensors |= {"y_hat": difference, "loss": (1 - sign * difference).relu().mean()}
    tensors |= {
        "accuracy": (sign * difference > 0).double().mean(),
        "bound_loss": (point.norm(dim=1) - 0.5).relu().sum(),
    }
    tensors |= {f"weight.user_learner.W.u{index}": logits[index] for index in range(3)}
    params = {"variant": "PAL-B t2i", "pref_learner_type": "dist_normalization", "K": 4, "d": 5, "loss_type": "hinge"}
    params |= {"proj_arch": "mlp1-relu-dropout25", "upper_bound": 0.5, "lmd": 1.0, "is_partition": True, "n_users": 3}
    floats = {name: value.float() for name, value in tensors.items()}
    return params, floats | {"user_index": users, "y": sign}


def unseen_soup(seed: int) -> dict[str, Tensor]:
    """Five models in float16, averaged one after the other, with every sum rounded to float16."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(150, 4, generator=generator)
    truth = torch.randn(3, 4, generator=generator)
    labels = (inputs @ truth.T).argmax(dim=1)
    models = [(truth + 1.5 * torch.randn(3, 4, generator=generator)).half() for _ in range(5)]
    bias = torch.zeros(3).half()

    def accuracy(weight: Tensor) -> float:
        return ((inputs @ weight.float().T).argmax(dim=1) == labels).double().mean().item()

    alone = [accuracy(model) for model in models]
    order = sorted(range(5), key=lambda index: (alone[index], index), reverse=True)
    soup, kept, best, trace = models[order[0]], [order[0]], alone[order[0]], []
    for index in order[1:]:
        candidate = (soup * (len(kept) / (len(kept) + 1)) + models[index] * (1 / (len(kept) + 1))).half()
        trace.append(accuracy(candidate))
        if trace[-1] > best:
            soup, best = candidate, trace[-1]
            kept.append(index)
    uniform = torch.stack([model / 5 for model in models]).sum(dim=0).half()
    fields = {"individual_accuracy": torch.tensor(alone, dtype=torch.float64), "eval_x": inputs, "eval_y": labels}
    fields |= {"sorted_order": torch.tensor(order), "ingredients": torch.tensor(kept)}
    fields |= {"candidate_accuracy_trace": torch.tensor(trace, dtype=torch.float64)}
    fields |= {"uniform.head.weight": uniform, "greedy.head.weight": soup}
    for index, model in enumerate(models):
        fields |= {f"model{index}.head.weight": model, f"model{index}.head.bias": bias}
    return fields


def rounded_soup(seed: int) -> dict[str, Tensor]:
    """Six models in float32, ordered and compared by scores that were read with two decimals."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(150, 4, generator=generator)
    truth = torch.randn(3, 4, generator=generator)
    labels = (inputs @ truth.T).argmax(dim=1)
    models = [truth + 1.0 * torch.randn(3, 4, generator=generator) for _ in range(6)]

    def accuracy(weight: Tensor) -> float:
        return ((inputs @ weight.T).argmax(dim=1) == labels).double().mean().item()

    alone = [accuracy(model) for model in models]
    read = [round(score, 2) for score in alone]
    runs = {name: _greedy(models, scores, accuracy) for name, scores in (("read", read), ("exact", alone))}
    order, kept, trace = runs["read"]
    soup = torch.stack([models[index] for index in kept]).mean(dim=0)
    fields = {"individual_accuracy": torch.tensor(alone, dtype=torch.float64), "eval_x": inputs, "eval_y": labels}
    fields |= {"individual_accuracy_as_read": torch.tensor(read, dtype=torch.float64)}
    fields |= {"sorted_order": torch.tensor(order), "ingredients": torch.tensor(kept)}
    fields |= {"ingredients_exact_comparison": torch.tensor(runs["exact"][1])}
    fields |= {"candidate_accuracy_trace": torch.tensor(trace, dtype=torch.float64), "greedy.head.weight": soup}
    for index, model in enumerate(models):
        fields |= {f"model{index}.head.weight": model, f"model{index}.head.bias": torch.zeros(3)}
    return fields


def _greedy(
    models: list[Tensor], scores: list[float], accuracy: Callable[[Tensor], float]
) -> tuple[list[int], list[int], list[float]]:
    """Return the order, the kept models and the score of every soup that was tried."""
    order = sorted(range(len(models)), key=lambda index: (scores[index], index), reverse=True)
    kept, best, trace = [order[0]], scores[order[0]], []
    for index in order[1:]:
        trace.append(accuracy(torch.stack([models[other] for other in [*kept, index]]).mean(dim=0)))
        if trace[-1] > best:
            best = trace[-1]
            kept.append(index)
    return order, kept, trace
