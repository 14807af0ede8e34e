"""Several first commands at once on an empty state: MLflow's database is made once."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

FIRST_COMMAND = """
import sys
from pathlib import Path
from pipelines.settings import load_settings
from pipelines.tracking import runs
settings = load_settings({"PLUMBLINE_STATE_DIR": sys.argv[1]})
runs.load_client()
print("ready", flush=True)
sys.stdin.readline()
runs.parent_run(settings, project="words", key=sys.argv[2], tags={})
"""


def test_commands_that_start_together_make_the_database_once(tmp_path: Path) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", FIRST_COMMAND, str(tmp_path), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    ended = [process.communicate(timeout=240) for process in started]
    assert [process.returncode for process in started] == [0] * 4, "\n".join(errors[-800:] for _, errors in ended)
