"""Reward recipes and heads: defaults, JSON round trip, refused mixtures."""

import pytest
from pydantic import ValidationError

from alignment.contracts.reward_models import BradleyTerry, HeadFile, PalA, PalB, RewardRecipe, RewardTrainSpec

FIELDS = {"name": "x", "global_batch": 8, "steps": 2, "seed": 1}


@pytest.mark.parametrize("head", [PalA(num_prototypes=3), PalB(temperature=0.5), BradleyTerry()])
def test_a_recipe_survives_json(head: PalA | PalB | BradleyTerry) -> None:
    recipe = RewardRecipe.model_validate(FIELDS | {"head": head})
    assert RewardRecipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert recipe.digest != RewardRecipe.model_validate(FIELDS | {"head": head, "seed": 2}).digest


def test_the_authors_settings_are_the_defaults() -> None:
    head = PalB()
    assert (head.comparison, head.link) == ("angle", "cross_entropy")
    assert (head.projector.num_hidden_layers, head.projector.activation) == (2, "relu")
    assert (head.projector.dropout, head.projector.residual, head.projector.bias) == (0.5, True, True)
    assert head.bound is not None
    assert (head.bound.upper, head.bound.weight) == (4.0, 1.0)
    assert (PalA().comparison, PalA().link, PalA().ideal_point, PalA().bound) == ("distance", "hinge", "f(Pw)", None)


def test_a_mixture_must_fit_the_prototypes() -> None:
    spec = {"recipe": FIELDS | {"head": {"kind": "pal_b"}}, "snapshot_digest": "a" * 64, "embedder_digest": "b" * 64}
    assert RewardTrainSpec.model_validate(spec).mixture == ()
    assert RewardTrainSpec.model_validate(spec | {"mixture": [0.3, 0.7]}).mixture == (0.3, 0.7)
    for mixture in ([0.3], [0.3, 0.3], [-0.5, 1.5]):
        with pytest.raises(ValidationError, match="must be 2 weights of at least 0 that add up to 1"):
            RewardTrainSpec.model_validate(spec | {"mixture": mixture})
    with pytest.raises(ValidationError, match="must be 1 weights"):
        HeadFile(head=BradleyTerry(), image_width=4, text_width=4, mixture=(0.5, 0.5))
