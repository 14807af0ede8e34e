"""The cache gives back what the encoders said, pair by pair and caption by caption."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from alignment.backbones.catalogue import StableDiffusion
from alignment.backbones.stable_diffusion import StableDiffusionBackbone
from alignment.data.features import CachedFeatures, FeatureWriter
from alignment.data.pairs import TrainingPairs, pixels
from alignment.failures import JobStoppedError

# The first test of a session pays for importing the model libraries and for encoding the cache.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def features(bench: Any) -> CachedFeatures:
    return CachedFeatures(bench.inputs / bench.cache.content_digest)


def test_every_pair_is_the_encoding_of_its_images(
    bench: Any, features: CachedFeatures, tiny_sd_dir: Path, tiny_snapshot_dir: Path
) -> None:
    backbone = StableDiffusionBackbone(tiny_sd_dir, StableDiffusion(resolution=64))
    pairs = TrainingPairs(tiny_snapshot_dir)
    assert features.index.num_pairs == len(pairs) == 24
    for index in (0, 6, 7, 23):
        pair, cached = pairs.pair(index), features.pair(index)
        moments = backbone.encode_images(
            torch.stack([pixels(pair.image_chosen, 64, "x"), pixels(pair.image_rejected, 64, "x")])
        )
        torch.testing.assert_close(cached.chosen_mean_CHW, moments.mean_BCHW[0])
        torch.testing.assert_close(cached.rejected_mean_CHW, moments.mean_BCHW[1])
        torch.testing.assert_close(cached.chosen_std_CHW, moments.std_BCHW[0])
        torch.testing.assert_close(cached.rejected_std_CHW, moments.std_BCHW[1])
        caption = pairs.captions[index][0]
        states = features.conditioning([cached.caption_chosen, 0])["states_LD"]
        torch.testing.assert_close(states, backbone.encode_captions([caption, ""])["states_LD"])


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


def test_missing_and_damaged_files_are_bad_data(bench: Any, tmp_path: Path) -> None:
    with pytest.raises(JobStoppedError, match="not a feature cache"):
        CachedFeatures(tmp_path)
    shutil.copytree(bench.root / "cache", tmp_path / "cache")
    shard = tmp_path / "cache" / "pairs" / "00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:100])
    cache = CachedFeatures(tmp_path / "cache")
    assert cache.pair(6).chosen_mean_CHW.shape == (4, 8, 8)
    with pytest.raises(JobStoppedError, match=r"00001\.safetensors cannot be read"):
        cache.pair(7)
