"""Replay PAL-B as a judge of images: one head per variant, on recorded embeddings."""

import re

import torch
from judge_cases import tolerance, weights
from recorded import Case, NotBuiltError

from alignment.contracts.reward_models import Comparison, PalB, Projector
from alignment.rewards.pal_head import PreferenceHead, _ProjectorNetwork

COMPARISONS: dict[str, Comparison] = {"angle": "angle", "dist": "distance"}
NEEDED = {"inputs.user_index", "inputs.image_left_embeds", "inputs.image_right_embeds", "inputs.prompt_embeds"}


def takes(case: Case) -> bool:
    """Image embeddings left and right, and variants."""
    return set(case.fields) >= NEEDED and "variants" in case.params


def replay(case: Case) -> None:
    """Compare each variant's points and scores. For distances the authors record left minus right."""
    for variant in case.params["variants"]:
        tag, kind = variant["tag"], variant["type"]
        if kind not in COMPARISONS:
            raise NotBuiltError(f"comparison {kind}")
        head = _head(case, variant)
        users_B = case["inputs.user_index"]
        points_BD = head.points_of(head.mixture(users_B), case["inputs.prompt_embeds"])
        allowed = tolerance(case, "output", 2e-4)
        case.expect(f"outputs.{tag}.user_point", points_BD, absolute=allowed)
        left_B, right_B = (head.scores(case[f"inputs.image_{side}_embeds"], points_BD) for side in ("left", "right"))
        ours = torch.stack([left_B, right_B], dim=-1) if kind == "angle" else right_B - left_B
        case.expect(f"outputs.{tag}.output", ours, absolute=allowed)


def _head(case: Case, variant: dict[str, object]) -> PreferenceHead:
    state = weights(case, f"{variant['tag']}.")
    params = PalB(
        num_prototypes=int(str(variant["k"])),
        comparison=COMPARISONS[str(variant["type"])],
        link="cross_entropy" if variant["type"] == "angle" else "hinge",
        projector=Projector(num_hidden_layers=_num_hidden(state), activation="relu", residual=True, bias=_bias(state)),
        temperature=float(case.params.get("softmax_temperature", 1.0)),
    )
    names = [str(user) for user in case.params["users"]]
    widths = (case["inputs.image_left_embeds"].shape[1], case["inputs.prompt_embeds"].shape[1])
    head = PreferenceHead(params, *widths, num_users=len(names))
    with torch.no_grad():
        head.log_scale.fill_(float(str(variant["logit_scale"])))
        head.user_logits_UK.copy_(torch.stack([state[f"user_learner.W.{name}"] for name in names]))
    _fill(head.items, state, "item_learner.projector")
    for index, prototype in enumerate(head.points.prototypes):  # type: ignore[union-attr,arg-type]
        assert isinstance(prototype, _ProjectorNetwork)
        _fill(prototype, state, f"user_learner.projectors.{index}")
    return head.eval()


def _num_hidden(state: dict[str, torch.Tensor]) -> int:
    layers = [name for name in state if re.fullmatch(r"item_learner\.projector\.mlp\.layers\.\d+\.weight", name)]
    return len(layers) - 1


def _bias(state: dict[str, torch.Tensor]) -> bool:
    return any(name.startswith("item_learner.") and name.endswith(".bias") for name in state)


def _fill(network: _ProjectorNetwork, state: dict[str, torch.Tensor], prefix: str) -> None:
    """The authors count linear, dropout and activation, so linear layers are 3 apart."""
    for index, layer in enumerate([*network.hidden, network.output]):
        values = {name: state[f"{prefix}.mlp.layers.{3 * index}.{name}"] for name, _ in layer.named_parameters()}
        layer.load_state_dict(values)
