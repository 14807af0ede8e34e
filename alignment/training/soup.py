"""Model soups: averages of the weights of runs that started from one base.

Source: Wortsman et al. 2022, arXiv:2203.05482, and the authors' main.py. Departures from that code: sums are kept in
float32 and cast once (a running average in half precision loses digits); integer buffers are copied from the first
ingredient instead of becoming floats; scores are compared exactly as they are computed (theirs pass through JSON,
which rounds, so that a soup no better than its best ingredient could be kept).
"""

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from alignment.contracts.values import canonical_json
from alignment.files.durable import files_below
from alignment.files.tensors import write_tensors

Weights = Mapping[str, Tensor]
"""Tensors by name; for a folder, by "file:name"."""
SUFFIX = ".safetensors"


# --- averaging --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sum:
    """Sum of some ingredients' weights, at least float32, and the first ingredient, which sets the dtypes."""

    totals: Weights
    """Floating-point tensors only."""
    first: Weights
    count: int

    @classmethod
    def of(cls, weights: Weights) -> "_Sum":
        """Start with one ingredient."""
        return cls({name: _wide(tensor) for name, tensor in weights.items() if tensor.is_floating_point()}, weights, 1)

    def plus(self, weights: Weights) -> "_Sum":
        """Return the sum with one more ingredient; this sum is unchanged."""
        totals = {name: total + weights[name].to(total.dtype) for name, total in self.totals.items()}
        return _Sum(totals, self.first, self.count + 1)

    def mean(self) -> dict[str, Tensor]:
        """The average in the first ingredient's dtypes; integers and flags are the first ingredient's."""
        averages = {name: (total / self.count).to(self.first[name].dtype) for name, total in self.totals.items()}
        return {name: averages.get(name, tensor) for name, tensor in self.first.items()}


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def uniform_soup(ingredients: Sequence[Callable[[], Weights]]) -> dict[str, Tensor]:
    """Average all ingredients; they are read one at a time."""
    total = _Sum.of(ingredients[0]())
    for read in ingredients[1:]:
        total = total.plus(read())
    return total.mean()


@dataclass(frozen=True)
class _Attempt:
    """One ingredient that a greedy soup tried to add."""

    ingredient: int
    score: float
    """Score of the soup with this ingredient."""
    kept: bool


@dataclass(frozen=True)
class GreedySoup:
    """A greedy soup, and the steps that built it."""

    weights: dict[str, Tensor]
    ingredients: tuple[int, ...]
    """Kept ingredients, in the order of addition; the first is the best single model."""
    score: float
    attempts: tuple[_Attempt, ...]


def greedy_soup(
    ingredients: Sequence[Callable[[], Weights]],
    scores: Sequence[float],
    score: Callable[[Weights], float],
    *,
    minimum_gain: float = 0.0,
) -> GreedySoup:
    """Start with the best ingredient; keep each next one that raises the soup's score by more than `minimum_gain`.

    `scores` are the ingredients' own, by the same `score` on the same validation set; higher is better. Set the gain
    above the noise of the score: with a judge's mean over prompts, its standard error over seeds.
    Raises ValueError when a score is not finite.
    """
    _require_finite({f"ingredient {index}": value for index, value in enumerate(scores)})
    first, *others = _by_score(scores)
    soup, kept, best = _Sum.of(ingredients[first]()), [first], scores[first]
    attempts: list[_Attempt] = []
    for index in others:
        candidate = soup.plus(ingredients[index]())
        reached = score(candidate.mean())
        _require_finite({f"the soup with ingredient {index}": reached})
        attempts.append(_Attempt(index, reached, kept=reached > best + minimum_gain))
        if attempts[-1].kept:
            soup, best = candidate, reached
            kept.append(index)
    return GreedySoup(soup.mean(), tuple(kept), best, tuple(attempts))


def _by_score(scores: Sequence[float]) -> list[int]:
    """Order ingredients by falling score; equal scores in reverse order of the list, as in the authors' code."""
    return sorted(range(len(scores)), key=lambda index: (scores[index], index), reverse=True)


def _require_finite(scores: Mapping[str, float]) -> None:
    bad = [f"{what} has {value}" for what, value in scores.items() if not math.isfinite(value)]
    if bad:
        raise ValueError(f"A greedy soup needs finite validation scores, but {', '.join(bad)}. Fix the judge first.")


