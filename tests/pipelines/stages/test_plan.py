"""The stage returns plain JSON, with recipe overrides, and runs nothing."""

import json
from pathlib import Path

from pipelines.stages import plan

ROOT = Path(__file__).parents[3]


def test_the_plan_of_each_recipe_is_plain_json() -> None:
    found = plan.plan(str(ROOT / "projects/shapes.toml"), ("global_batch=2",), gpu="l4")
    assert json.loads(json.dumps(found)) == found
    for recipe in found:
        (placement, *_) = recipe["placements"]
        assert placement["micro_batch"] <= 2
        (card,) = placement["cards"]
        assert (card["gpu"], card["fits"]) == ("l4", True)
