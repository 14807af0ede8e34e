"""Open a feature cache for a recipe, after checking that it fits."""

from alignment.catalogues.objectives import check_captions
from alignment.contracts.training import Recipe
from alignment.data.features import CachedFeatures
from alignment.data.streamed_features import open_features
from alignment.jobs.outcome import JobPaths


def open_checked(paths: JobPaths, cache_digest: str, base_digest: str, recipe: Recipe) -> CachedFeatures:
    """Open a cache; ValueError when it is missing, of another base or backbone, or lacks required captions."""
    features = open_features(paths.input(cache_digest, "feature cache"))
    encoded = features.index.spec
    if encoded.base_digest != base_digest:
        raise ValueError(
            f"The feature cache was encoded by base model {encoded.base_digest}, the spec trains {base_digest}. "
            "Encode the snapshot again with that base."
        )
    if encoded.backbone != recipe.backbone:
        raise ValueError(
            f"The feature cache was encoded for {encoded.backbone!r}, the recipe needs {recipe.backbone!r}. "
            "Encode the snapshot again, or change the recipe's backbone."
        )
    if encoded.images != recipe.images:
        raise ValueError(
            f"The feature cache was cut as {encoded.images!r}, the recipe needs {recipe.images!r}. Encode the"
            " snapshot again, or change the recipe's images."
        )
    if recipe.objective.needs_captions and not features.has_captions():
        check_captions(recipe.objective, 0, "the feature cache")
    return features
