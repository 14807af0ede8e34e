"""Bad input gives one clear line on stderr and exit code 2, through the command that a person types."""

import json
import shutil
from pathlib import Path

import pytest

from pipelines.commands import by_hand, cli
from pipelines.stages import pairs, values

ROOT = Path(__file__).parents[3]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the shapes project whose paths still refer to the example's files."""
    monkeypatch.setenv("PLUMBLINE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "projects").mkdir()
    return Path(shutil.copy(ROOT / "projects" / "shapes.toml", tmp_path / "projects"))


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Return the one line that a refused command prints."""
    assert cli.main(argv) == cli.BAD_INPUT
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if line.startswith("plumbline: ")]
    assert len(lines) == 1
    return lines[0]


def edit(project: Path, old: str, new: str) -> None:
    text = project.read_text()
    assert old in text
    project.write_text(text.replace(old, new))


def test_status_creates_nothing_and_fails_without_store_and_mlflow(
    project: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["status", str(project)]) == cli.FAILED
    value = json.loads(capsys.readouterr().out)
    assert "champion" not in value, "nothing is known about it"
    assert [problem.partition(".")[0] for problem in value["problems"]] == [
        f"There is no store at file://{tmp_path}/state/store",
        f"MLflow has no database at {tmp_path}/state/mlflow/mlflow",
    ]
    assert not (tmp_path / "state").exists()


@pytest.mark.slow
def test_status_reports_an_unreachable_airflow(
    project: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "state/store").mkdir(parents=True)
    (tmp_path / "state/mlflow").mkdir()
    (tmp_path / "state/mlflow/mlflow.db").touch()
    assert cli.main(["status", str(project)]) == cli.DONE
    airflow = json.loads(capsys.readouterr().out)["airflow"]
    assert (airflow["reachable"], airflow["paused_dags"]) == (False, None)
    assert "plumbline up" in airflow["problem"]


def test_missing_project(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "nowhere.toml does not exist" in refused(capsys, "train", str(tmp_path / "nowhere.toml"))


def test_unknown_objective_suggests_the_nearest(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    line = refused(capsys, "train", str(project), "objective.name=diffusion_dop")
    assert "Unknown objective 'diffusion_dop'. Did you mean 'diffusion_dpo'?" in line


def test_unknown_recipe_field_suggests_the_nearest(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    line = refused(capsys, "run", str(project), "optimiser.learning_rte=1e-3")
    assert "Did you mean 'optimiser.learning_rate'?" in line


def test_unknown_project_field_suggests_the_nearest(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    edit(project, "minimum_prompts", "minimum_promts")
    assert "Did you mean 'gate.minimum_prompts'?" in refused(capsys, "ingest", str(project))


def test_commands_without_their_section_say_what_to_add(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    assert "has no [soup]. Add one" in refused(capsys, "soup", str(project))
    text = project.read_text()
    project.write_text(text[: text.index("[[rewards]]")] + text[text.index("[evaluation]") :])
    assert "has no [[rewards]]. Add one" in refused(capsys, "reward", str(project))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--reason", "better"), "--reason and --forward belong to --by-hand. Add it"),
        (("--forward",), "--reason and --forward belong to --by-hand. Add it"),
        (("--by-hand", "--approve"), "there is none to --approve"),
        (("--by-hand", "--decision", "ab"), "there is none to --approve"),
        (("--decision", "3fa9"), "--decision 3fa9 names a decision to approve. Add --approve"),
        (("--by-hand", "--reason", "better"), "is 'enforce', so the gate decides what is promoted"),
    ],
)
def test_options_of_promote_that_exclude_each_other(
    capsys: pytest.CaptureFixture[str], project: Path, options: tuple[str, ...], message: str
) -> None:
    assert message in refused(capsys, "promote", str(project), *options)


@pytest.mark.slow
def test_while_the_gate_is_off_nothing_is_evaluated_and_promote_names_the_command(
    capsys: pytest.CaptureFixture[str], project: Path
) -> None:
    edit(project, "[gate]\n", '[gate]\nmode = "off"\n')
    assert "--by-hand --reason TEXT" in refused(capsys, "promote", str(project))
    assert "The reason is empty" in refused(capsys, "promote", str(project), "--by-hand")
    assert "has no candidate" in refused(capsys, "promote", str(project), "--by-hand", "--reason", "better")
    moves, done = by_hand.promotions(str(project), [{"model": "shapes", "version": 3}])
    assert (moves[0]["moved"], done) == (False, False)
    assert "--by-hand --version 3 --reason TEXT" in moves[0]["message"]


@pytest.mark.parametrize("command", ["run", "demo"])
def test_unknown_recipe_suggests_the_nearest_and_starts_nothing(
    capsys: pytest.CaptureFixture[str], project: Path, tmp_path: Path, command: str
) -> None:
    line = refused(capsys, command, str(project), "--recipe", "mapo_shape")
    assert "Unknown recipe 'mapo_shape'. Did you mean 'mapo_shapes'?" in line
    assert not (tmp_path / "state").exists()


def test_a_recipe_takes_the_overrides_with_it(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []
    monkeypatch.setattr(pairs, "list_shards", lambda path: seen.append(path) or [])
    monkeypatch.setattr(pairs, "snapshot", lambda _path, run_key: {"content_digest": "5" * 64})
    assert cli.main(["encode", str(project), "seed=3", "--recipe", "prdp_shapes"]) == cli.DONE
    assert capsys.readouterr().out.strip() == "[]", "an online recipe needs no features"
    (recipe,) = values.read_project(seen[0]).recipes()
    assert (recipe.name, recipe.seed) == ("prdp_shapes", 3)


def test_a_demo_takes_overrides_only_with_a_recipe(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    assert "Give --recipe NAME" in refused(capsys, "demo", str(project), "seed=3")


def test_broken_toml_names_the_line(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    edit(project, 'name = "shapes"', "name = shapes")
    assert "is not valid TOML" in refused(capsys, "ingest", str(project))


def test_all_bad_fields_are_reported_together(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    edit(project, "calibration_share = 0.3", "calibration_share = 2.0")
    edit(project, "required_judges = 2", "required_judges = 0")
    line = refused(capsys, "ingest", str(project))
    assert "snapshot.calibration_share" in line
    assert "gate.required_judges" in line


def test_missing_source_folder(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    edit(project, "../examples/shapes/pairs", "../examples/shapes/pears")
    assert "pears" in refused(capsys, "ingest", str(project))


def test_store_that_cannot_be_written(
    capsys: pytest.CaptureFixture[str], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = project.parent / "a_file"
    blocked.write_text("in the way")
    monkeypatch.setenv("PLUMBLINE_STORE_URI", f"{blocked.as_uri()}/store")
    line = refused(capsys, "ingest", str(project))
    assert str(blocked) in line
    assert blocked.read_text() == "in the way"


@pytest.mark.timeout(180)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from imports of great_expectations
def test_base_model_that_lacks_a_file(capsys: pytest.CaptureFixture[str], project: Path, tmp_path: Path) -> None:
    copy = tmp_path / "base"
    shutil.copytree(ROOT / "examples" / "shapes" / "base", copy)
    (copy / "unet" / "config.json").unlink()
    edit(project, "../examples/shapes/base", "../base")
    assert "unet" in refused(capsys, "encode", str(project))


@pytest.mark.timeout(180)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from imports of great_expectations
def test_objective_that_needs_captions_on_pairs_without(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    edit(project, "diffusion_dpo_shapes", "dcpo_shapes")
    edit(project, f"[captions]\n{SHIPPED}\n", "")
    line = refused(capsys, "encode", str(project))
    assert "Objective 'dcpo' trains each image under its own caption, but snapshot file://" in line
    assert "Add [captions] to the project file" in line
    assert "caption_0 and caption_1" in line


def test_gate_simulate_is_a_command_beside_the_stage(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("[gate]\nrequired_judges = 2\n")
    argv = ["gate", "simulate", str(tmp_path / "policy.toml"), "--simulations", "1", "--prompts", "1000"]
    assert cli.main(argv) == 0
    out = capsys.readouterr().out
    assert "| 60 % true win rate | 100.0 %" in out
    assert "3 judges" in out
    assert cli.main([*argv, "--json"]) == 0
    assert {o["simulations"] for o in json.loads(capsys.readouterr().out)} == {1}


def test_gate_explain_reads_a_decision(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "decision.json").write_text("{}")
    assert "holds no gate decision" in refused(capsys, "gate", "explain", str(tmp_path / "decision.json"))


def test_labelling_and_drawing_without_their_sections_are_errors(
    capsys: pytest.CaptureFixture[str], project: Path
) -> None:
    assert "has no [labelling]" in refused(capsys, "label", str(project))
    assert 'no source of kind "self_generated"' in refused(capsys, "draw", str(project))


def test_unknown_labelling_judge_suggests_the_nearest(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    edit(project, "[gate]", '[labelling]\njudges = ["taste_c"]\nmethod = { kind = "proxy_vote" }\n\n[gate]')
    assert "Unknown judge 'taste_c'. Did you mean 'taste_" in refused(capsys, "label", str(project))


def test_drawing_held_out_prompts_is_an_error(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    prompts = (ROOT / "examples" / "shapes" / "prompts.tsv").read_text().splitlines()[1].partition("\t")[0]
    (project.parent / "few.txt").write_text(f"a cat\n{prompts}\n")
    draw = (
        '[[sources]]\nname = "style"\nkind = "self_generated"\nlicence = "CC0-1.0"\n[sources.draw]\nprompts = "few.txt"'
    )
    edit(
        project,
        "[snapshot]",
        f'{draw}\nchosen_template = "bright {{prompt}}"\nseeds = [0]\nsampler = {{ }}\n\n[snapshot]',
    )
    assert "few.txt holds 1 prompts of the evaluation (lines 2)" in refused(capsys, "draw", str(project))


def search(capsys: pytest.CaptureFixture[str], project: Path, *argv: str) -> str:
    return refused(capsys, "search", str(project), *argv)


def test_search_limits_are_refused_before_anything_runs(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    line = search(capsys, project, "--gpu-memory", "0", "--hours", "-1")
    assert "--gpu-memory is 0 and --hours is -1. Give a number above 0" in line
    assert not (project.parents[1] / "state").exists()


def test_search_does_not_overwrite_a_users_recipe(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    line = search(capsys, project, "--gpu-memory", "4", "--hours", "1", "--out", str(project))
    assert "exists and was not written by a search" in line
    assert not (project.parents[1] / "state").exists()


def test_an_unknown_factor_of_a_search_suggests_the_nearest(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    edit(project, "[evaluation]", '[search]\nfactors = { "objective.betta" = [0.5, 2.0] }\n\n[evaluation]')
    line = search(capsys, project, "--gpu-memory", "4", "--hours", "1")
    assert "Unknown field of search.factors 'objective.betta'. Did you mean 'objective.beta'?" in line


SHIPPED = 'variant = "dcpo_c"\ncaptioner = "../examples/shapes/captioner"'
CAPTIONS = 'variant = "dcpo_h"\ncaptioner = "../captioner"\nlevel = "medium"'


def test_captions_without_their_section_are_an_error(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    """The check is made before a pair is read."""
    edit(project, f"[captions]\n{SHIPPED}\n", "")
    line = refused(capsys, "caption", str(project))
    assert f"{project} has no [captions]" in line


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"dcpo_h"', '"dcpo_x"', "captions.variant: Input should be 'dcpo_c', 'dcpo_p' or 'dcpo_h' (got 'dcpo_x')"),
        ('"medium"', '"mild"', "captions.level: Input should be 'weak', 'medium' or 'strong' (got 'mild')"),
        ('captioner = "../captioner"\n', "", "variant 'dcpo_h' needs captioner"),
        ('"dcpo_h"', '"dcpo_p"', "variant 'dcpo_p' allows no captioner"),
        ('"dcpo_h"', '"dcpo_c"', "variant 'dcpo_c' allows no level"),
        ("level =", "lvel =", "Did you mean 'captions.level'?"),
    ],
)
def test_captions_that_do_not_fit_together(
    capsys: pytest.CaptureFixture[str], project: Path, old: str, new: str, message: str
) -> None:
    edit(project, SHIPPED, CAPTIONS)
    edit(project, old, new)
    assert message in refused(capsys, "caption", str(project))


@pytest.mark.timeout(180)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from imports of great_expectations
def test_a_captioner_of_another_class(capsys: pytest.CaptureFixture[str], project: Path, tmp_path: Path) -> None:
    """The model here is a judge, which has every file that a captioner has."""
    edit(project, SHIPPED, CAPTIONS)
    shutil.copytree(ROOT / "examples" / "shapes" / "judges" / "taste_a", tmp_path / "captioner")
    line = refused(capsys, "caption", str(project))
    assert f"captioner {tmp_path / 'captioner'} is of CLIPModel, but captions come from BlipForConditional" in line
    (tmp_path / "captioner" / "model.safetensors").unlink()
    assert "lacks model.safetensors" in refused(capsys, "caption", str(project))


@pytest.mark.slow
def test_a_broken_shard_stops_nothing_but_itself(
    capsys: pytest.CaptureFixture[str], project: Path, tmp_path: Path
) -> None:
    own = tmp_path / "pairs"
    shutil.copytree(ROOT / "examples/shapes/pairs", own)
    (own / "train-00003-of-00003.parquet").write_bytes(b"PAR1 and then nothing")
    edit(project, "../examples/shapes/pairs", str(own))
    for command, name in (("ingest", "batches"), ("validate", "reports")):
        assert cli.main([command, str(project)]) == cli.BAD_INPUT
        captured = capsys.readouterr()
        value = json.loads(captured.out)
        assert (len(value[name]), [failure["shard"] for failure in value["failures"]]) == (
            3,
            ["train-00003-of-00003.parquet"],
        )
        assert "1 of 4 shards could not be used" in captured.err
    assert cli.main(["snapshot", str(project)]) == cli.DONE, "one of four is within max_failed_shards"
    capsys.readouterr()
    (own / "train-00004-of-00003.parquet").write_bytes(b"")
    assert cli.main(["snapshot", str(project)]) == cli.BAD_INPUT
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "2 of 5 shards could not be used" in captured.err
    assert "max_failed_shards = 0.25" in captured.err
