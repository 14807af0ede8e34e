"""Shared code of the tests that kill processes is here, in tests/integration and in tests/pipelines/intake."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
for folder in (HERE, HERE.parent / "integration", HERE.parent / "pipelines/intake"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
