"""Plan of a project's training: memory, pace, hours and cost of each recipe by placement and card. Torch-free."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignment.catalogues.lookup import unknown_name
from alignment.catalogues.published import published_base
from alignment.contracts.jobs import DevicePrices, Placement
from alignment.contracts.training import Recipe, check_sharding
from alignment.contracts.values import Record
from pipelines.dispatch.base_facts import base_facts
from pipelines.dispatch.gpus import list_gpus
from pipelines.dispatch.model_folders import is_here, local_folder
from pipelines.dispatch.sizing.architecture import units_of
from pipelines.dispatch.sizing.cards import CARDS, Card, find_card, pairs_per_second
from pipelines.dispatch.sizing.measured import Measured, Run, finished_runs, measured_run
from pipelines.dispatch.sizing.memory import (
    GIB,
    Denoiser,
    MemoryParts,
    TrainingCase,
    case_of,
    largest_micro_batch,
    share_of_batch,
    training_memory,
)
from pipelines.dispatch.sizing.weights import DENOISERS, base_weights
from pipelines.workspace import Workspace

__all__ = ["denoiser_of", "plan_project"]


class CardPlan(Record):
    """A recipe in a placement on one card. Pace, hours and cost are estimates unless `measured`; none if not one pair
    fits.
    """

    gpu: str
    memory_gib: float
    """Memory of the card."""
    fits: bool
    """True if the micro-batch of the placement fits."""
    largest_micro_batch: int
    """Most pairs that a process can hold at once; 0: not one."""
    pairs_per_second: float | None = None
    """Of one GPU."""
    gpu_hours: float | None = None
    hours: float | None = None
    """With all GPUs of the placement."""
    cost: float | None = None
    currency: str = ""
    late: bool = False
    """True if the hours exceed `deadline_hours` of the placement."""
    measured: Measured | None = None
    """The finished training whose pace this is; none: it is estimated."""


class PlacementPlan(Record):
    """Memory of one process in a placement, GiB."""

    settings: dict[str, Any]
    """Fields of `[placement.train]` that differ from the project's; empty for its own placement."""
    micro_batch: int
    weights: float
    reference: float
    gradients: float
    optimiser: float
    copies: float
    activations: float
    reserve: float
    total: float
    cards: tuple[CardPlan, ...]


class RecipePlan(Record):
    """Plan of one recipe."""

    recipe: str
    base: str
    """Origin of the numbers of weights."""
    num_weights: int
    placements: tuple[PlacementPlan, ...]
    note: str = ""


def plan_project(workspace: Workspace, gpu: str = "") -> list[RecipePlan]:
    """Plan every recipe of the project for a card by its name; without one for the GPUs of this host, else for all.

    ValueError for a card that is not in the table.
    """
    cards, runs = _chosen_cards(gpu), finished_runs(workspace)
    shared = {position for group in workspace.project.shared_references() for position in group}
    return [
        _recipe_plan(workspace, recipe, cards, _Past(runs, shared=position in shared))
        for position, recipe in enumerate(workspace.project.recipes())
    ]


@dataclass(frozen=True)
class _Past:
    """Finished trainings of the project, and if the recipe's errors of the base are computed before it runs."""

    runs: list[Run]
    shared: bool


def denoiser_of(workspace: Workspace, recipe: Recipe) -> tuple[Denoiser, str]:
    """Return the base's denoiser and where its numbers come from: the base's folder on this host, else the published
    base of its family.
    """
    base = workspace.project.base
    family, side = recipe.backbone.name, base_facts(workspace).latent_shape[1]
    if is_here(base.uri, workspace.settings):
        folder = local_folder(base.uri, workspace.settings)
        return Denoiser(base_weights(folder), units_of(family, _denoiser_config(folder), side)), "the base's folder"
    published = published_base(family)
    return Denoiser(published.weights, units_of(family, published.config, side)), f"{published.title} as published"


def _denoiser_config(folder: Path) -> dict[str, Any]:
    path = next((folder / part / "config.json" for part in DENOISERS if (folder / part).is_dir()), folder)
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _chosen_cards(gpu: str) -> list[Card]:
    if gpu:
        if gpu not in CARDS:
            raise ValueError(unknown_name("gpu", gpu, CARDS))
        return [CARDS[gpu]]
    own = {card.name: card for line in list_gpus() if (card := find_card(line.partition(",")[0]))}
    return list(own.values()) or list(CARDS.values())