# --- folders ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ingredient:
    """The weights/ folder of one finished run, and the facts that it must share with the others."""

    name: str
    """For messages: the recipe's name or the run's digest."""
    weights_dir: Path
    base_digest: str
    family: str
    """`recipe_family` of its recipe, see alignment/contracts/soup.py."""

    def read(self) -> dict[str, Tensor]:
        """Read every tensor of every safetensors file, by "file:name"."""
        return {
            f"{path.relative_to(self.weights_dir).as_posix()}:{name}": tensor
            for path in self.tensor_files()
            for name, tensor in _read_file(path).items()
        }

    def tensor_files(self) -> list[Path]:
        """List the safetensors files, sorted."""
        return [path for path in files_below(self.weights_dir) if path.suffix == SUFFIX]

    def settings(self) -> dict[str, str]:
        """Read everything but tensors: other files' text, and the files' metadata (an adapter's rank and alpha)."""
        files = files_below(self.weights_dir)
        beside = {path: path.read_text(encoding="utf-8") for path in files if path.suffix != SUFFIX}
        metadata = {path: canonical_json(_metadata(path)) for path in self.tensor_files()}
        return {path.relative_to(self.weights_dir).as_posix(): text for path, text in (beside | metadata).items()}


def check_ingredients(ingredients: Sequence[Ingredient]) -> None:
    """Raise one ValueError that names every reason why these weights cannot be averaged."""
    if len(ingredients) < 2:
        raise ValueError(
            f"A soup needs two ingredients or more, got {len(ingredients)}. Train another candidate first."
        )
    first, *others = ingredients
    shapes = _shapes(first)
    problems = [] if shapes else [f"{first.weights_dir} holds no safetensors file"]
    for other in others:
        problems += [f"{other.name} against {first.name}: {problem}" for problem in _mismatches(first, other, shapes)]
    if problems:
        raise ValueError(
            f"These weights cannot be averaged: {'; '.join(problems)}. Soup candidates of one base and one recipe "
            "family."
        )


def write_soup(weights: Weights, like: Ingredient, folder: Path) -> None:
    """Write a weights/ folder in the layout of `like`, whose other files are copied.

    ValueError when a weight is not finite.
    """
    broken = sorted(name for name, tensor in weights.items() if not bool(tensor.isfinite().all()))
    if broken:
        raise ValueError(
            f"The soup has {len(broken)} weights with values that are not finite, such as {broken[0]}. An ingredient is"
            " damaged; leave it out or train it again."
        )
    for path in files_below(like.weights_dir):
        relative = path.relative_to(like.weights_dir)
        (folder / relative).parent.mkdir(parents=True, exist_ok=True)
        if path.suffix != SUFFIX:
            shutil.copyfile(path, folder / relative)
            continue
        prefix = f"{relative.as_posix()}:"
        tensors = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
        write_tensors(folder / relative, tensors, _metadata(path))


def _mismatches(first: Ingredient, other: Ingredient, shapes: Mapping[str, str]) -> list[str]:
    found = []
    if other.base_digest != first.base_digest:
        found.append(f"base {other.base_digest[:12]}, not {first.base_digest[:12]}")
    if other.family != first.family:
        found.append(f"recipe family {other.family}, not {first.family}")
    theirs = _shapes(other)
    lacking, extra = sorted(set(shapes) - set(theirs)), sorted(set(theirs) - set(shapes))
    if lacking or extra:
        found.append(f"{len(lacking)} tensors missing and {len(extra)} too many, such as {(lacking + extra)[0]}")
    differing = [name for name in shapes if name in theirs and theirs[name] != shapes[name]]
    if differing:
        example = differing[0]
        found.append(f"{len(differing)} tensors differ, such as {example}: {theirs[example]}, not {shapes[example]}")
    ours, settings = first.settings(), other.settings()
    if not found and ours != settings:
        found.append(f"different settings in {', '.join(sorted(n for n in ours if ours[n] != settings.get(n)))}")
    return found


def _shapes(ingredient: Ingredient) -> dict[str, str]:
    """Return "dtype shape" of every tensor, from the headers only."""
    shapes = {}
    for path in ingredient.tensor_files():
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                part = file.get_slice(name)
                key = f"{path.relative_to(ingredient.weights_dir).as_posix()}:{name}"
                shapes[key] = f"{part.get_dtype()} {part.get_shape()}"
    return shapes


def _read_file(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})
