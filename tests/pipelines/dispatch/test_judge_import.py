"""The command in front of the conversion's separate process."""

import json
from pathlib import Path

import pytest

from pipelines.commands.cli import main

pytestmark = pytest.mark.timeout(180)

CAPTION_MATCH = Path(__file__).parents[3] / "examples" / "shapes" / "judges" / "caption_match"


def test_a_clip_is_imported_and_its_digest_is_returned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "judge"
    assert main(["judges", "import", "clip_score", str(CAPTION_MATCH), "--out", str(out)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["folder"] == str(out)
    assert len(answer["digest"]) == 64
    assert (out / "model.safetensors").is_file()
    assert main(["judges", "import", "clip_score", str(CAPTION_MATCH), "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("hpsv22", "x.pt"), "Did you mean 'hpsv2'"),
        (("clip_head", "x.pt", "--reads", "smell"), "reads"),
        (("hpsv2", "nowhere.pt"), "does not exist"),
    ],
)
def test_bad_requests_are_reported_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert main(["judges", "import", *arguments, "--out", str(tmp_path / "judge")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