def _recipe_plan(workspace: Workspace, recipe: Recipe, cards: Sequence[Card], past: _Past) -> RecipePlan:
    denoiser, origin = denoiser_of(workspace, recipe)
    own, prices = workspace.project.placement.train, workspace.project.prices
    placements = tuple(
        _placement_plan(
            recipe, own.model_copy(update=changes), changes, denoiser, cards=cards, past=past, prices=prices
        )
        for changes in _choices(recipe, own)
    )
    return RecipePlan(
        recipe=recipe.name,
        base=origin,
        num_weights=sum(group.count * _size(group.shape) for group in denoiser.weights),
        placements=placements,
        note=_ONLINE_NOTE if recipe.objective.online else "",
    )


_ONLINE_NOTE = (
    "The recipe draws its images: a micro-batch counts images, the pace depends on reward and sampler and is not"
    " estimated, and the reward model's memory comes on top."
)


def _size(shape: Sequence[int]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total


def _choices(recipe: Recipe, own: Placement) -> list[dict[str, Any]]:
    """Return the changes to the project's placement that have a row: none, and each that lowers the memory."""
    lighter = [{"gradient_checkpointing": policy} for policy in ("every_n", "all")]
    found = [changes for changes in lighter if changes.keys() <= Placement.model_fields.keys()]
    sharded = {"sharding": "fsdp2"}
    if own.num_processes > 1 and _allows(recipe, own.model_copy(update=sharded)):
        found += [sharded, *(changes | sharded for changes in found)]
    stated = own.model_dump()
    return [{}, *(changes for changes in found if any(stated[name] != value for name, value in changes.items()))]


def _allows(recipe: Recipe, placement: Placement) -> bool:
    try:
        check_sharding(recipe, placement)
    except ValueError:
        return False
    return True


def _placement_plan(
    recipe: Recipe,
    placement: Placement,
    changes: dict[str, Any],
    denoiser: Denoiser,
    *,
    cards: Sequence[Card],
    past: _Past,
    prices: DevicePrices | None,
) -> PlacementPlan:
    case = case_of(recipe, placement)
    parts = training_memory(case, denoiser)
    return PlacementPlan(
        settings=changes,
        micro_batch=case.micro_batch,
        **{name: round(getattr(parts, name) / GIB, 2) for name in (*MemoryParts.model_fields, "total")},
        cards=tuple(
            _card_plan(recipe, placement, case, denoiser, card=card, parts=parts, past=past, prices=prices)
            for card in cards
        ),
    )


def _card_plan(
    recipe: Recipe,
    placement: Placement,
    case: TrainingCase,
    denoiser: Denoiser,
    *,
    card: Card,
    parts: MemoryParts,
    past: _Past,
    prices: DevicePrices | None,
) -> CardPlan:
    measured = measured_run(past.runs, recipe, placement, case=case, card=card, shared=past.shared)
    held = measured.micro_batch if measured else 0
    largest = max(held, largest_micro_batch(case, denoiser, card.memory_gib))
    plan = CardPlan(
        gpu=card.name,
        memory_gib=card.memory_gib,
        fits=held >= case.micro_batch or parts.total <= card.memory_gib * GIB,
        largest_micro_batch=min(largest, share_of_batch(recipe, placement)),
        measured=measured,
    )
    if not largest or recipe.objective.online:
        return plan
    pace = measured.pairs_per_second if measured else pairs_per_second(case, denoiser.units, card)
    gpu_hours = recipe.steps * recipe.global_batch / pace / 3600
    price = prices.hourly("gpu") if prices else None
    hours, deadline = gpu_hours / placement.num_processes, placement.deadline_hours
    estimate = {
        "pairs_per_second": pace,
        "gpu_hours": gpu_hours,
        "hours": hours,
        "late": deadline is not None and hours > deadline,
        "cost": None if price is None else price * gpu_hours,
        "currency": prices.currency if prices and price is not None else "",
    }
    return plan.model_copy(update=estimate)
