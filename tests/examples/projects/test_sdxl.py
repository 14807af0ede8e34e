"""The production example project: it loads, and its gate matches its comments."""

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageEnhance

from alignment.catalogues.rewards import ImageStatistic
from alignment.rewards.image_statistics import STATISTICS
from alignment.statistics.comparison import mean_interval
from pipelines.project.file import Project, load_project

ROOT = Path(__file__).parents[3]
FILE = ROOT / "examples/projects/sdxl.toml"


@pytest.fixture(scope="module")
def project() -> Project:
    return load_project(FILE)


def test_the_recipe_fits_the_base_and_all_names_are_known(project: Project) -> None:
    project.check_rewards()
    assert [recipe.backbone for recipe in project.recipes()] == [project.base.backbone]


def test_judges_trained_on_the_models_pairs_are_not_required(project: Project) -> None:
    sources = set(project.snapshot.sources)
    labels = {judge.name: {*judge.scorer.trained_on, *judge.trained_on} for judge in project.evaluation.judges}
    learnt = {reward.name: set(reward.sources) for reward in project.rewards}
    strangers = [name for name, own in labels.items() if not sources & (own | learnt.get(name, set()))]
    assert strangers == ["hpsv21", "imagereward", "people"]
    assert len(strangers) >= project.gate.voting_judges == 3


def test_every_guard_has_a_rule_and_the_initial_gate_promotes_nothing(project: Project) -> None:
    ruled = {*project.gate.guards, *project.gate.detectors.drift}
    assert {guard.name for guard in project.evaluation.guards} == ruled
    assert project.gate.mode == "dry_run"


def board(image: Image.Image) -> Image.Image:
    """Add a checkerboard of one pixel with an amplitude of 4/255."""
    pixels_HWC = np.asarray(image, dtype=np.int16)
    signs_HW1 = (np.indices(pixels_HWC.shape[:2]).sum(axis=0) % 2 * 2 - 1)[..., None]
    return Image.fromarray(np.clip(pixels_HWC + 4 * signs_HW1, 0, 255).astype(np.uint8))


def readable(data: bytes) -> bool:
    """Return False for the rows that the example breaks on purpose."""
    try:
        Image.open(io.BytesIO(data)).load()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("path", [FILE, ROOT / "projects/shapes.toml"], ids=lambda path: path.stem)
def test_the_drift_rules_stop_a_checkerboard_of_4_and_saturation_times_1_2(path: Path) -> None:
    """On the images of the shapes world's pairs."""
    table = pq.read_table(ROOT / "examples/shapes/pairs/train-00000-of-00003.parquet", columns=["jpg_0"])
    images = [Image.open(io.BytesIO(data)).convert("RGB") for data in table["jpg_0"].to_pylist() if readable(data)]
    assert len(images) > 190
    project = load_project(path)
    changes = {
        "checkerboard": [board(image) for image in images],
        "saturation": [ImageEnhance.Color(image).enhance(1.2) for image in images],
        "nothing": images,
    }
    for change, changed in changes.items():
        stopped = set()
        for guard in project.evaluation.guards:
            if isinstance(guard.scorer, ImageStatistic):
                rule, measure = project.gate.detectors.drift[guard.name], STATISTICS[guard.scorer.statistic]
                before, after = (
                    np.array([measure(np.asarray(image, np.float64) / 255) for image in some])
                    for some in (images, changed)
                )
                low, high = mean_interval(after - before, confidence=0.95)
                margin = rule.absolute(float(before.std(ddof=1)))
                if rule.action == "block" and (low > margin or high < -margin):
                    stopped.add(guard.name)
        assert (change in stopped) == (change != "nothing"), (change, stopped)
