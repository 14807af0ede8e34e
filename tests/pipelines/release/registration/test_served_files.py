"""Recorded digests recognise a served folder; differing files are named."""

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


def test_a_recorded_folder_is_recognised(settings: Settings, served: Path) -> None:
    assert not served_files.is_recorded("shapes", WEIGHTS, open_store(settings.store_uri, settings))
    assert served_files.record(served, "shapes", WEIGHTS, open_store(settings.store_uri, settings)) == {
        "served.digest": hash_folder(served)[0]
    }
    assert served_files.is_recorded("shapes", WEIGHTS, open_store(settings.store_uri, settings))
    assert served_files.changed_files(served, "shapes", WEIGHTS, open_store(settings.store_uri, settings)) == ""
    assert not served_files.is_recorded("shapes", "b" * 64, open_store(settings.store_uri, settings))
    assert not served_files.is_recorded("another", WEIGHTS, open_store(settings.store_uri, settings))


def test_differing_files_are_named_against_the_nearest_record(settings: Settings, served: Path) -> None:
    served_files.record(served, "shapes", WEIGHTS, open_store(settings.store_uri, settings))
    (served / "MLmodel").write_text("logged again")
    served_files.record(served, "shapes", WEIGHTS, open_store(settings.store_uri, settings))
    (served / "pyfunc_model.py").write_text("import os")
    assert (
        served_files.changed_files(served, "shapes", WEIGHTS, open_store(settings.store_uri, settings))
        == "pyfunc_model.py"
    )
    (served / "requirements.txt").unlink()
    (served / "sitecustomize.py").write_text("1")
    (served / "artifacts/weights/unet.safetensors").write_bytes(b"others")
    changed = served_files.changed_files(served, "shapes", WEIGHTS, open_store(settings.store_uri, settings))
    assert changed == "artifacts/weights/unet.safetensors, pyfunc_model.py, requirements.txt and 1 more"


def test_weights_without_recorded_digests_pass_with_a_warning(
    settings: Settings, served: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert served_files.changed_files(served, "shapes", WEIGHTS, open_store(settings.store_uri, settings)) == ""
    assert f"no digests were recorded for the files that serve weights {WEIGHTS[:12]}" in caplog.text
    assert not Path(urlsplit(settings.store_uri).path, "served").exists(), "checking records nothing"
