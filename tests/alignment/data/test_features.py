"""The cache returns what the encoders computed, pair by pair and caption by caption."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from alignment.backbones.stable_diffusion import StableDiffusionBackbone
from alignment.catalogues.backbones import StableDiffusion
from alignment.catalogues.images import Bucket, is_mirrored
from alignment.contracts.jobs import JobStoppedError
from alignment.data.features import CachedFeatures
from alignment.data.pairs import TrainingPairs, framed, pixels

# The first test of a session also imports the model libraries and encodes the cache.
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


def test_each_distinct_caption_and_prompt_is_stored_once(
    captioned_bench: Any, tiny_sd_dir: Path, tiny_captioned_snapshot_dir: Path
) -> None:
    backbone = StableDiffusionBackbone(tiny_sd_dir, StableDiffusion(resolution=64))
    pairs = TrainingPairs(tiny_captioned_snapshot_dir)
    features = CachedFeatures(captioned_bench.inputs / captioned_bench.cache.content_digest)
    texts = {text for both in pairs.captions for text in both} | set(pairs.prompts)
    assert features.index.num_captions == len(texts) + 1, "the empty caption comes first"
    assert captioned_bench.cache.num_captioned == pairs.num_captioned == 23
    assert features.has_captions()
    for index in (1, 7, 23):
        cached = features.pair(index)
        states = features.conditioning([cached.caption_chosen, cached.caption_rejected, *cached.prompts])["states_LD"]
        expected = [*pairs.captions[index], pairs.prompts[index], pairs.prompts[index]]
        torch.testing.assert_close(states, backbone.encode_captions(expected)["states_LD"])
        assert cached.is_captioned
    assert not features.pair(0).is_captioned


def test_a_cache_of_prompts_alone_keeps_the_old_layout(bench: Any, features: CachedFeatures) -> None:
    with safe_open(features.folder / "pairs" / "00000.safetensors", framework="pt") as shard:
        assert "prompt_B" not in shard.keys()  # noqa: SIM118 - not a mapping
    cached = features.pair(3)
    assert cached.prompts == (cached.caption_chosen, cached.caption_rejected)
    assert not features.has_captions()
    assert bench.cache.num_captioned == 0


def test_a_cache_of_squares_keeps_the_old_layout(bench: Any, features: CachedFeatures) -> None:
    """No name and no field of buckets, so caches that were encoded before buckets existed are still found."""
    assert "buckets" not in (features.folder / "index.json").read_text()
    assert "images" not in (features.folder / "spec.json").read_text()
    with safe_open(features.folder / "pairs" / "00000.safetensors", framework="pt") as shard:
        assert not [name for name in shard.keys() if "bucket" in name or "/" in name]  # noqa: SIM118
    assert {features.bucket(index) for index in range(24)} == {0}


def test_both_images_of_a_pair_are_encoded_in_their_bucket(
    bucketed_bench: Any, tiny_sd_dir: Path, tiny_mixed_snapshot_dir: Path
) -> None:
    backbone = StableDiffusionBackbone(tiny_sd_dir, StableDiffusion(resolution=64))
    pairs = TrainingPairs(tiny_mixed_snapshot_dir)
    features = CachedFeatures(bucketed_bench.inputs / bucketed_bench.cache.content_digest)
    sizes = [Bucket(48, 80), Bucket(64, 64), Bucket(80, 48)]
    assert [(bucket.width, bucket.height) for bucket in features.index.buckets] == [(b.width, b.height) for b in sizes]
    of_pair = [features.bucket(index) for index in range(24)]
    assert [bucket.num_pairs for bucket in features.index.buckets] == [of_pair.count(number) for number in range(3)]
    assert all(of_pair.count(number) > 1 for number in range(3))
    flips = [is_mirrored(bucketed_bench.encode_spec.images, pairs.pair(index).pair_id) for index in range(24)]
    assert 0 < sum(flips) < 24
    for index in (0, 1, 2, 6, 7, 23):
        pair, cached, bucket = pairs.pair(index), features.pair(index), sizes[of_pair[index]]
        cut = [
            framed(encoded, bucket, "x", mirrored=flips[index]).pixels_CHW
            for encoded in (pair.image_chosen, pair.image_rejected)
        ]
        moments = backbone.encode_images(torch.stack(cut))
        assert cached.chosen_mean_CHW.shape == (4, bucket.height // 8, bucket.width // 8)
        torch.testing.assert_close(cached.chosen_mean_CHW, moments.mean_BCHW[0])
        torch.testing.assert_close(cached.rejected_mean_CHW, moments.mean_BCHW[1])
        torch.testing.assert_close(cached.rejected_std_CHW, moments.std_BCHW[1])
        states = features.conditioning([cached.caption_chosen])["states_LD"]
        torch.testing.assert_close(states, backbone.encode_captions([pairs.captions[index][0]])["states_LD"])


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
