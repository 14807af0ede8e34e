"""Contradictions between settings are all reported when the project is read."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.commands import cli
from pipelines.project.file import load_project

SHAPES = Path(__file__).parents[3] / "projects/shapes.toml"


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Path]:
    """A function that writes a project file that extends the shapes project."""

    def write(tables: str) -> Path:
        path = tmp_path / "shapes.toml"
        path.write_text(f'extends = ["{SHAPES}"]\n{tables}')
        return path

    return write


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            "[gate]\nrequired_judges = 5",
            "gate.required_judges is 5, but evaluation has 2 judges, so no more can vote",
        ),
        ("[gate]\nminimum_voting_judges = 3", "gate.minimum_voting_judges is 3, but evaluation has 2 judges"),
        ("[evaluation]\nconfidence = 95", "evaluation.confidence is 95: it must be above 0.5 and below 1"),
        ("[evaluation]\nconfidence = 0.3", "evaluation.confidence is 0.3: it must be above 0.5"),
        ("[evaluation]\nseeds = [0, 0]", "evaluation.seeds has 0 2 times"),
        ("[evaluation.tie_thresholds]\ntaste_c = 0.1", "Unknown scorer 'taste_c'. Did you mean 'taste_"),
        ("[evaluation.tie_thresholds]\ntaste_a = -0.1", "evaluation.tie_thresholds.taste_a is -0.1: it must be finite"),
        ("[evaluation.tie_thresholds]\ntaste_a = nan", "evaluation.tie_thresholds.taste_a is nan: it must be finite"),
        ("[gate.guards]\nsafety = { margin = 0.1 }", "gate.guards has a rule for 'safety', which is not in"),
        ("[gate.detectors.drift]\nsharpness = { margin = 0.1 }", "gate.detectors.drift has a rule for 'sharpness'"),
        (
            "[gate.guards.caption_match]\nfloor = 30\nceiling = 20",
            "gate.guards.caption_match: floor 30 is not below ceiling 20",
        ),
        ("[gate.slices]\nmargin = 0.9", "gate.slices.margin is 0.9: it is the distance"),
        ("[gate]\ncalibration_floor = 1.0", "gate.calibration_floor is 1: no judge's"),
    ],
)
def test_each_fault_names_field_value_and_what_is_allowed(
    written: Callable[[str], Path], tables: str, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        load_project(written(tables))


@pytest.mark.parametrize("mode", ["none", "borderline"])
def test_the_preset_small_needs_an_approval_of_every_promotion(written: Callable[[str], Path], mode: str) -> None:
    table = f'[approval]\nmode = "{mode}"\napprovers = ["ada"]'
    with pytest.raises(
        ValueError, match=f"gate.preset is 'small', .* but approval.mode is '{mode}'. Add \\[approval\\]"
    ):
        load_project(written(f'[gate]\npreset = "small"\n{table}'))
    for gate in ('preset = "small"\nmode = "off"', 'preset = "small"\nmode = "dry_run"'):
        assert load_project(written(f"[gate]\n{gate}\n{table}")).gate.needs_person
    required = '[approval]\nmode = "required"\napprovers = ["ada"]'
    assert load_project(written(f'[gate]\npreset = "small"\n{required}')).approval.mode == "required"


def guards_and_judges(judge: str, guard: str) -> str:
    common = 'uri = "x"\nscorer = { kind = "clip_score" }\n'
    judges = "".join(f'[[evaluation.judges]]\nname = "{name}"\n{common}' for name in ("taste_a", judge))
    return f'{judges}[[evaluation.guards]]\nname = "{guard}"\n{common}'


def test_duplicate_scorer_names_and_a_guard_without_a_rule_are_refused(written: Callable[[str], Path]) -> None:
    with pytest.raises(ValueError, match="2 judges or guards are named 'taste_a'"):
        load_project(written(guards_and_judges("taste_a", "caption_match")))
    with pytest.raises(ValueError, match=r"evaluation.guards has 'lone', for which the gate has no rule\. Add one"):
        load_project(written(guards_and_judges("taste_b", "lone")))


def test_all_contradictions_are_reported_and_the_command_line_exits_with_2(
    written: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = written("[evaluation]\nconfidence = 95\nseeds = [0, 0]\n[gate]\nrequired_judges = 5\n")
    for command in ("doctor", "gate", "evaluate", "judges"):
        assert cli.main([command, str(path)]) == 2
        printed = capsys.readouterr().err
        assert "3 settings contradict each other:" in printed
        assert all(part in printed for part in ("confidence is 95", "seeds has 0", "required_judges is 5")), printed
        assert "Traceback" not in printed
    assert cli.main(["gate", "simulate", str(path)]) == 2
    assert "confidence is 95" in capsys.readouterr().err


def test_a_gate_that_is_off_requires_nothing_of_the_evaluation(written: Callable[[str], Path]) -> None:
    assert load_project(written('[gate]\nmode = "off"\nrequired_judges = 5')).gate.mode == "off"
