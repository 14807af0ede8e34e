import json
from pathlib import Path

import pytest

from alignment.files.shards import indexed_files


def write_index(folder: Path, weight_map: object) -> Path:
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    return index


def test_each_file_of_the_index_is_listed_once_and_sorted(tmp_path: Path) -> None:
    index = write_index(tmp_path, {"x": "b.safetensors", "y": "a.safetensors", "z": "b.safetensors"})
    assert indexed_files(index) == [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]


@pytest.mark.parametrize("name", ["../a.safetensors", "/a.safetensors", "", "a\\b", "C:a"])
def test_a_file_outside_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    index = write_index(tmp_path, {"x": "a.safetensors", "y": name})
    with pytest.raises(ValueError, match="does not stay inside") as caught:
        indexed_files(index)
    assert str(index) in str(caught.value)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("weight_map", [None, ["a"], "a", 1, {"x": {}}])
def test_a_file_that_is_not_an_index_is_refused(tmp_path: Path, weight_map: object) -> None:
    with pytest.raises(ValueError, match="is not an index of safetensors files"):
        indexed_files(write_index(tmp_path, weight_map))
