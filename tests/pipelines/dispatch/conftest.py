"""The project whose requests are tested: words_project.py, which lies beside this file."""

import json
import sys
from pathlib import Path

import pytest

from pipelines.project.file import Project, load_project

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Write the project with base, judge and guard, and load it."""
    from words_project import PROJECT

    files = {
        "words.toml": PROJECT,
        "prompts.tsv": "prompt\tcategory\na circle\tshape\n",
        "base/model_index.json": json.dumps({"unet": ["diffusers", "UNet2DConditionModel"]}),
    }
    for folder in ("base/unet", "judge", "guard"):
        files |= {f"{folder}/config.json": folder, f"{folder}/model.safetensors": folder}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return load_project(tmp_path / "words.toml")
