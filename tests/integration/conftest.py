"""Shared code of the tests with a real scheduler is in embedded_world.py."""

import sys
from pathlib import Path

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)
