"""Written caches: the same bytes however the work is divided, images stored once, number formats, size."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from alignment.backbones.interface import LatentMoments
from alignment.backbones.stable_diffusion import StableDiffusionBackbone
from alignment.catalogues.backbones import StableDiffusion
from alignment.catalogues.images import AspectBuckets
from alignment.contracts.data import EncodeSpec, Encoding
from alignment.data.feature_writing import FeatureWriter
from alignment.data.features import CachedFeatures
from alignment.data.pairs import TrainingPairs

# The first test of a session also imports the model libraries and encodes the cache.
pytestmark = pytest.mark.timeout(300)


def written(
    base_dir: Path, snapshot_dir: Path, spec: EncodeSpec, out: Path, *, ranks: int = 1, threads: int = 1
) -> CachedFeatures:
    """Encode a snapshot as several ranks, the last one first, each with its own backbone."""
    for rank in reversed(range(ranks)):
        backbone = StableDiffusionBackbone(base_dir, StableDiffusion(resolution=64))
        writer = FeatureWriter(TrainingPairs(snapshot_dir), backbone, spec, out, threads=threads)
        writer.write(rank, ranks, lambda: None)
    writer.finish()
    return CachedFeatures(out)


def repeated(snapshot_dir: Path, out: Path) -> Path:
    """A copy of a snapshot in which every pair's rejected image is the chosen one of the pair before."""
    out.mkdir()
    table = pq.read_table(snapshot_dir / "train.parquet")
    chosen = table["image_chosen"].to_pylist()
    column = pa.array([chosen[max(0, index - 1)] for index in range(len(chosen))])
    table = table.set_column(table.schema.get_field_index("image_rejected"), "image_rejected", column)
    pq.write_table(table, out / "train.parquet", row_group_size=10)
    return out


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_writing_again_changes_no_byte_and_other_ranks_write_other_shards(
    bench: Any, tiny_sd_dir: Path, tiny_snapshot_dir: Path, tmp_path: Path
) -> None:
    backbone = StableDiffusionBackbone(tiny_sd_dir, StableDiffusion(resolution=64))
    finished: list[int] = []
    for rank in (1, 0):
        writer = FeatureWriter(TrainingPairs(tiny_snapshot_dir), backbone, bench.encode_spec, tmp_path)
        writer.write(rank, 2, lambda writer=writer: finished.append(writer.num_finished()))
    assert finished == [1, 2, 3, 4, 5]
    writer.finish()
    for path in writer.files():
        name = path.relative_to(tmp_path)
        assert path.read_bytes() == (bench.root / "cache" / name).read_bytes(), name


def test_a_cache_of_buckets_has_the_same_bytes_with_any_number_of_ranks(
    bucketed_bench: Any, tiny_sd_dir: Path, tiny_mixed_snapshot_dir: Path, tmp_path: Path
) -> None:
    backbone = StableDiffusionBackbone(tiny_sd_dir, StableDiffusion(resolution=64))
    for rank in (1, 0):
        writer = FeatureWriter(TrainingPairs(tiny_mixed_snapshot_dir), backbone, bucketed_bench.encode_spec, tmp_path)
        writer.write(rank, 2, lambda: None)
    writer.finish()
    names = [path.relative_to(tmp_path).as_posix() for path in writer.files()]
    assert "buckets.safetensors" in names
    for name in names:
        assert (tmp_path / name).read_bytes() == (bucketed_bench.root / "cache" / name).read_bytes(), name


@pytest.mark.parametrize("images", [None, AspectBuckets(step_pixels=16, flip=True)])
def test_images_stored_once_give_the_pairs_of_images_stored_with_each_pair(
    bench: Any, tiny_sd_dir: Path, tiny_mixed_snapshot_dir: Path, tmp_path: Path, images: AspectBuckets | None
) -> None:
    snapshot = repeated(tiny_mixed_snapshot_dir, tmp_path / "snapshot")
    spec = bench.encode_spec.model_copy(update={"images": images} if images else {})
    once = spec.model_copy(update={"encoding": Encoding(distinct_images=True)})
    plain = written(tiny_sd_dir, snapshot, spec, tmp_path / "plain")
    single = written(tiny_sd_dir, snapshot, once, tmp_path / "once", ranks=3, threads=2)
    assert (single.index.num_pairs, plain.index.num_images) == (24, 0)
    if images is None:
        assert single.index.num_images == 24 + 5, "the chosen ones, and five of ties as rejected ones after them"
    for index in range(24):
        ours, theirs = single.pair(index), plain.pair(index)
        assert (ours.caption_chosen, ours.prompts) == (theirs.caption_chosen, theirs.prompts)
        assert single.bucket(index) == plain.bucket(index)
        for name in ("chosen_mean_CHW", "chosen_std_CHW", "rejected_mean_CHW", "rejected_std_CHW"):
            torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), atol=1e-5, rtol=1e-4)
    assert single.index.buckets == plain.index.buckets


