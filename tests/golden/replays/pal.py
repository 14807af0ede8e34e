"""Replay PAL: recorded weights and embeddings in our head, its losses, gradients and the fit of new users.

The authors' text models score every token; ours score one embedding per image. Such cases pass tokens as additional
leading dimensions to the same head; only the mean over tokens is computed here.
"""

import re
from typing import Any, get_args

import torch
from recorded import Case, NotBuiltError
from torch import Tensor

from alignment.contracts.reward_models import Bound, Comparison, FewShot, Head, Link, PalA, PalB, Projector
from alignment.rewards.pal_head import IdealPoints, PreferenceHead, _ProjectorNetwork, bound_penalty, link_loss
from alignment.training.reward_model import PreferencePairs, _objective, fit_new_users, margins, pair_accuracy

NEEDED = {"left_embeds", "right_embeds", "user_index", "y", "y_hat"}
COMPARISONS: dict[str, Comparison] = {
    "dist": "distance",
    "dist_logistic": "distance",
    "dist_normalization": "unit_distance",
    "angle": "angle",
    "angle_hinge": "angle",
}
LINKS: dict[str, Link] = {
    "hinge": "hinge",
    "hinge_elementwise": "hinge",
    "logistic": "logistic",
    "logistic_elementwise": "logistic",
    "CE": "cross_entropy",
    "CE_elementwise": "cross_entropy",
}
"""The recorded loss types. Element-wise ones are averaged after the loss."""
ROUNDING = 2e-6
AUTHORS_RATE = 5e-3
"""Learning rate of the recorded fits of new users."""


def takes(case: Case) -> bool:
    """True if the case has the fields of this kind."""
    return set(case.fields) >= NEEDED


def replay(case: Case) -> None:
    """Compare mixture, points, margins, loss, gradients and accuracy; then the fit of new users, if recorded."""
    head = _head(case)
    weights_BK = _mixture(case, head)
    case.expect("user_weights_softmax", weights_BK, absolute=1e-7)
    points_BD = _points(case, head, weights_BK)
    case.expect("u_prime", points_BD, absolute=ROUNDING)
    left_BD, right_BD = head.items(case["left_embeds"]), head.items(case["right_embeds"])
    case.expect("x_left_prime", left_BD, absolute=ROUNDING)
    case.expect("x_right_prime", right_BD, absolute=ROUNDING)
    if _is_text(case) and points_BD.dim() < left_BD.dim():
        points_BD = points_BD.unsqueeze(1)
    left_B, right_B = head.scores(case["left_embeds"], points_BD), head.scores(case["right_embeds"], points_BD)
    if _is_text(case) and head.params.comparison == "unit_distance":
        _explain_token_axis(case, left_BD, right_BD, points_BD)
        return
    if _is_inverted(case):
        left_B, right_B = _explain_inversion(case, left_B, right_B)
    _expect_scores(case, head, left_B, right_B)
    loss = _expect_loss(case, head, left_B, right_B)
    bound = bound_penalty(points_BD.squeeze(1) if isinstance(head.points, IdealPoints) else points_BD, _bound(case))
    case.expect("bound_loss", bound, absolute=1e-5)
    _expect_gradients(case, head, loss if _is_text(case) else loss + bound)
    if case.params.get("few_shot_steps"):
        _replay_new_users(case, head)


# --- the recorded model as one of our heads ---------------------------------------------------------------------------


def _head(case: Case) -> PreferenceHead:
    """Our head with the recorded weights, in evaluation mode."""
    images, prompts = case["left_embeds"], case["prompt_embeds"] if "prompt_embeds" in case else case["left_embeds"]
    head = PreferenceHead(_params(case), images.shape[-1], prompts.shape[-1], int(case.params["n_users"]))
    _fill(case, head.items, _items_name(case))
    if isinstance(head.points, IdealPoints):
        _set(head.points.prototypes_KD, case["weight.user_learner.P"])
    else:
        for index, prototype in enumerate(head.points.prototypes):
            assert isinstance(prototype, _ProjectorNetwork)
            _fill(case, prototype, f"user_learner.projectors.{index}")
    _set(head.log_scale, case["weight.logit_scale"])
    _set(head.user_logits_UK, torch.stack([case[f"weight.{name}"] for name in _users(case)]))
    return head.eval()


