"""Project files: extended files, rewards, sources and scorers, and the errors about them."""

from pathlib import Path

import pytest

from pipelines.project.file import Project, find_project, load_project, load_projects

REWARD = """
[[rewards]]
name = "people"
encoder = "clip"
[rewards.recipe]
head = { kind = "pal_b" }
global_batch = 8
steps = 2
seed = 1
"""


def over(project: Project, text: str, name: str = "top") -> Path:
    """Write a file of the same name in another folder that extends the project."""
    path = project.path.parent / name / "tiny.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'extends = ["{project.path}"]\n{text}')
    return path


def test_an_extending_file_merges_tables_and_replaces_other_values(tiny_project: Project) -> None:
    top = over(
        tiny_project, '[snapshot]\ntest_share = 0.3\n[gate]\nminimum_prompts = 7\n[[train]]\nrecipe = "sft_shapes"\n'
    )
    project = load_project(top)
    assert (project.snapshot.calibration_share, project.snapshot.test_share) == (0.3, 0.3)
    assert project.gate.minimum_prompts == 7
    assert [section.recipe for section in project.train] == ["sft_shapes"]
    assert (project.base.uri, project.path) == (tiny_project.base.uri, top), "paths are resolved against the first file"


def test_files_can_be_stacked(tiny_project: Project) -> None:
    middle = over(tiny_project, "[gate]\nminimum_prompts = 7\nrequired_judges = 1\n", "middle")
    top = tiny_project.path.parent / "top" / "tiny.toml"
    top.parent.mkdir()
    top.write_text(f'extends = ["{middle}"]\n[gate]\nminimum_prompts = 8\n')
    project = load_project(top)
    assert (project.gate.minimum_prompts, project.gate.required_judges) == (8, 1)
    assert project.base.uri == tiny_project.base.uri


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('extends = "tiny.toml"', r"extends is 'tiny.toml'. Give a list of files"),
        ('extends = ["nowhere.toml"]', r"nowhere.toml does not exist"),
        ('extends = ["tiny.toml"]', r"extends itself"),
    ],
)
def test_a_bad_extends_is_an_error(tiny_project: Project, line: str, complaint: str) -> None:
    tiny_project.path.write_text(f"{line}\n{tiny_project.path.read_text()}")
    with pytest.raises(ValueError, match=complaint):
        load_project(tiny_project.path)


def test_a_reward_has_an_encoder_and_a_recipe_of_the_same_name(tiny_project: Project) -> None:
    tiny_project.path.write_text(tiny_project.path.read_text() + REWARD)
    (reward,) = load_project(tiny_project.path).rewards
    assert (reward.recipe.name, reward.recipe.head.kind, reward.recipe.steps) == ("people", "pal_b", 2)
    assert reward.encoder == str(tiny_project.path.parent / "clip")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('encoder = "clip"', 'encoder = "clip"\nsources = ["tiny_pears"]', "Unknown source 'tiny_pears'. Did you mean"),
        ("test_share = 0.2", 'test_share = 0.2\nsources = ["pairs"]', "Unknown source 'pairs'"),
        ('uri = "judge"', 'uri = "reward://peple"', "Unknown reward 'peple'. Did you mean 'people'"),
        (
            'uri = "judge"',
            'uri = "reward://people"',
            r"'judge' has the uri reward://people, whose scorer is of kind 'pal'",
        ),
        ("steps = 2\nseed", "seed", "rewards.0.recipe.steps: Field required"),
    ],
)
def test_an_invalid_reward_is_refused(tiny_project: Project, old: str, new: str, complaint: str) -> None:
    text = tiny_project.path.read_text() + REWARD
    assert old in text
    tiny_project.path.write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=complaint):
        load_project(tiny_project.path)


GUARD = '[[evaluation.guards]]\nname = "g"\n'


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (GUARD + 'scorer = { kind = "diversity" }\nuri = "clip"\n', "give two or more seeds"),
        (GUARD + 'scorer = { kind = "clip_score" }\n', "needs a uri, the folder of its weights"),
        (
            GUARD + 'uri = "x"\nscorer = { kind = "image_statistic", statistic = "contrast" }\n',
            "has no weights: omit uri",
        ),
        (
            '[[evaluation.judges]]\nname = "d"\nuri = "clip"\nscorer = { kind = "diversity" }\n',
            "it can be a guard but not a judge",
        ),
    ],
)
def test_a_scorer_in_the_wrong_place_is_refused(tiny_project: Project, more: str, complaint: str) -> None:
    tiny_project.path.write_text(tiny_project.path.read_text() + more)
    with pytest.raises(ValueError, match=complaint):
        load_project(tiny_project.path)


def test_a_guard_without_weights_has_no_folder(tiny_project: Project) -> None:
    guard = (
        GUARD + 'scorer = { kind = "image_statistic", statistic = "contrast" }\n[gate.guards]\ng = { margin = 0.1 }\n'
    )
    tiny_project.path.write_text(tiny_project.path.read_text() + guard)
    assert load_project(tiny_project.path).evaluation.guards[0].uri == ""


def test_projects_that_extend_each_other_are_refused(tiny_project: Project) -> None:
    other = over(tiny_project, "[gate]\nminimum_prompts = 7\n")
    tiny_project.path.write_text(f'extends = ["{other}"]\n{tiny_project.path.read_text()}')
    with pytest.raises(ValueError, match="extends itself"):
        load_project(other)


def test_each_project_of_a_folder_is_loaded_separately(tiny_project: Project) -> None:
    folder = tiny_project.path.parent
    (folder / "broken.toml").write_text(tiny_project.path.read_text().replace("tiny", "broken") + "\nlicense = 1\n")
    (folder / "folder.toml").mkdir()
    projects, problems = load_projects(folder)
    assert [project.name for project in projects] == ["tiny"]
    assert [problem.split(":")[0].split(" ")[0] for problem in problems[:1]] == [str(folder / "broken.toml")]
    assert str(folder / "folder.toml") in problems[1]


def test_an_unexpected_fault_of_one_project_does_not_stop_the_others(
    tiny_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> Project:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pipelines.project.file.load_project", fail)
    assert load_projects(tiny_project.path.parent) == (
        [],
        [f"{tiny_project.path}: PermissionError: [Errno 13] Permission denied"],
    )


def test_a_project_is_found_by_its_name_and_an_unknown_one_lists_the_nearest_first(tmp_path: Path) -> None:
    for name in ("anime", "shapes_large", "shapes"):
        (tmp_path / f"{name}.toml").touch()
    assert find_project("anime", tmp_path) == tmp_path / "anime.toml"
    with pytest.raises(ValueError) as error:
        find_project("shape", tmp_path)
    assert str(error.value).startswith(
        f"Unknown project 'shape'. Did you mean 'shapes'? {tmp_path} has shapes, shapes_large, anime."
    )


def test_a_folder_without_projects_says_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Unknown project 'shapes'\. .*/nowhere has no project file\."):
        find_project("shapes", tmp_path / "nowhere")


def test_recipes_share_errors_of_the_base_unless_weights_are_sharded(tiny_project: Project) -> None:
    train = '[[train]]\nrecipe = "diffusion_dpo_shapes"\n'
    project = load_project(over(tiny_project, f'{train}{train}overrides = ["objective.beta=9"]\n'))
    assert project.shared_references() == [[0, 1]]
    sharded = project.placement.train.model_copy(update={"sharding": "fsdp2"})
    placement = project.placement.model_copy(update={"train": sharded})
    assert project.model_copy(update={"placement": placement}).shared_references() == []
