"""The separate process of a conversion: its answer, and its three ways to fail."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from pipelines.dispatch.conversions import run_conversion

SCRIPT = """
import json, sys
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
wanted = json.load(open(options["--request"]))["do"]
if wanted == "refuse":
    print("a log line\\nThe width is 3. Give 4.", file=sys.stderr)
    sys.exit(2)
if wanted == "no torch":
    raise ModuleNotFoundError("No module named 'torch'")
if wanted == "crash":
    raise RuntimeError("the details")
print("a log line\\n" + json.dumps({"out": options["--out"]}))
"""


class Request(BaseModel):
    do: str


@pytest.fixture(autouse=True)
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_conversion.py").write_text(SCRIPT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def run(do: str) -> dict[str, str]:
    return run_conversion("a_conversion", Request(do=do), {"out": "/folder"}, what="The conversion")


def test_the_last_line_is_the_answer() -> None:
    assert run("convert") == {"out": "/folder"}


def test_failures() -> None:
    with pytest.raises(ValueError, match=r"^The width is 3\. Give 4\.$"):
        run("refuse")
    with pytest.raises(RuntimeError, match=r"^The conversion needs torch, .* pip install 'plumbline\[gpu\]'\.$"):
        run("no torch")
    with pytest.raises(RuntimeError, match=r"(?s)^The conversion failed:.*the details$"):
        run("crash")
