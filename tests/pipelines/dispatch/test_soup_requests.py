"""Requests of a soup of several runs."""

import pytest
from words_project import PROJECT, names

from alignment.contracts.soup import Greedy, SoupIngredient, SoupSpec
from alignment.contracts.training import TrainResult
from pipelines.dispatch.requests import (
    soup_request,
)
from pipelines.project.file import Project, load_project
from pipelines.settings import Settings
from pipelines.store.folders import hash_folder, sha256_file

GREEDY = """
[[train]]
recipe = "diffusion_dpo_shapes"
overrides = ["seed=8"]
[soup]
method = "greedy"
judge = "nose"
prompts = "taste.tsv"
seeds = [3]
minimum_gain = 0.1
[[soup.judges]]
name = "nose"
uri = "guard"
scorer = { kind = "clip_score" }
trained_on = ["panel"]
"""


def souping_project(project: Project, section: str = GREEDY, prompts: str = "a hexagon\tany\n") -> Project:
    project.path.write_text(PROJECT + section)
    (project.path.parent / "taste.tsv").write_text(f"prompt\tcategory\n{prompts}")
    return load_project(project.path)


def run_of(project: Project, recipe: int, weights: str) -> SoupIngredient:
    result = TrainResult(
        uri=f"file:///store/models/{weights}",
        spec_digest="7" * 64,
        kind="full",
        weights_digest=weights * 64,
        base_digest="b" * 64,
        steps=1,
        num_pairs=1,
        final_metrics={},
    )
    return SoupIngredient(recipe=project.recipes()[recipe], result=result)


def test_a_greedy_soup_states_judge_prompts_and_gain(project: Project, settings: Settings) -> None:
    souping = souping_project(project)
    request = soup_request(souping, settings, [run_of(souping, 0, "c"), run_of(souping, 1, "d")])
    spec = SoupSpec.model_validate(request.spec)
    assert isinstance(spec.method, Greedy)
    assert spec.method.judge.lessons[0] == "nose"
    assert spec.method.judge.trained_on == ("panel",)
    assert (spec.method.seeds, spec.method.minimum_gain) == ((3,), 0.1)
    assert spec.method.sampler == souping.evaluation.sampler
    base, guard = (hash_folder(project.path.parent / name)[0] for name in ("base", "guard"))
    prompts = sha256_file(project.path.parent / "taste.tsv")
    assert names(request) == ["c" * 64, "d" * 64, base, prompts, guard]
    assert (request.kind, request.output_uri) == ("soup", f"{settings.store_uri}/soups/{spec.digest}")


def test_a_greedy_soup_may_not_taste_the_prompts_of_the_gate(project: Project, settings: Settings) -> None:
    souping = souping_project(project, prompts="a hexagon\tany\nA  Circle!\tany\n")
    with pytest.raises(ValueError, match=r"taste.tsv holds 1 prompts of the evaluation"):
        soup_request(souping, settings, [run_of(souping, 0, "c"), run_of(souping, 1, "d")])


def test_a_soup_needs_a_section_and_two_runs(project: Project, settings: Settings) -> None:
    souping = souping_project(project)
    with pytest.raises(ValueError, match="needs two runs or more, got 1"):
        soup_request(souping, settings, [run_of(souping, 0, "c")])
    with pytest.raises(ValueError, match=r"there is no \[soup\]"):
        soup_request(project, settings, [run_of(souping, 0, "c"), run_of(souping, 1, "d")])


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('judge = "nose"', 'judge = "noze"', "Unknown judge 'noze'. Did you mean 'nose'"),
        (
            '"diffusion_dpo_shapes"\noverrides',
            '"mapo_shapes"\noverrides',
            "diffusion_dpo_shapes and mapo_shapes differ",
        ),
        ("minimum_gain = 0.1\n", "", "soup.greedy.minimum_gain: Field required"),
        ('[[train]]\nrecipe = "diffusion_dpo_shapes"\noverrides = ["seed=8"]\n', "", "there is one .*Add another"),
    ],
)
def test_a_soup_that_cannot_be_is_refused_with_the_project(
    project: Project, old: str, new: str, complaint: str
) -> None:
    assert old in GREEDY
    with pytest.raises(ValueError, match=complaint):
        souping_project(project, GREEDY.replace(old, new))
