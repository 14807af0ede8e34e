"""The joined stages: which request a stage makes of what it is given."""

from pathlib import Path

import pytest

from alignment.contracts import TrainSpec
from pipelines import stages

SHAPES = Path(__file__).parents[2] / "projects" / "shapes.toml"


def test_an_online_recipe_trains_without_a_cache_on_the_projects_prompts_and_reward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shapes project may name `prdp_shapes`; the reward it names is one of its gate's judges."""
    text = SHAPES.read_text().replace('"../examples', f'"{SHAPES.parents[1]}/examples')
    (tmp_path / "shapes.toml").write_text(text.replace("diffusion_dpo_shapes", "prdp_shapes"))
    monkeypatch.setenv("PLUMBLINE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("PLUMBLINE_STORE_URI", (tmp_path / "store").as_uri())
    request = stages.job_request(str(tmp_path / "shapes.toml"), "train", {"recipe": 0})
    spec = TrainSpec.model_validate(request.spec)
    project = stages.read_project(str(tmp_path / "shapes.toml"))
    assert spec.online is not None
    assert spec.online.reward.name in {judge.name for judge in project.evaluation.judges}
    assert "shapes_panel_a" in spec.online.reward.lessons
