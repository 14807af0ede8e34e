"""Value objects of reference errors: the base's errors that several runs share, computed once. Torch-free.

Noise and timestep of a visit are a function of (seed, pair, epoch), so the error of the base on it is the same for all
recipes with the same seed, cache and captions, whatever their objective, beta, learning rate, adapter or batch.
"""

from collections import defaultdict
from collections.abc import Sequence

from alignment.catalogues.objectives import DCPO, DiffusionDPO
from alignment.catalogues.optimisers import AdamW, DivergenceGuard
from alignment.contracts.training import Lora, Recipe, TrainSpec
from alignment.contracts.values import PositiveInt, Sha256, ValueObject

SHARED_PRECISIONS = ("fp32",)
"""Precisions of a recipe whose runs may share errors.

The policy begins as the reference. In one pass over the same batch both round alike, so that rounding cancels in the
margin; an error from another pass need not cancel, because a kernel may add in another order. A difference of that size
moves an error by 1e-7 in float32 and by 2e-4 in bf16 (benchmarks/shared_reference.py), and a margin by beta times that:
at beta 5000 by 3e-4 and by 0.5.
"""


_HANDLED = {
    *(
        "schema_version",
        "name",
        "backbone",
        "images",
        "objective",
        "tuning",
        "optimiser",
        "global_batch",
        "steps",
        "seed",
    ),
    *("precision", "max_grad_norm", "caption_dropout", "flip_labels", "divergence", "selected_by"),
}
"""Fields of a recipe that the job of the errors takes into account, or that cannot change them."""


class ReferenceSpec(ValueObject):
    """Science of the base's errors in the first visits of a seed's stream of shuffled epochs."""

    common: Recipe
    """The part of the recipes on which the errors depend; every other field has a fixed value. One pair is a step, so
    `steps` is the number of visits."""
    base_digest: Sha256
    cache_digest: Sha256

    @property
    def key(self) -> str:
        """Return the digest without the number of visits: the name of the errors among the inputs of a training."""
        return self.model_copy(update={"common": self.common.model_copy(update={"steps": 1})}).digest


class ReferenceErrors(ValueObject):
    """Errors of the base on the chosen and rejected image of every visit. The folder holds errors/*.safetensors."""

    uri: str
    content_digest: Sha256
    spec_digest: Sha256
    key: Sha256
    """`ReferenceSpec.key`."""
    num_visits: PositiveInt


def reference_spec(spec: TrainSpec) -> ReferenceSpec | None:
    """Return the specification of the errors that a run can use; None if it may share none or needs no reference."""
    if spec.cache_digest is None or not may_share(spec.recipe):
        return None
    common = _common_part(spec.recipe)
    return ReferenceSpec(common=common, base_digest=spec.base_digest, cache_digest=spec.cache_digest)


def may_share(recipe: Recipe) -> bool:
    """Return True for a recipe that trains on a feature cache against a reference, in a precision that allows it.

    A field that was added to recipes since must have its default.
    """
    params, fields = recipe.objective, type(recipe).model_fields
    others = {name: field for name, field in fields.items() if name not in _HANDLED}
    usual = all(getattr(recipe, name) == field.get_default(call_default_factory=True) for name, field in others.items())
    return params.needs_reference and not params.online and recipe.precision in SHARED_PRECISIONS and usual


def sharing(recipes: Sequence[Recipe]) -> list[list[int]]:
    """Return the positions of the recipes in groups of two or more that need the same errors of one base."""
    groups: dict[str, list[int]] = defaultdict(list)
    for position, recipe in enumerate(recipes):
        if may_share(recipe):
            groups[_common_part(recipe).model_copy(update={"steps": 1}).digest].append(position)
    return [positions for positions in groups.values() if len(positions) > 1]


def _common_part(recipe: Recipe) -> Recipe:
    """Replace every field on which the base's errors do not depend."""
    plain = Lora()
    adapter = {name: getattr(plain, name) for name in ("rank", "alpha", "target_modules")}
    tuning = recipe.tuning.model_copy(update=adapter) if isinstance(recipe.tuning, Lora) else recipe.tuning
    return recipe.model_copy(
        update={
            "name": "reference",
            "objective": DCPO() if recipe.objective.needs_captions else DiffusionDPO(),
            "tuning": tuning,
            "optimiser": AdamW(learning_rate=1.0),
            "global_batch": 1,
            "steps": recipe.steps * recipe.global_batch,
            "max_grad_norm": 1.0,
            "flip_labels": False,
            "divergence": DivergenceGuard(),
            "selected_by": (),
        }
    )
