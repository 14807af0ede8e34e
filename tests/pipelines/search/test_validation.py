"""The judge that ranks and its prompts."""

from pathlib import Path
from typing import Any

import pytest

from alignment.statistics.prompts import read_prompts
from pipelines.project.sections import OnlineSection
from pipelines.search.validation import _choose, for_validation, validation_judge, vote_note
from pipelines.store.storage import open_store
from pipelines.workspace import Workspace


def prompts_of(project: Any, world: Any) -> list[str]:
    store = open_store(world.settings.store_uri, world.settings)
    path = store.local_path(project.evaluation.prompts, world.folder)
    return [prompt.text for prompt in read_prompts(path)]


def test_the_named_judge_else_one_without_a_vote_else_the_first(world: Any) -> None:
    project = world.project
    assert validation_judge(project).name == "taste_a"
    assert validation_judge(world.with_section(judge="taste_b")).name == "taste_b"
    spare = project.evaluation.judges[1].model_copy(update={"name": "spare"})
    online = OnlineSection(prompts="x", rewards=(spare,))
    assert validation_judge(project.model_copy(update={"online": online})).name == "spare"


def test_an_unknown_judge_suggests_the_nearest(world: Any) -> None:
    with pytest.raises(ValueError, match=r"Unknown search.judge 'taste_c'. Did you mean 'taste_"):
        validation_judge(world.with_section(judge="taste_c"))


def test_the_lost_vote_is_reported(world: Any) -> None:
    note = vote_note(world.project, validation_judge(world.project))
    assert note == (
        "taste_a chose this recipe and may not vote on what it trains; 1 other judges are left. gate.required_judges is"
        " 2: name more judges, or lower it."
    )
    assert "the gate will refuse it" in vote_note(world.project, world.project.evaluation.guards[0])
    assert vote_note(world.project, validation_judge(world.project).model_copy(update={"name": "spare"})) == ""


def test_prompts_of_the_test_split_by_default(world: Any) -> None:
    project = world.with_section(num_prompts=5, seeds=(7,))
    validated = for_validation(Workspace(project, world.settings), world.snapshot, validation_judge(project))
    found = prompts_of(validated, world)
    assert len(found) == 5
    assert set(found) <= {f"a shape number {number}" for number in range(12)}
    evaluation = validated.evaluation
    assert ([j.name for j in evaluation.judges], evaluation.guards, evaluation.seeds) == (["taste_a"], (), (7,))
    assert evaluation.sampler == project.evaluation.sampler


def test_a_sample_of_prompts_is_hardly_changed_by_more_of_them() -> None:
    few = _choose([f"prompt {n}" for n in range(20)], 10)
    more = _choose([f"prompt {n}" for n in range(22)], 10)
    assert len(set(few) & set(more)) >= 8
    assert _choose(["a", "b", "a"], 10) == _choose(["b", "a"], 10)
    assert len(_choose(["a cat", "A cat!", "a  CAT", "b"], 10)) == 2


def test_prompts_that_do_not_fit_on_a_line_are_left_out() -> None:
    assert _choose(["two\nlines", "tab\tbed", " ", "whole"], 10) == ["whole"]


def named(world: Any, *lines: str) -> Any:
    path: Path = world.folder / "validation.tsv"
    path.write_text("prompt\tcategory\n" + "".join(f"{line}\tany\n" for line in lines))
    return world.with_section(prompts=str(path))


def test_a_named_file_is_used(world: Any) -> None:
    project = named(world, "a purple pentagon", "a pink hexagon")
    validated = for_validation(Workspace(project, world.settings), world.snapshot, validation_judge(project))
    assert prompts_of(validated, world) == ["a purple pentagon", "a pink hexagon"]


def test_prompts_of_the_evaluation_are_refused(world: Any) -> None:
    heldout = read_prompts(Path(world.project.evaluation.prompts))[0].text
    project = named(world, "a pink hexagon", heldout.upper() + "!")
    with pytest.raises(ValueError, match=r"validation.tsv holds 1 prompts of the evaluation \(lines 2\)"):
        for_validation(Workspace(project, world.settings), world.snapshot, validation_judge(project))


def test_one_prompt_is_too_few(world: Any) -> None:
    project = named(world, "a pink hexagon")
    with pytest.raises(ValueError, match="has 1 validation prompts; at least 2 are needed"):
        for_validation(Workspace(project, world.settings), world.snapshot, validation_judge(project))