def _params(case: Case) -> Head:
    if case.params["pref_learner_type"] not in COMPARISONS:
        raise NotBuiltError(f"comparison {case.params['pref_learner_type']}")
    if case.params["loss_type"] not in LINKS:
        raise NotBuiltError(f"loss {case.params['loss_type']}")
    if case.params.get("user_learner_type", "Pw") not in get_args(PalA.model_fields["ideal_point"].annotation):
        raise NotBuiltError(f"ideal point {case.params['user_learner_type']}")
    if case.params.get("sfx_type", "softmax") != "softmax":
        raise NotBuiltError(f"mixture by {case.params['sfx_type']}")
    fields: dict[str, Any] = {
        "num_prototypes": case.params["K"],
        "comparison": COMPARISONS[case.params["pref_learner_type"]],
        "link": LINKS[case.params["loss_type"]],
        "projector": _projector(case.params["proj_arch"]),
        "width": case.params.get("d_pref", case.params.get("d")),
        "temperature": float(case["weight.softmax_w.temperature"]),
        "bound": None if _is_text(case) else _bound(case),
    }
    if "user_learner_type" in case.params:
        return PalA.model_validate(fields | {"ideal_point": case.params["user_learner_type"]})
    return PalB.model_validate(fields)


def _projector(name: str) -> Projector:
    """`mlp2-relu-dropout5-residual`: hidden layers, activation, decimals of the dropout, then a residual or no bias."""
    found = re.fullmatch(r"mlp(\d+)-(\w+)-dropout(\d+)(-residual|-nobias)?", name)
    if found is None:
        raise NotBuiltError(f"projector {name}")
    layers, activation, decimals, ending = found.groups()
    return Projector.model_validate(
        {
            "num_hidden_layers": int(layers),
            "activation": activation,
            "dropout": float(f"0.{decimals}"),
            "residual": ending == "-residual",
            "bias": ending != "-nobias",
        }
    )


def _items_name(case: Case) -> str:
    """PAL-A has one projector for items and users; PAL-B has one for items alone."""
    return "projector" if "user_learner_type" in case.params else "projector_f"


def _layers(network: _ProjectorNetwork) -> dict[str, Tensor]:
    """Our layers by the authors' numbers: linear, dropout and activation are counted, so linear ones are 3 apart."""
    linear = [*network.hidden, network.output]
    return {
        f"{3 * index}.{part}": weight for index, layer in enumerate(linear) for part, weight in layer.named_parameters()
    }


def _fill(case: Case, network: _ProjectorNetwork, prefix: str) -> None:
    for name, weight in _layers(network).items():
        _set(weight, case[f"weight.{prefix}.mlp.layers.{name}"])


