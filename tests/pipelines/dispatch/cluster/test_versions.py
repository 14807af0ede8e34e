"""Version of this code, as a cluster prints it."""

import subprocess
import sys

from pipelines.dispatch.cluster.versions import our_version


def test_the_command_prints_the_version_of_this_code() -> None:
    command = [sys.executable, "-m", "pipelines.dispatch.cluster.versions"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == f"plumbline {our_version()}"
