import hashlib
import os
from pathlib import Path

import pytest

from pipelines.dispatch import cached_digests
from pipelines.dispatch.cached_digests import (
    file_fingerprint,
    file_fingerprints,
    folder_fingerprint,
    weights_identity,
)
from pipelines.store.folders import hash_folder, sha256_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model" / "unet").mkdir(parents=True)
    (tmp_path / "model" / "unet" / "w.safetensors").write_text("weights")
    (tmp_path / "model" / "index.json").write_text("{}")
    return tmp_path / "model"


def test_the_digest_is_that_of_the_folder_and_is_computed_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = folder_fingerprint(folder, tmp_path / "cache")
    assert digest == hash_folder(folder)[0]
    monkeypatch.setattr(cached_digests, "hash_folder", None)
    assert folder_fingerprint(folder, tmp_path / "cache") == digest


@pytest.mark.parametrize("change", ["content", "same size later", "new file", "gone"])
def test_every_change_gives_another_digest(folder: Path, tmp_path: Path, change: str) -> None:
    digest = folder_fingerprint(folder, tmp_path / "cache")
    weights = folder / "unet" / "w.safetensors"
    if change == "content":
        weights.write_text("other weights")
    elif change == "same size later":
        weights.write_text("WEIGHTS")
        os.utime(weights, ns=(10**18, 10**18))
    elif change == "new file":
        (folder / "more").write_text("m")
    else:
        weights.unlink()
    changed = folder_fingerprint(folder, tmp_path / "cache")
    assert changed != digest
    assert changed == hash_folder(folder)[0]


def test_a_copy_elsewhere_has_the_same_digest(folder: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(folder, tmp_path / "copy")
    cache = tmp_path / "cache"
    assert folder_fingerprint(tmp_path / "copy", cache) == folder_fingerprint(folder, cache)


def test_the_identity_of_weights_ignores_file_names_and_other_files(folder: Path, tmp_path: Path) -> None:
    def identity() -> str | None:
        return weights_identity(file_fingerprints(folder, tmp_path / "cache"))

    weights = hashlib.sha256(b"weights").hexdigest()
    found = identity()
    assert found == hashlib.sha256(weights.encode()).hexdigest()
    (folder / "README.md").write_text("A copy.")
    (folder / "unet" / "w.safetensors").rename(folder / "unet" / "renamed.safetensors")
    assert identity() == found
    (folder / "second.safetensors").write_text("more")
    both = sorted([weights, hashlib.sha256(b"more").hexdigest()])
    assert identity() == hashlib.sha256("\n".join(both).encode()).hexdigest()
    assert weights_identity({"head.json": "a" * 64}) is None


def test_a_file_has_the_sha256_of_its_bytes(folder: Path, tmp_path: Path) -> None:
    path = folder / "index.json"
    for text in ("{}", '{"a": 1}'):
        path.write_text(text)
        assert file_fingerprint(path, tmp_path / "cache") == sha256_file(path)
    with pytest.raises(ValueError, match=r"missing\.json does not exist"):
        file_fingerprint(folder / "missing.json", tmp_path / "cache")
    with pytest.raises(ValueError, match="contains no files"):
        folder_fingerprint(folder / "nowhere", tmp_path / "cache")


def test_a_link_out_of_the_folder_is_refused_even_when_its_digest_is_cached(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    folder_fingerprint(folder, cache)
    weights = folder / "unet" / "w.safetensors"
    weights.rename(tmp_path / "moved")
    weights.symlink_to(tmp_path / "moved")
    with pytest.raises(ValueError, match="is a symbolic link") as caught:
        folder_fingerprint(folder, cache)
    assert str(weights) in str(caught.value)


def test_a_snapshot_of_the_hubs_cache_has_the_digest_of_its_copy(folder: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--x--tiny" / "snapshots" / "0123"
    blob = tmp_path / "models--x--tiny" / "blobs" / "abc"
    for path in (snapshot / "unet", blob.parent):
        path.mkdir(parents=True)
    blob.write_text("weights")
    (snapshot / "unet" / "w.safetensors").symlink_to("../../../blobs/abc")
    (snapshot / "index.json").write_text("{}")
    assert folder_fingerprint(snapshot, tmp_path / "cache") == folder_fingerprint(folder, tmp_path / "cache")
