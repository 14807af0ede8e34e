"""The search space: the `[search]` table, and one proposal from it. Pure; knows no optimiser and no job.

Values are relative to the recipes that the search starts from, so that one range serves several objectives, whose beta
has different units.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from alignment.catalogues.lookup import unknown_name
from alignment.config import load_recipe
from alignment.contracts.jobs import Placement
from alignment.contracts.training import FullFineTune, Recipe
from alignment.contracts.values import Record
from pipelines.project.search import DEFAULT_FACTORS, SearchSection

AS_IT_IS = "as it is"
"""The choice that keeps a recipe's own value, or the project's placement."""


class _Suggest(Protocol):
    """Source of choices: a trial of the optimiser, or a test."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        """Return a value of the range."""
        ...

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> Any:
        """Return one of the choices."""
        ...


class Start(Record):
    """A recipe to start from, with the name shown to the user."""

    recipe: str
    overrides: tuple[str, ...] = ()

    def load(self, overrides: Sequence[str] = ()) -> Recipe:
        """Load the recipe with more overrides; ValueError when they do not fit it."""
        return load_recipe(self.recipe, (*self.overrides, *overrides))


class Proposal(Record):
    """A recipe to try, and the short run that measures it."""

    start: str
    """Label of the starting recipe."""
    recipe: Recipe
    """The recipe of the complete run, used if this proposal wins."""
    trial: Recipe
    """The same science over few steps, its warm-up shortened to a quarter of them. Its name contains the placement: a
    job's result is found by its science alone, while a trial measures the placement too."""
    placement: Placement
    changes: tuple[str, ...]
    """Differences from the starting recipe, as overrides."""


class Space(Record):
    """Everything that may be tried."""

    section: SearchSection
    starts: dict[str, Start]
    placement: Placement

    def check(self) -> None:
        """Raise ValueError when a factor's field is in none of the recipes, or is not a number above 0 in one."""
        recipes = [start.load() for start in self.starts.values()]
        for field in self.section.factors:
            values = [value for recipe in recipes if (value := _field_value(recipe, field)) is not None]
            if field in DEFAULT_FACTORS and not values:
                continue
            if not values:
                known = {name for recipe in recipes for name in _number_fields(recipe)}
                raise ValueError(unknown_name("field of search.factors", field, known))
            if not all(value > 0 for value in values):
                raise ValueError(
                    f"search.factors.{field}: a recipe has {min(values):g}; only values above 0 can be scaled."
                )

    def unchanged(self) -> list[dict[str, Any]]:
        """Return the choices that lead to each starting recipe unchanged."""
        section = self.section
        fixed = {f"factor of {field}": 1.0 for field in section.factors}
        lists = {"tuning": section.lora_ranks, "global_batch": section.global_batches}
        lists["micro_batch"] = section.micro_batches
        fixed_lists = {name: AS_IT_IS for name, values in lists.items() if values}
        return [{"recipe": name, **fixed, **fixed_lists} for name in self.starts]

    def most_visits(self) -> int:
        """Return the most pairs that a trial sees, counted once per epoch; an upper bound."""
        own = [start.load().global_batch for start in self.starts.values()]
        # The steps of another global batch are rounded: at most half a batch more, or a single step.
        return self.section.trial_steps * max(own) + max([*own, *self.section.global_batches])

    def propose(self, suggest: _Suggest) -> Proposal:
        """Request every choice and build the recipe; ValueError when the choices do not make a valid one."""
        label = str(suggest.suggest_categorical("recipe", tuple(self.starts)))
        start = self.starts[label]
        own = start.load()
        changes = [*self._tuning(suggest, own), *self._factors(suggest, own)]
        batch = self._choice(suggest, "global_batch", self.section.global_batches)
        micro = self._choice(suggest, "micro_batch", self.section.micro_batches)
        if batch is not None and batch != own.global_batch:
            changes += [f"global_batch={batch}", f"steps={_same_pairs(own.steps, own, batch)}"]
        placement = self.placement.model_copy(
            update={"sample_prompts": (), "micro_batch": micro or self.placement.micro_batch}
        )
        recipe = start.load(changes)
        trial = _shortened(recipe, _same_pairs(self.section.trial_steps, own, recipe.global_batch), placement)
        return Proposal(start=label, recipe=recipe, trial=trial, placement=placement, changes=tuple(changes))

    def _factors(self, suggest: _Suggest, own: Recipe) -> list[str]:
        changes = []
        for field, (low, high) in self.section.factors.items():
            value = _field_value(own, field)
            if value is None:
                continue
            factor = suggest.suggest_float(f"factor of {field}", low, high, log=True)
            if factor != 1:
                changes.append(f"{field}={float(f'{value * factor:.3g}')!r}")
        return changes

    def _tuning(self, suggest: _Suggest, own: Recipe) -> list[str]:
        rank = self._choice(suggest, "tuning", self.section.lora_ranks)
        if rank is None:
            return []
        if rank == 0:
            return [] if isinstance(own.tuning, FullFineTune) else ["tuning={kind='full'}"]
        if isinstance(own.tuning, FullFineTune):
            return [f"tuning={{kind='lora', rank={rank}, alpha={rank}}}"]
        return [f"tuning.rank={rank}", f"tuning.alpha={rank}"]

    def _choice(self, suggest: _Suggest, name: str, values: Sequence[int]) -> int | None:
        """Choose one of the values; None keeps the recipe's own. Nothing is requested when there are no values."""
        if not values:
            return None
        choice = str(suggest.suggest_categorical(name, (AS_IT_IS, *map(str, values))))
        return None if choice == AS_IT_IS else int(choice)


def _shortened(recipe: Recipe, steps: int, placement: Placement) -> Recipe:
    """Shorten a recipe to `steps` steps, at most its own number."""
    steps = min(steps, recipe.steps)
    optimiser = recipe.optimiser.model_copy(update={"warmup_steps": min(recipe.optimiser.warmup_steps, steps // 4)})
    name = f"{recipe.name}.trial_{_placement_digest(placement)[:8]}"
    return recipe.model_copy(update={"name": name, "steps": steps, "optimiser": optimiser})


def _field_value(recipe: Recipe, field: str) -> float | None:
    """Return the number at a dotted field of a recipe; None where it has none."""
    return _number_fields(recipe).get(field)


def _number_fields(recipe: Recipe) -> dict[str, float]:
    """Return every number of a recipe that is not a count, by its dotted name."""
    found: dict[str, float] = {}

    def walk(table: Mapping[str, Any], prefix: str) -> None:
        for name, value in table.items():
            if isinstance(value, Mapping):
                walk(value, f"{prefix}{name}.")
            elif isinstance(value, float):
                found[f"{prefix}{name}"] = value

    walk(recipe.model_dump(), "")
    return found


def _same_pairs(steps: int, own: Recipe, global_batch: int) -> int:
    """Return the steps of another global batch that see as many pairs."""
    return max(1, round(steps * own.global_batch / global_batch))


def _placement_digest(placement: Placement) -> str:
    """Return the identity of the placement settings on which a trial's figures depend."""
    return hashlib.sha256(placement.model_dump_json().encode()).hexdigest()
