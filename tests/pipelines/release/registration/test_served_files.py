"""A sealed folder is known again by every byte; another one is told apart file by file."""

import logging
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pipelines.release.registration import served_files
from pipelines.settings import Settings
from pipelines.store.folders import hash_folder
from pipelines.store.storage import open_store

WEIGHTS = "a" * 64


@pytest.fixture
def served(tmp_path: Path) -> Path:
    folder = tmp_path / "served"
    (folder / "artifacts/weights").mkdir(parents=True)
    (folder / "artifacts/weights/unet.safetensors").write_bytes(b"weights")
    for name in ("MLmodel", "pyfunc_model.py", "requirements.txt"):
        (folder / name).write_text(name)
    return folder


def test_a_sealed_folder_is_known_again(settings: Settings, served: Path) -> None:
    assert not served_files.is_sealed("shapes", WEIGHTS, open_store(settings.store_uri, settings))
    assert served_files.seal(served, "shapes", WEIGHTS, open_store(settings.store_uri, settings)) == {
        "served.digest": hash_folder(served)[0]
    }
    assert served_files.is_sealed("shapes", WEIGHTS, open_store(settings.store_uri, settings))
    assert served_files.broken(served, "shapes", WEIGHTS, open_store(settings.store_uri, settings)) == ""
    assert not served_files.is_sealed("shapes", "b" * 64, open_store(settings.store_uri, settings))
    assert not served_files.is_sealed("another", WEIGHTS, open_store(settings.store_uri, settings))


def test_what_differs_is_named_by_the_nearest_seal(settings: Settings, served: Path) -> None:
    served_files.seal(served, "shapes", WEIGHTS, open_store(settings.store_uri, settings))
    (served / "MLmodel").write_text("logged again")
    served_files.seal(served, "shapes", WEIGHTS, open_store(settings.store_uri, settings))
    (served / "pyfunc_model.py").write_text("import os")
    assert served_files.broken(served, "shapes", WEIGHTS, open_store(settings.store_uri, settings)) == "pyfunc_model.py"
    (served / "requirements.txt").unlink()
    (served / "sitecustomize.py").write_text("1")
    (served / "artifacts/weights/unet.safetensors").write_bytes(b"others")
    said = served_files.broken(served, "shapes", WEIGHTS, open_store(settings.store_uri, settings))
    assert said == "artifacts/weights/unet.safetensors, pyfunc_model.py, requirements.txt and 1 more"


def test_weights_from_before_there_were_seals_are_let_through_with_a_warning(
    settings: Settings, served: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert served_files.broken(served, "shapes", WEIGHTS, open_store(settings.store_uri, settings)) == ""
    assert f"weights {WEIGHTS[:12]} was never sealed" in caplog.text
    assert not Path(urlsplit(settings.store_uri).path, "served").exists(), "looking seals nothing"
