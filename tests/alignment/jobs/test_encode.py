"""The encode job: complete, resumed, divided among processes, and given bad input."""

import dataclasses
import errno
import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from alignment.backbones.stable_diffusion import StableDiffusionBackbone
from alignment.contracts.data import FeatureCache
from alignment.contracts.jobs import JobFailure, Placement, Progress
from alignment.data import feature_writing
from alignment.files.durable import content_digest
from alignment.jobs import encode

# The first test of a session pays for importing the model libraries and for encoding the cache.
pytestmark = pytest.mark.timeout(300)


def failure_of(out: Path) -> JobFailure:
    return JobFailure.model_validate_json((out / "failure.json").read_text())


def result_of(out: Path) -> FeatureCache:
    return FeatureCache.model_validate_json((out / "result.json").read_text())


def test_result_counts_pairs_without_ties_and_captions_once(bench: Any) -> None:
    assert bench.cache.num_pairs == 24
    assert bench.cache.num_captions == 5, "four colours and the empty caption"
    assert bench.cache.latent_shape == (4, 8, 8)
    out = bench.root / "cache"
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    files = [name for name in names if name.startswith(("pairs/", "text/")) or name in {"index.json", "spec.json"}]
    assert len(files) == 2 + 1 + 4
    assert bench.cache.content_digest == content_digest(out, [out / name for name in files])
    progress = Progress.model_validate_json((out / "progress.json").read_text())
    assert (progress.done, progress.total, progress.unit) == (5, 5, "shards")


def test_interrupted_encoding_keeps_finished_shards(bench: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(bench.root / "cache", out)
    for name in ("result.json", "index.json", "pairs/00002.safetensors", "text/00000.safetensors"):
        (out / name).unlink()
    kept = (out / "pairs/00001.safetensors").stat().st_mtime_ns
    assert bench.encode(out) == 0
    assert (out / "pairs/00001.safetensors").stat().st_mtime_ns == kept
    assert result_of(out) == bench.cache


def test_finished_output_is_returned_at_once(bench: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "result.json").write_text("{}")
    assert bench.encode(out) == 0
    assert [path.name for path in out.iterdir()] == ["result.json"]


def test_shards_of_another_spec_are_not_reused(bench: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(bench.root / "cache", out)
    (out / "result.json").unlink()
    assert bench.encode(out, spec=bench.encode_spec.model_copy(update={"shard_pairs": 8})) == 2
    assert "another encode spec" in failure_of(out).message


def test_unknown_digest_is_bad_input(bench: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert bench.encode(out, spec=bench.encode_spec.model_copy(update={"snapshot_digest": "1" * 64})) == 2
    failure = failure_of(out)
    assert failure.kind == "bad_input"
    assert "snapshot" in failure.message
    assert "1" * 64 in failure.message


def test_unreadable_image_is_bad_data_and_names_the_pair(bench: Any, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, format="PNG")
    row = {
        "pair_id": "f" * 64,
        "prompt": "a",
        "caption_chosen": "a",
        "caption_rejected": "a",
        "image_chosen": buffer.getvalue(),
        "image_rejected": buffer.getvalue()[:60],
        "is_tie": False,
    }
    snapshot = bench.inputs / ("2" * 64)
    snapshot.mkdir()
    pq.write_table(pa.table({name: [value] for name, value in row.items()}), snapshot / "train.parquet")
    out = tmp_path / "out"
    assert bench.encode(out, spec=bench.encode_spec.model_copy(update={"snapshot_digest": "2" * 64})) == 1
    failure = failure_of(out)
    assert failure.kind == "bad_data"
    assert f"image_rejected of pair {'f' * 64}" in failure.message


def test_a_snapshot_with_only_ties_is_bad_input(bench: Any, tmp_path: Path) -> None:
    table = pq.read_table(bench.inputs / bench.encode_spec.snapshot_digest / "train.parquet")
    snapshot = bench.inputs / ("8" * 64)
    snapshot.mkdir()
    ties = table.set_column(table.schema.get_field_index("is_tie"), "is_tie", pa.array([True] * len(table)))
    pq.write_table(ties, snapshot / "train.parquet")
    spec = bench.encode_spec.model_copy(update={"snapshot_digest": "8" * 64})
    assert bench.encode(tmp_path / "out", spec=spec) == 2
    assert "holds no pair with a preference" in failure_of(tmp_path / "out").message


def test_an_encoder_that_overflows_is_bad_input(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = StableDiffusionBackbone.encode_images

    def overflow(self: StableDiffusionBackbone, pixels_BCHW: torch.Tensor) -> Any:
        moments = honest(self, pixels_BCHW)
        return dataclasses.replace(moments, mean_BCHW=moments.mean_BCHW / 0)

    monkeypatch.setattr(StableDiffusionBackbone, "encode_images", overflow)
    assert bench.encode(tmp_path / "out") == 2
    assert "chosen_mean_BCHW, rejected_mean_BCHW of pairs 0 to 6" in failure_of(tmp_path / "out").message
    assert not list((tmp_path / "out").glob("pairs/*.safetensors"))


def test_a_disk_that_cannot_hold_the_cache_is_refused_before_any_shard(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = [load_file(path) for path in (bench.root / "cache").rglob("0*.safetensors")]
    size = sum(rows.nbytes for shard in tensors for rows in shard.values())
    for free, code in ((int(size * 0.9), 1), (int(size * 1.1), 0)):
        out = tmp_path / str(code)
        monkeypatch.setattr(encode.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        assert bench.encode(out) == code
    failure = failure_of(tmp_path / "1")
    assert failure.kind == "storage_full"
    assert failure.message.startswith("The feature cache of 24 pairs needs 0.0 GiB in ")
    assert 'moments = "bf16"' in failure.message
    assert not list((tmp_path / "1").rglob("*.safetensors"))


def test_a_full_disk_while_a_shard_is_written_keeps_the_finished_ones(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = feature_writing.write_tensors

    def full(path: Path, tensors: Any) -> None:
        if path.name == ".00002.safetensors.part":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        honest(path, tensors)

    monkeypatch.setattr(feature_writing, "write_tensors", full)
    assert bench.encode(tmp_path / "out") == 1
    assert failure_of(tmp_path / "out").kind == "storage_full"
    names = [path.name for path in sorted((tmp_path / "out" / "pairs").glob("0*"))]
    assert names == ["00000.safetensors", "00001.safetensors"]
    monkeypatch.undo()
    assert bench.encode(tmp_path / "out") == 0
    assert result_of(tmp_path / "out") == bench.cache


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_two_processes_give_the_same_bytes(bench: Any, tmp_path: Path, two_ranks: Any) -> None:
    out = tmp_path / "out"
    arguments = bench.write_job(tmp_path / "job", bench.encode_spec, Placement(num_processes=2), out)
    two_ranks.run("alignment.jobs.encode", arguments)
    assert json.loads((out / "result.json").read_text())["content_digest"] == bench.cache.content_digest
