"""A cache of another base, backbone or cut is refused; see test_train.py for captions."""

from pathlib import Path
from typing import Any

import pytest

from alignment.catalogues.backbones import StableDiffusion
from alignment.catalogues.images import AspectBuckets
from alignment.jobs.checked_features import open_checked
from alignment.jobs.outcome import JobPaths

# The first test of a session includes the time to import the model libraries and to encode the cache.
pytestmark = pytest.mark.timeout(300)


def test_a_cache_that_does_not_fit_is_refused(bench: Any) -> None:
    spec = bench.train_spec()
    paths = JobPaths(Path("spec"), Path("placement"), bench.inputs, Path("out"))
    assert open_checked(paths, spec.cache_digest, spec.base_digest, spec.recipe).index.num_pairs == 24
    with pytest.raises(ValueError, match=r"was encoded by base model .*Encode the snapshot again with that base"):
        open_checked(paths, spec.cache_digest, "0" * 64, spec.recipe)
    larger = spec.recipe.model_copy(update={"backbone": StableDiffusion(resolution=128)})
    with pytest.raises(ValueError, match=r"was encoded for .* the recipe needs .*resolution=128"):
        open_checked(paths, spec.cache_digest, spec.base_digest, larger)
    cut = spec.recipe.model_copy(update={"images": AspectBuckets(step_pixels=16)})
    with pytest.raises(ValueError, match=r"was cut as .* the recipe needs .*AspectBuckets"):
        open_checked(paths, spec.cache_digest, spec.base_digest, cut)
    with pytest.raises(ValueError, match="The feature cache with digest 0000"):
        open_checked(paths, "0" * 64, spec.base_digest, spec.recipe)
