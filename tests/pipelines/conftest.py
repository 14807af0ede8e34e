"""Settings of a store in a folder of the test's own, a project, and small Pick-a-Pic shards with rows made to order."""

import datetime
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import SecretStr

from pipelines.project import Project, load_project
from pipelines.settings import Settings

Row = dict[str, Any]

PROJECT = """
name = "tiny"
[base]
uri = "base"
licence = "Apache-2.0"
backbone = { name = "stable_diffusion", resolution = 64 }
[[sources]]
name = "tiny_pairs"
kind = "pick_a_pic"
uri = "pairs"
licence = "CC0-1.0"
[snapshot]
calibration_share = 0.3
test_share = 0.2
[[train]]
recipe = "diffusion_dpo_shapes"
[evaluation]
prompts = "prompts.tsv"
seeds = [0]
sampler = { steps = 2 }
[[evaluation.judges]]
name = "judge"
uri = "judge"
scorer = { kind = "clip_preference" }
"""

PAIRS_TYPES = {
    "are_different": pa.bool_(),
    "best_image_uid": pa.string(),
    "caption": pa.string(),
    "created_at": pa.timestamp("ns"),
    "has_label": pa.bool_(),
    "image_0_url": pa.string(),
    "jpg_0": pa.binary(),
    "jpg_1": pa.binary(),
    "label_0": pa.float64(),
    "label_1": pa.float64(),
    "model_0": pa.string(),
    "model_1": pa.string(),
    "user_id": pa.int64(),
}


@pytest.fixture()
def settings(tmp_path: Path) -> Settings:
    return Settings(
        store_uri=(tmp_path / "store").as_uri(),
        tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}",
        state_dir=tmp_path / "state",
        projects_dir=tmp_path / "projects",
        annotator_salt=SecretStr("a salt for tests"),
    )


@pytest.fixture()
def tiny_project(tmp_path: Path) -> Project:
    """A project whose source is the folder `projects/pairs`, with one held-out prompt."""
    folder = tmp_path / "projects"
    (folder / "pairs").mkdir(parents=True)
    (folder / "tiny.toml").write_text(PROJECT)
    (folder / "prompts.tsv").write_text("prompt\tcategory\nA held-out prompt, please!\tany\n")
    return load_project(folder / "tiny.toml")


@pytest.fixture(scope="session")
def tiny_image() -> Callable[..., bytes]:
    """Encoded bytes of a noise image; the seed tells one image from another."""

    def make(seed: int, size: tuple[int, int] = (40, 32), format: str = "PNG") -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        stream = BytesIO()
        Image.fromarray(pixels).save(stream, format)
        return stream.getvalue()

    return make


@pytest.fixture()
def tiny_row(tiny_image: Callable[..., bytes]) -> Callable[..., Row]:
    """A clean row in the columns of Pick-a-Pic v2: other numbers, other images, prompts and people."""

    def make(number: int = 0, **changes: Any) -> Row:
        chosen = number % 2
        row: Row = {
            "are_different": True,
            "best_image_uid": f"uid-{number}",
            "caption": f"prompt number {number}",
            "created_at": datetime.datetime(2024, 1, 2, 3, 4, 5),
            "has_label": True,
            "image_0_url": "http://127.0.0.1:9/never-fetched.png",
            "jpg_0": tiny_image(2 * number),
            "jpg_1": tiny_image(2 * number + 1),
            "label_0": float(chosen),
            "label_1": float(1 - chosen),
            "model_0": "generator-a",
            "model_1": "generator-b",
            "user_id": 1000 + number,
        }
        assert changes.keys() <= {*row, "caption_0", "caption_1"}, "no such column"
        return {**row, **changes}

    return make


@pytest.fixture()
def tiny_pairs(tiny_project: Project) -> Callable[..., Path]:
    """Writes rows as a shard of the tiny project's source, and gives its path."""

    def write(rows: Sequence[Row], name: str = "part-0.parquet", folder: Path | None = None) -> Path:
        path = (folder or Path(tiny_project.sources[0].uri)) / name
        types = {**PAIRS_TYPES, "caption_0": pa.string(), "caption_1": pa.string()}
        schema = pa.schema([(column, types[column]) for column in rows[0]])
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path)
        return path

    return write
