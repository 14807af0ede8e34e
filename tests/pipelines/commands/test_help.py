"""Help, version, completion, usage errors, and the form of the output at a shell."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from pipelines.commands import cli, reference
from pipelines.commands.groups import STAGE

ROOT = Path(__file__).parents[3]
SHAPES = str(ROOT / "projects" / "shapes.toml")
PICKS = "pick\n" + "challenger\nchallenger\nchampion\nchallenger\n" * 40
PLUMBLINE = [sys.executable, "-m", "pipelines.commands.cli"]
HEAVY = ("torch", "diffusers", "transformers", "great_expectations", "mlflow", "boto3", "pandas", "pyarrow", "numpy")
MAXIMUM_MODULES = 450
GROUPS = {
    "gate": {STAGE, "advise", "simulate", "explain", "aa", "people"},
    "judges": {STAGE, "import"},
    "prompts": {"import"},
    "feedback": {"init"},
    "quarantine": {"show", "replay"},
    "jobs": {"list", "log", "cancel"},
}


def command_paths() -> list[tuple[str, ...]]:
    paths = [(name,) for names in cli.PANELS.values() for name in names]
    return [*paths, *((group, name) for group, names in GROUPS.items() for name in names)]


def on_terminal(argv: list[str], tmp_path: Path) -> tuple[int, str]:
    """Run the command line with stdout on a pseudo-terminal; return the exit code, and stdout without colours."""
    master, slave = pty.openpty()
    environment = {**os.environ, "COLUMNS": "100", "TERM": "xterm", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*PLUMBLINE, *argv], stdout=slave, stderr=subprocess.DEVNULL, cwd=tmp_path, env=environment
    )
    os.close(slave)
    shown = b""
    try:
        while chunk := os.read(master, 65536):
            shown += chunk
    except OSError:  # Linux reports the end of a terminal as an error
        pass
    os.close(master)
    return process.wait(timeout=60), re.sub(r"\x1b(\[[0-9;]*m|\]8[^\\]*\\)", "", shown.decode())


def error_line(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert cli.main(argv) == cli.BAD_INPUT
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    return line


@pytest.fixture
def picks(tmp_path: Path) -> Path:
    path = tmp_path / "picks.csv"
    path.write_text(PICKS)
    return path


# --- help -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(command_paths()), ids=" ".join)
def test_every_command_has_help(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*path, "--help"]) == cli.DONE
    shown = capsys.readouterr().out
    assert f"Usage: plumbline {' '.join(path)}" in shown
    for word in ("{", "<bool>", "[[", "None"):
        assert word not in shown


def test_groups_have_the_sub_commands() -> None:
    root = typer.main.get_command(cli.app)
    found = {name: set(own.commands) for name, own in root.commands.items() if hasattr(own, "commands")}
    assert found == GROUPS


def test_help_shows_the_commands_by_panel(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == cli.DONE
    shown = capsys.readouterr().out
    order = [shown.index(f"─ {panel} ─") for panel in cli.PANELS]
    assert order == sorted(order)
    names = re.findall(r"^│ (\w[\w-]*) ", shown, flags=re.MULTILINE)
    assert names == [name for own in cli.PANELS.values() for name in own]


def test_help_of_a_group_shows_its_stage_and_its_sub_commands(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["gate", "--help"])
    shown = capsys.readouterr().out
    assert re.search(r"^│ .*PROJECT", shown, flags=re.MULTILINE)
    assert "--version" in shown
    assert re.search(r"^│ simulate ", shown, flags=re.MULTILINE)
    assert not re.search(r"^│ PROJECT ", shown, flags=re.MULTILINE)


def test_a_call_without_arguments_prints_the_help_and_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == cli.BAD_INPUT
    assert "Usage: plumbline" in capsys.readouterr().out


def test_help_and_version_load_nothing_heavy() -> None:
    code = (
        "import json, sys\nfrom pipelines.commands import cli\ncli.main(sys.argv[1:])\n"
        f"print(json.dumps([[m for m in {HEAVY!r} if m in sys.modules], len(sys.modules),"
        " [m for m in sys.modules if m.startswith('pipelines.') and not m.startswith('pipelines.commands')]]))"
    )
    for argv in (["--help"], ["train", "--help"], ["gate", "--help"], ["--version"]):
        result = subprocess.run(
            [sys.executable, "-c", code, *argv], capture_output=True, text=True, timeout=100, check=True, cwd=ROOT
        )
        heavy, num_modules, own = json.loads(result.stdout.splitlines()[-1])
        assert (heavy, own) == ([], [])
        assert num_modules <= MAXIMUM_MODULES


def test_the_reference_page_is_current() -> None:
    assert (ROOT / "docs" / "cli.md").read_text() == reference.reference(), "run `make docs-reference`"


def test_the_reference_page_names_every_command_and_option() -> None:
    text = reference.reference()
    titles = re.findall(r"^### `plumbline ([\w -]+)`$", text, flags=re.MULTILINE)
    stages = {" ".join(path) for path in command_paths() if path[-1] != STAGE} - {
        "prompts",
        "jobs",
        "quarantine",
        "feedback",
    }
    assert sorted(titles) == sorted(stages)
    assert "| `--simulations N` | `500` | Number of evaluations of each kind of candidate. |" in text
    assert "| `--gpu-memory GIB` | required |" in text


# --- version and completion -----------------------------------------------------------------------------------------


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == cli.DONE
    assert re.fullmatch(r"plumbline \d+\.\d+\.\d+\n", capsys.readouterr().out)


def complete(words: str) -> list[str]:
    """Complete the last word as bash does."""
    environment = {
        **os.environ,
        "_PLUMBLINE_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    result = subprocess.run(
        PLUMBLINE, capture_output=True, text=True, timeout=60, check=True, env=environment, cwd=ROOT
    )
    return result.stdout.split()


def test_completion_script_for_bash() -> None:
    environment = {**os.environ, "_PLUMBLINE_COMPLETE": "source_bash"}
    result = subprocess.run(
        PLUMBLINE, capture_output=True, text=True, timeout=60, check=True, env=environment, cwd=ROOT
    )
    assert "_PLUMBLINE_COMPLETE=complete_bash" in result.stdout
    subprocess.run(["bash", "-n"], input=result.stdout, text=True, check=True, timeout=60)


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("plumbline re", ["register", "reward", "reconcile"]),
        ("plumbline gate s", ["simulate"]),
        ("plumbline gate projects/shapes.toml --ver", ["--version"]),
        ("plumbline train projects/shapes.toml --recipe mapo_sh", ["mapo_shapes"]),
    ],
)
def test_completion(words: str, offered: list[str]) -> None:
    assert complete(words) == offered


# --- usage errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["trian"], "No such command 'trian'. Did you mean 'train'? Try: plumbline --help"),
        (["train"], "Missing argument 'PROJECT'. Try: plumbline train --help"),
        (["gate"], "Missing argument 'PROJECT'. Try: plumbline gate PROJECT --help"),
        (["prompts", "imprt"], "No such command 'imprt'. Did you mean 'import'? Try: plumbline prompts --help"),
        (["train", SHAPES, "--recip", "x"], "No such option: --recip. Did you mean '--recipe'?"),
        (["gate", "--versoin", "3", SHAPES], "No such option: --versoin. Did you mean '--version'?"),
        (["search", SHAPES], "Missing option '--gpu-memory'. Try: plumbline search --help"),
        (["prune", SHAPES], "Missing option '--keep'."),
        (["evaluate", SHAPES, "--version", "x"], "Invalid value for '--version': Input should be a valid integer"),
        (["train", SHAPES, "--recipe"], "Option '--recipe' requires an argument."),
        (["judges", SHAPES, "extra"], "Got unexpected extra argument(s) (extra). Try: plumbline judges PROJECT --help"),
        (["rollback", SHAPES, "--reason", "x", "--to-base", "--to-version", "1"], "exclude each other"),
        (["gate", "simulat", "x.toml"], "Unknown project 'simulat'. Did you mean 'simulate'?"),
        (["status", "shape"], "Unknown project 'shape'. Did you mean 'shapes'?"),
        (["gate", "explain", "shape"], "Unknown project 'shape'. Did you mean 'shapes'?"),
        (["canary", "shapes"], "File shapes does not exist."),
        (["gate", "simulate", "policy.toml"], "File policy.toml does not exist."),
    ],
)
def test_a_usage_error_is_one_line(capsys: pytest.CaptureFixture[str], argv: list[str], expected: str) -> None:
    line = error_line(capsys, *argv)
    assert line.startswith("plumbline: ")
    assert expected in line


@pytest.mark.parametrize("given", ["projects/shape.toml", "projects/shapes", "shapes.toml"])
def test_a_missing_project_file_suggests_the_nearest(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.chdir(ROOT)
    line = error_line(capsys, "status", given)
    assert line == f"plumbline: Project file {given} does not exist. Did you mean 'projects/shapes.toml'?"


@pytest.mark.parametrize("path", sorted(command_paths()), ids=" ".join)
def test_every_command_on_a_project_takes_its_name(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUMBLINE_PROJECTS_DIR", str(ROOT / "projects"))
    root = typer.main.get_command(cli.app)
    for name in path:
        root = root.commands[name]
    for parameter in root.params:
        if parameter.metavar == "PROJECT":
            context = root.context_class(root, info_name="x")
            assert str(parameter.process_value(context, "shapes")) == SHAPES


# --- exit codes -----------------------------------------------------------------------------------------------------


def test_arguments_go_to_the_stage_or_to_the_named_sub_command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "decision.json").write_text("{}")
    decision = str(tmp_path / "decision.json")
    assert "holds no gate decision" in error_line(capsys, "gate", "explain", decision, "--json")
    assert "is not valid TOML" in error_line(capsys, "gate", "--version", "3", decision)
    assert "is not valid TOML" in error_line(capsys, "judges", decision)
    assert "Unknown judge to import 'pickscor'" in error_line(
        capsys, "judges", "import", "pickscor", decision, "--out", str(tmp_path / "out")
    )


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (ValueError("bad field"), cli.BAD_INPUT, "plumbline: bad field"),
        (RuntimeError("MLflow does not answer"), cli.FAILED, "plumbline: MLflow does not answer"),
        (OSError("disk full"), cli.FAILED, "plumbline: disk full"),
        (KeyboardInterrupt(), 130, "plumbline: interrupted. Run the same command again to continue."),
    ],
)
def test_an_error_has_an_exit_code_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    picks: Path,
    *,
    error: BaseException,
    code: int,
    shown: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("pipelines.monitor.canary.judge_picks", fail)
    assert cli.main(["canary", str(picks)]) == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err.splitlines()[-1]) == ("", shown)
    assert "Traceback" not in captured.err


# --- output ---------------------------------------------------------------------------------------------------------


def test_a_pipe_gets_json_and_a_terminal_a_summary(picks: Path, tmp_path: Path) -> None:
    argv = ["canary", str(picks)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    piped = subprocess.run([*PLUMBLINE, *argv], capture_output=True, text=True, timeout=60, check=True, env=environment)
    assert json.loads(piped.stdout)["verdict"] == "challenger"
    code, shown = on_terminal(argv, tmp_path)
    assert code == cli.DONE
    assert re.search(r"^verdict +challenger", shown, flags=re.MULTILINE)
    assert "{" not in shown
    code, shown = on_terminal([*argv, "--json"], tmp_path)
    assert json.loads(shown) == json.loads(piped.stdout)
    assert on_terminal([*argv, "--required", "0.9"], tmp_path)[0] == cli.GATE_SAID_NO
    assert on_terminal(["canary", "nothing.csv"], tmp_path) == (cli.BAD_INPUT, "")


def test_every_command_that_prints_a_value_takes_json() -> None:
    root = typer.main.get_command(cli.app)
    leaves = {name: own for name, own in root.commands.items() if not hasattr(own, "commands")}
    leaves |= {f"{group} {n}": own for group in GROUPS for n, own in root.commands[group].commands.items()}
    without = {name for name, own in leaves.items() if not any("--json" in p.opts for p in own.params)}
    assert without == {"demo", "exporter", "jobs log", "up"}
