"""PAL against a single-preference head: annotators, their labels, the table, and the real job."""

import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def tastes(shapes_module: Callable[[str], ModuleType]) -> ModuleType:
    return shapes_module("compare_tastes")


def test_annotators_match_the_shares_of_the_groups(tastes: ModuleType) -> None:
    world = Counter(taste.centred for taste in tastes.annotators(tastes.POPULATIONS["world"]))
    assert world == {0.20: 12, 0.80: 10, 0.45: 8} or world == {0.20: 12, 0.80: 11, 0.45: 7}
    opposed = Counter(taste.vivid for taste in tastes.annotators(tastes.OPPOSED))
    assert opposed == {1.0: 10, -1.0: 10, 0.1: 10}


def test_opposed_annotators_choose_opposite_images(tastes: ModuleType, shapes_module: Any) -> None:
    world = shapes_module("world")
    prompts = world.training_prompts()[:3]
    rows = tastes.labelled(tastes.OPPOSED, prompts, 4, seed=3).to_pylist()
    assert len(rows) == 4 * tastes.ANNOTATORS
    assert len({row["pair_id"] for row in rows}) == len(rows)
    groups = {f"annotator-{number:02d}": taste for number, taste in enumerate(tastes.annotators(tastes.OPPOSED))}

    def vividness_gained(row: dict[str, Any]) -> float:
        chosen, rejected = (world.measure(decoded(row[f"image_{side}"])).chroma for side in ("chosen", "rejected"))
        return float(chosen - rejected)

    for wanted in (1.0, -1.0):
        decided = [r for r in rows if groups[r["annotator_id"]].vivid == wanted and not r["is_tie"]]
        right = [vividness_gained(row) * wanted > 0 for row in decided]
        assert sum(right) > 0.75 * len(right)


def decoded(image: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(image)))


def test_the_table_pools_seeds_and_names_both_heads(tastes: ModuleType) -> None:
    def line(seed: int, accuracy: float) -> dict[str, Any]:
        row = {"users": "unseen", "labels_per_user": 5, "num_pairs": 10, "accuracy": accuracy, "baseline_accuracy": 0.5}
        return {"population": "opposed", "head": "pal_a", "seed": seed, "accuracies": [row]}

    text = tastes.table([line(7, 0.6), line(8, 0.8)])
    assert "| opposed | pal_a | 2 | - | 0.700 / 0.500 (n 20) | - | - |" in text
    assert "world" not in text


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_uses_the_real_job_and_its_embeddings_are_reused(
    tastes: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("ANNOTATORS", 5), ("TRAIN_LABELS", 12), ("TEST_LABELS", 4), ("LABELS", (2,))):
        monkeypatch.setattr(tastes, name, value)
    lab = tastes.Laboratory(tmp_path)
    first = tastes.run(lab, "opposed", "pal_a", 7)
    assert [(row["users"], row["labels_per_user"]) for row in first["accuracies"]] == [("seen", 0), ("unseen", 2)]
    monkeypatch.setattr(tastes.train_reward, "ClipModel", lambda *_: pytest.fail("the embeddings exist already"))
    second = tastes.run(lab, "opposed", "pal_b", 7)
    assert second["spec_digest"] != first["spec_digest"]
