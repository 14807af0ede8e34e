"""Measure what the number formats of a feature cache do to the objective, in the shapes world.

A LoRA is trained on a float32 cache for 100 steps of Diffusion-DPO. Then policy and base predict the same pairs with
the same noise from caches in other formats. Printed for each format, against the float32 cache:

    error    mean change of a pair's denoising error, as a share of the error
    margin   standard deviation of the change of a pair's margin, as a share of the standard deviation of the margin
    sides    share of the pairs whose margin changes its sign
    size     size of the cache

Run `python benchmarks/feature_formats.py`; it takes about two minutes on an idle core.
"""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from alignment.backbones.stable_diffusion import StableDiffusionBackbone
from alignment.config import load_recipe
from alignment.contracts.data import EncodeSpec, Encoding
from alignment.contracts.jobs import Placement
from alignment.contracts.training import TrainSpec
from alignment.data.feature_writing import FeatureWriter
from alignment.data.features import CachedFeatures
from alignment.data.pairs import TrainingPairs, decode_image
from alignment.training.batches import Visit, assemble
from alignment.training.loop import RunInputs, TrainingRun
from alignment.training.offline import OfflineStep
from alignment.training.offline_update import OfflineUpdate
from alignment.training.reference import predictor

SHAPES = Path(__file__).parents[1] / "examples" / "shapes"
PLACEHOLDER = "0" * 64
NUM_PAIRS = 192
DRAWS = 4
"""Draws of noise and timestep for each pair."""
FORMATS = {
    "moments bf16": Encoding(moments="bf16"),
    "encoders bf16": Encoding(precision="bf16"),
    "both bf16": Encoding(precision="bf16", moments="bf16"),
    "images once": Encoding(distinct_images=True),
}
RECIPE = load_recipe("diffusion_dpo_lora_shapes", ("steps=100",))


def main() -> None:
    """Encode in each format, train on the first, compare all."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        make_snapshot(root / "snapshot")
        exact = encode(Encoding(), root / "exact")
        backbone, policy = train(exact, root / "run")
        expected = measure(exact, backbone, policy)
        print(f"fp32: error {expected['chosen_error'].mean():.4f}, margin {expected['margin'].std():.4f}", flush=True)
        for name, encoding in FORMATS.items():
            cache = encode(encoding, root / name)
            found = measure(cache, backbone, policy)
            error = (found["chosen_error"] / expected["chosen_error"] - 1).abs().mean()
            margin = (found["margin"] - expected["margin"]).std() / expected["margin"].std()
            sides = (found["margin"].sign() != expected["margin"].sign()).double().mean()
            size = bytes_of(cache.folder) / bytes_of(exact.folder)
            print(
                f"{name:14s} error {error:.2e}   margin {margin:.2e}   sides {sides:.4f}   size {size:.3f}", flush=True
            )


def make_snapshot(folder: Path) -> None:
    """Write the first decided pairs of the shapes world as a snapshot."""
    folder.mkdir()
    names = ["caption", "jpg_0", "jpg_1", "label_0"]
    tables = [pq.read_table(path, columns=names) for path in sorted((SHAPES / "pairs").glob("*.parquet"))]
    decided = [row for row in pa.concat_tables(tables).to_pylist() if row["label_0"] in (0.0, 1.0)]
    rows = [row for row in decided if all(is_readable(row[f"jpg_{side}"]) for side in (0, 1))][:NUM_PAIRS]
    first = [int(row["label_0"] == 0.0) for row in rows]
    texts = [row["caption"] for row in rows]
    columns = {
        "pair_id": [f"{index:064x}" for index in range(len(rows))],
        **dict.fromkeys(("prompt", "caption_chosen", "caption_rejected"), texts),
        "image_chosen": [row[f"jpg_{side}"] for row, side in zip(rows, first, strict=True)],
        "image_rejected": [row[f"jpg_{1 - side}"] for row, side in zip(rows, first, strict=True)],
        "is_tie": [False] * len(rows),
    }
    pq.write_table(pa.table(columns), folder / "train.parquet")


def is_readable(image: bytes) -> bool:
    """Return False for the damaged images that the shapes world has for its data rules."""
    try:
        decode_image(image, "a pair")
    except ValueError:
        return False
    return True


def encode(encoding: Encoding, out: Path) -> CachedFeatures:
    """Write a cache of the snapshot beside `out`."""
    spec = EncodeSpec(snapshot_digest=PLACEHOLDER, base_digest=PLACEHOLDER, backbone=RECIPE.backbone, encoding=encoding)
    backbone = StableDiffusionBackbone(SHAPES / "base", RECIPE.backbone)
    writer = FeatureWriter(TrainingPairs(out.parent / "snapshot"), backbone, spec, out)
    writer.write(0, 1, lambda: None)
    writer.finish()
    return CachedFeatures(out)


def train(features: CachedFeatures, out: Path) -> tuple[Any, Any]:
    """Train the recipe; return the backbone and the policy."""
    out.mkdir()
    backbone = StableDiffusionBackbone(SHAPES / "base", RECIPE.backbone)
    spec = TrainSpec(recipe=RECIPE, base_digest=PLACEHOLDER, cache_digest=PLACEHOLDER)
    run = TrainingRun(RunInputs(spec, Placement(), backbone, partial(OfflineUpdate, features), out))
    run.run()
    return backbone, run.denoiser


@torch.no_grad()
def measure(features: CachedFeatures, backbone: Any, policy: Any) -> dict[str, Tensor]:
    """Return errors and margins of every pair and draw."""
    device = torch.device("cpu")
    predict = predictor(backbone, policy, RECIPE, device)

    def reference(*given: Any) -> Tensor:
        backbone.set_adapter(policy, enabled=False)
        predicted = predict(*given)
        backbone.set_adapter(policy, enabled=True)
        return predicted

    step = OfflineStep(RECIPE.objective, backbone.schedule, policy=predict, reference=reference)
    found: list[dict[str, Tensor]] = []
    for draw in range(DRAWS):
        for first in range(0, features.index.num_pairs, 32):
            last = min(first + 32, features.index.num_pairs)
            visits = [Visit(pair, draw) for pair in range(first, last)]
            found.append(step(assemble(visits, features, RECIPE, backbone.schedule)).monitors)
    return {name: torch.cat([part[name] for part in found]).double() for name in ("chosen_error", "margin")}


def bytes_of(folder: Path) -> int:
    """Size of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


if __name__ == "__main__":
    main()
