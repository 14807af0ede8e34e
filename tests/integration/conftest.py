"""Shared code of the tests with a real scheduler is in embedded_world.py, S3 servers are those of the store's tests."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
for folder in (str(HERE), str(HERE.parent / "pipelines" / "store")):
    if folder not in sys.path:
        sys.path.insert(0, folder)
