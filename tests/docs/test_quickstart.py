"""docs/quickstart.md, followed literally: each file is written and each command is run, on the tiny world of shapes."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "quickstart.md"
BLOCK = re.compile(
    r"(?:\*\*`(?P<file>[^`]+)`\*\*\n\n)?(?:<!-- exit code: (?P<code>\d+) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)```",
    re.DOTALL,
)
ENVIRONMENT_COMMANDS = ("make setup", ". .venv/bin/activate")
"""The test runs in the environment that these make."""


def blocks() -> Iterator[re.Match[str]]:
    """Fenced blocks of the page in order: the files to write and the commands to run."""
    return BLOCK.finditer(PAGE.read_text())


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of the page in a shell, as its reader does."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_page_works_as_it_is_written(tmp_path: Path) -> None:
    for name in ("examples", "projects"):
        (tmp_path / name).mkdir()
    (tmp_path / "examples/shapes").symlink_to(ROOT / "examples/shapes")
    printed = {}
    for block in blocks():
        if block["file"]:
            path = tmp_path / block["file"]
            path.parent.mkdir(exist_ok=True)
            path.write_text(block["text"])
        elif block["language"] == "sh":
            for command in block["text"].splitlines():
                if command not in ENVIRONMENT_COMMANDS:
                    done = run(command, tmp_path)
                    assert done.returncode == int(block["code"] or 0), f"{command}\n{done.stdout}\n{done.stderr}"
                    printed[command] = done.stdout
    assert "609 pairs written to my_model/pairs" in printed["python my_model/write_pairs.py"]
    assert '"verdict": "inconclusive"' in printed["plumbline status projects/my_model.toml"]