def _set(weight: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        weight.copy_(value.reshape(weight.shape))


def _users(case: Case) -> list[str]:
    return [f"user_learner.W.u{index}" for index in range(int(case.params["n_users"]))]


def _bound(case: Case) -> Bound | None:
    upper, weight = case.params.get("upper_bound", case.params.get("bound_upper", 4.0)), case.params.get("lmd", 1.0)
    return Bound(upper=upper, weight=weight) if weight else None


def _is_text(case: Case) -> bool:
    """True for text models: scores are per token, and the bound is computed but not added."""
    return case["left_embeds"].dim() == 3


# --- forward ----------------------------------------------------------------------------------------------------------


def _mixture(case: Case, head: PreferenceHead) -> Tensor:
    """Softmax, or, in the authors' partition mode (evaluation), all weight on the largest logit."""
    if case.params.get("is_partition"):
        largest_B = head.user_logits_UK[case["user_index"]].argmax(dim=-1)
        return torch.nn.functional.one_hot(largest_B, int(case.params["K"])).float()
    return head.mixture(case["user_index"])


def _points(case: Case, head: PreferenceHead, weights_BK: Tensor) -> Tensor:
    prompts_BD = case["prompt_embeds"] if "prompt_embeds" in case else case["left_embeds"]
    broadcast = weights_BK.unsqueeze(1) if _is_text(case) and "prompt_embeds" in case else weights_BK
    return head.points_of(broadcast, prompts_BD)


def _expect_scores(case: Case, head: PreferenceHead, left_B: Tensor, right_B: Tensor) -> None:
    """The authors record both logits for cross-entropy, and the difference right - left for the other links."""
    if head.params.link == "cross_entropy":
        case.expect("y_hat", torch.stack([left_B, right_B], dim=-1), absolute=ROUNDING * float(head.scale().detach()))
    else:
        scale = head.scale() if _is_text(case) and head.params.comparison == "angle" else 1.0
        case.expect("y_hat", scale * (right_B - left_B), absolute=ROUNDING)


def _is_inverted(case: Case) -> bool:
    return case.params["pref_learner_type"] == "dist_logistic"


def _explain_inversion(case: Case, left_B: Tensor, right_B: Tensor) -> tuple[Tensor, Tensor]:
    """The recorded logits are the distances; ours are minus the distances.

    Ours must equal the negated recorded ones, and prefer exactly the other item. Later quantities are compared with the
    sign flipped.
    """
    recorded = case["y_hat"].argmax(dim=-1)
    ours = torch.stack([left_B, right_B], dim=-1).argmax(dim=-1)
    case.require("the nearer item wins", bool((ours != recorded).all()))
    case.remarks.append(
        "recorded code takes distances as logits, so the farther item wins; ours are their negatives, nearer wins;"
        " loss and gradients are compared with the sign flipped"
    )
    return -left_B, -right_B


def _explain_token_axis(case: Case, left_BTD: Tensor, right_BTD: Tensor, points_BD: Tensor) -> None:
    """The recorded text model divides items by their norm over tokens; ours divides by the norm of each embedding."""

    def distance(items_BTD: Tensor) -> Tensor:
        scaled_BTD = items_BTD / torch.linalg.vector_norm(items_BTD, dim=1, keepdim=True)
        return torch.linalg.vector_norm(scaled_BTD - torch.nn.functional.normalize(points_BD, dim=-1), dim=-1)

    case.expect("y_hat", distance(left_BTD) - distance(right_BTD), absolute=ROUNDING)
    case.remarks.append(
        "recorded code normalises items over the token axis, ours over the embedding; loss not compared"
    )


# --- losses -----------------------------------------------------------------------------------------------------------


def _expect_loss(case: Case, head: PreferenceHead, left_B: Tensor, right_B: Tensor) -> Tensor:
    """Link loss and accuracy of the labelled side; y = +1 means right."""
    sign_B = case["y"].reshape([-1, *[1] * (left_B.dim() - 1)]).float()
    margin_B = sign_B * (right_B - left_B)
    if _is_text(case) and head.params.link != "cross_entropy" and head.params.comparison == "angle":
        margin_B = margin_B * head.scale()
    loss_B = link_loss(margin_B, head.params.link)
    if not _is_text(case):
        case.expect("loss", loss_B.mean(), absolute=1e-6)
        case.expect("accuracy", torch.tensor(pair_accuracy(margin_B)), absolute=1e-6)
        if not _is_inverted(case) and not case.params.get("is_partition"):
            _expect_our_step(case, head, loss_B.mean())
        return loss_B.mean()
    loss = _over_tokens(case, loss_B, case.params.get("token_weighting", "mean"))
    case.expect("loss", loss, absolute=1e-6)
    right_B = (margin_B > 0).float()
    case.expect("accu_all_tokens", _over_tokens(case, right_B, "mean"), absolute=1e-6)
    case.expect("accu_last_token", right_B[:, -1].mean(), absolute=1e-6)
    return loss


def _over_tokens(case: Case, values_BT: Tensor, weighting: str) -> Tensor:
    """Mean over comparisons of a weighted mean over the tokens from the first that differs to the end."""
    means = []
    for values_T, first, end in zip(values_BT, case["divergence_ind"], case["end_ind"], strict=True):
        window = values_T[int(first) : int(end)]
        steps = torch.arange(1, len(window) + 1, dtype=window.dtype)
        weights = {"mean": torch.ones_like(steps), "cumulative": steps, "only_last": (steps == len(window)).float()}
        means.append((window * weights[weighting]).sum() / weights[weighting].sum())
    return torch.stack(means).mean()


def _pairs(case: Case) -> PreferencePairs:
    """The case as chosen and rejected."""
    right_B1 = (case["y"] > 0).unsqueeze(1)
    left, right = case["left_embeds"], case["right_embeds"]
    return PreferencePairs(
        chosen_ND=torch.where(right_B1, right, left),
        rejected_ND=torch.where(right_B1, left, right),
        prompts_ND=case["prompt_embeds"],
        users_N=case["user_index"],
    )


def _expect_our_step(case: Case, head: PreferenceHead, loss: Tensor) -> None:
    """Compare the training loss: that loss plus the bound."""
    ours, monitors = _objective(head, _pairs(case))
    case.expect("objective", ours, absolute=1e-5, against=loss + case["bound_loss"])
    case.expect("step's loss", torch.tensor(monitors["loss"]), absolute=1e-6, against=case["loss"])


def _expect_gradients(case: Case, head: PreferenceHead, loss: Tensor) -> None:
    head.zero_grad()
    torch.autograd.backward(loss)
    ours: dict[str, Tensor] = {
        f"{_items_name(case)}.mlp.layers.{name}": weight for name, weight in _layers(head.items).items()
    }
    if isinstance(head.points, IdealPoints):
        ours["user_learner.P"] = head.points.prototypes_KD
    else:
        for index, prototype in enumerate(head.points.prototypes):
            assert isinstance(prototype, _ProjectorNetwork)
            prefix = f"user_learner.projectors.{index}.mlp.layers"
            ours |= {f"{prefix}.{name}": weight for name, weight in _layers(prototype).items()}
    ours["logit_scale"] = head.log_scale
    gradients = {name: weight.grad for name, weight in ours.items() if weight.grad is not None}
    if head.user_logits_UK.grad is not None:
        gradients |= dict(zip(_users(case), head.user_logits_UK.grad, strict=True))
    for name, gradient in gradients.items():
        case.expect(f"grad.{name}", gradient, absolute=ROUNDING * max(1.0, float(gradient.abs().max())))
    unmatched = {n.removeprefix("grad.") for n in case.fields if n.startswith("grad.")} - set(gradients)
    case.require(f"a gradient of ours for {sorted(unmatched) or 'every one'}", not unmatched)


# --- new users --------------------------------------------------------------------------------------------------------


def _replay_new_users(case: Case, head: PreferenceHead) -> None:
    """Full-batch AdamW on the users' logits alone, from the recorded start."""
    losses: list[float] = []
    steps = int(case.params["few_shot_steps"])
    pairs = _pairs(case)
    for count in range(1, steps + 1):
        losses.clear()
        fitted = fit_new_users(
            head,
            pairs,
            head.user_logits_UK,
            params=FewShot(learning_rate=AUTHORS_RATE, epochs=count, batch=len(pairs)),
            seed=0,
            on_step=lambda _, monitors: losses.append(monitors["loss"]),
        )
        case.expect(f"loss_step{count}", torch.tensor(losses[-1]), absolute=1e-6)
        case.expect(f"W_step{count}", fitted.user_logits_UK, absolute=ROUNDING)
    frozen = {n: w for n, w in fitted.state_dict().items() if n != "user_logits_UK"}
    case.require("only logits moved", all(torch.equal(w, head.state_dict()[n]) for n, w in frozen.items()))
    case.require("margins are finite", bool(margins(fitted, pairs)[0].isfinite().all()))
