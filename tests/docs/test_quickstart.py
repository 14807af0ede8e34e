"""docs/quickstart.md, followed literally: each file is written and each command is run, on the tiny world of shapes."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("quickstart")]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "quickstart.md"
BLOCK = re.compile(
    r"(?:\*\*`(?P<file>[^`]+)`\*\*\n\n)?(?:<!-- exit code: (?P<code>\d+) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)```",
    re.DOTALL,
)
ENVIRONMENT_COMMANDS = ("make setup", ". .venv/bin/activate")
"""The test runs in the environment that these make."""


PICKS = """pick,user,time
challenger,u1,2026-11-02T10:00:00+00:00
tie,u2,2026-11-02T10:01:30+00:00
champion,u3,2026-11-02T10:02:00+00:00
"""


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


def fill(folder: Path) -> dict[str, str]:
    """Write what the page says must be there, run its commands, and return what each printed."""
    for name in ("examples", "projects"):
        (folder / name).mkdir()
    (folder / "examples/shapes").symlink_to(ROOT / "examples/shapes")
    printed = {}
    for block in blocks():
        if block["file"]:
            path = folder / block["file"]
            path.parent.mkdir(exist_ok=True)
            path.write_text(block["text"])
        elif block["language"] == "sh":
            for command in block["text"].splitlines():
                if command not in ENVIRONMENT_COMMANDS:
                    done = run(command, folder)
                    assert done.returncode == int(block["code"] or 0), f"{command}\n{done.stdout}\n{done.stderr}"
                    printed[command] = done.stdout
    return printed


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder of a reader who has followed the page to its end, and what the commands printed."""
    folder = tmp_path_factory.mktemp("reader")
    printed = fill(folder)
    (folder / "picks.csv").write_text(PICKS)
    return folder, printed


def test_the_page_works_as_it_is_written(world: tuple[Path, dict[str, str]]) -> None:
    _, printed = world
    assert "609 pairs written to my_model/pairs" in printed["python my_model/write_pairs.py"]
    assert '"verdict": "inconclusive"' in printed["plumbline status projects/my_model.toml"]


OTHER_PAGES = {
    "ledger projects/NAME.toml --table": (0, "approved by"),
    "judges projects/NAME.toml": (0, '"taste_a"'),
    "jobs list NAME": (0, '"train"'),
    "jobs list": (0, '"my_model"'),
    "compare NAME 1": (3, '"unclear"'),
    "gate advise projects/NAME.toml": (0, '"human_pairs": 134'),
    "canary picks.csv": (3, '"undecided"'),
    "export projects/NAME.toml --version 1 --format comfyui": (0, ".safetensors"),
    "export projects/NAME.toml --format kohya --out exports/NAME": (2, "champion"),
    "quarantine show NAME": (0, '"num_accepted": 599'),
    "monitor projects/NAME.toml": (0, ""),
    "reconcile projects/NAME.toml": (0, "agrees"),
    "prune projects/NAME.toml --keep 20": (0, ""),
    'rollback projects/NAME.toml --reason "too many black images" --from-version 7': (2, "champion"),
    "promote projects/NAME.toml --version 1 --approve --decision 3fa9c1d2e4b5": (2, "made no such decision"),
    'promote projects/NAME.toml --by-hand --version 1 --reason "better hands"': (2, "mode"),
}
"""Commands of the other pages, with their exit code here and a part of what they print."""


@pytest.mark.parametrize("command", OTHER_PAGES)
def test_a_command_of_another_page_works_on_the_same_project(command: str, world: tuple[Path, dict[str, str]]) -> None:
    folder, _ = world
    code, part = OTHER_PAGES[command]
    done = run(f"plumbline {command.replace('NAME', 'my_model')}", folder)
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    assert part in done.stdout + done.stderr