def test_an_image_that_is_stored_once_is_encoded_once_and_ranks_do_not_change_its_bytes(
    bench: Any, tiny_sd_dir: Path, tiny_snapshot_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[bytes]()
    honest = StableDiffusionBackbone.encode_images

    def watched(self: StableDiffusionBackbone, pixels_BCHW: torch.Tensor) -> LatentMoments:
        seen.extend(pixels.numpy().tobytes() for pixels in pixels_BCHW)
        return honest(self, pixels_BCHW)

    monkeypatch.setattr(StableDiffusionBackbone, "encode_images", watched)
    snapshot = repeated(tiny_snapshot_dir, tmp_path / "snapshot")
    spec = bench.encode_spec.model_copy(update={"encoding": Encoding(distinct_images=True)})
    features = written(tiny_sd_dir, snapshot, spec, tmp_path / "one")
    assert len(seen) == len(set(seen)) == features.index.num_images
    written(tiny_sd_dir, snapshot, spec, tmp_path / "two", ranks=2, threads=3)
    assert bytes_of(tmp_path / "two") == bytes_of(tmp_path / "one")


def test_moments_in_bf16_are_the_rounded_ones_in_half_the_space(
    bench: Any, tiny_sd_dir: Path, tiny_snapshot_dir: Path, tmp_path: Path
) -> None:
    spec = bench.encode_spec.model_copy(update={"encoding": Encoding(moments="bf16")})
    small = written(tiny_sd_dir, tiny_snapshot_dir, spec, tmp_path)
    exact = CachedFeatures(bench.inputs / bench.cache.content_digest)
    for index in (0, 23):
        for name in ("chosen_mean_CHW", "rejected_std_CHW"):
            expected = getattr(exact.pair(index), name).bfloat16().float()
            assert torch.equal(getattr(small.pair(index), name), expected)
    sizes = [
        sum(rows.nbytes for name, rows in load_file(folder / "pairs/00000.safetensors").items() if "BCHW" in name)
        for folder in (small.folder, exact.folder)
    ]
    assert 2 * sizes[0] == sizes[1]


def test_encoders_in_bf16_give_nearly_the_same_features(
    bench: Any, tiny_sd_dir: Path, tiny_snapshot_dir: Path, tmp_path: Path
) -> None:
    spec = bench.encode_spec.model_copy(update={"encoding": Encoding(precision="bf16")})
    rounded = written(tiny_sd_dir, tiny_snapshot_dir, spec, tmp_path)
    exact = CachedFeatures(bench.inputs / bench.cache.content_digest)
    ours, theirs = rounded.pair(5), exact.pair(5)
    texts = [
        features.conditioning([pair.caption_chosen])["states_LD"]
        for features, pair in ((rounded, ours), (exact, theirs))
    ]
    for found, expected in ((ours.chosen_mean_CHW, theirs.chosen_mean_CHW), (texts[0], texts[1])):
        assert found.dtype == torch.float32
        error = (found - expected).abs().max() / expected.abs().max()
        assert 0 < error < 0.05, "eight bits of mantissa through a few layers"


def test_the_size_to_write_is_that_of_the_tensors_that_are_not_on_disk(
    bench: Any, tiny_sd_dir: Path, tiny_snapshot_dir: Path, tmp_path: Path
) -> None:
    for encoding in (Encoding(), Encoding(moments="bf16"), Encoding(distinct_images=True)):
        out = tmp_path / str(encoding)
        spec = bench.encode_spec.model_copy(update={"encoding": encoding})
        backbone = StableDiffusionBackbone(tiny_sd_dir, StableDiffusion(resolution=64))
        writer = FeatureWriter(TrainingPairs(tiny_snapshot_dir), backbone, spec, out)
        expected = writer.bytes_to_write()
        writer.write(0, 2, lambda: None)
        left = writer.bytes_to_write()
        writer.write(1, 2, lambda: None)
        size = {path: sum(rows.nbytes for rows in load_file(path).values()) for path in out.rglob("*.safetensors")}
        assert 0.95 * expected <= sum(size.values()) <= expected * 1.05
        assert 0 < left < expected
        assert writer.bytes_to_write() == 0
