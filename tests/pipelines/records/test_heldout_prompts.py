from pathlib import Path

import pytest

from pipelines.project.file import Project, load_project
from pipelines.records.heldout_prompts import (
    HeldoutPrompts,
    check_enough_prompts,
    check_not_heldout,
    evaluation_digest,
    heldout_prompts,
)
from pipelines.settings import Settings
from pipelines.store.storage import open_store, sha256_file


def test_heldout_prompts_are_read_with_their_digest(tiny_project: Project, settings: Settings) -> None:
    heldout = heldout_prompts(tiny_project, open_store(settings.store_uri, settings))
    assert heldout.normal == {"a held out prompt please"}
    assert heldout.digest == sha256_file(Path(tiny_project.evaluation.prompts))


def test_a_missing_prompts_file_or_header_is_named(tiny_project: Project, settings: Settings) -> None:
    path = Path(tiny_project.evaluation.prompts)
    path.write_text("a red circle\tshapes\n")
    with pytest.raises(ValueError, match=r"prompts\.tsv: the first line has no `prompt`"):
        heldout_prompts(tiny_project, open_store(settings.store_uri, settings))
    path.unlink()
    with pytest.raises(ValueError, match=r"prompts\.tsv does not exist"):
        heldout_prompts(tiny_project, open_store(settings.store_uri, settings))


def test_too_few_prompts_for_the_gate_are_an_error_before_anything_runs(
    tiny_project: Project, settings: Settings
) -> None:
    assert check_enough_prompts(tiny_project, open_store(settings.store_uri, settings)) == 1
    policy = tiny_project.gate.model_copy(update={"minimum_prompts": 5000})
    strict = tiny_project.model_copy(update={"gate": policy})
    with pytest.raises(ValueError, match=r"has 1 prompts in .*prompts.tsv, but gate.minimum_prompts is 5000"):
        check_enough_prompts(strict, open_store(settings.store_uri, settings))
    off = strict.model_copy(update={"gate": policy.model_copy(update={"mode": "off"})})
    assert check_enough_prompts(off, open_store(settings.store_uri, settings)) == 1


def test_lines_that_are_held_out_are_counted_and_named() -> None:
    heldout = HeldoutPrompts(digest="0" * 64, normal=frozenset({"a red cat", "a dog"}))
    check_not_heldout(["a cat\n", "\n", "a red dog\n"], heldout, "train.txt")
    lines = ["A red, cat.\n", *["a mouse\n"] * 10, *["a dog\n"] * 6]
    with pytest.raises(
        ValueError, match=r"train.txt holds 7 prompts of the evaluation \(lines 1, 12, 13, 14, 15, ...\)"
    ):
        check_not_heldout(iter(lines), heldout, "train.txt")


def test_prompt_sets_are_held_out_as_well(tiny_project: Project, settings: Settings) -> None:
    path = tiny_project.path
    (path.parent / "more.tsv").write_text("prompt\tcategory\nA second one\tany\n")
    own = '[[prompt_sets]]\nname = "more"\nprompts = "more.tsv"\n'
    path.write_text(path.read_text() + own)
    project = load_project(path)
    heldout = heldout_prompts(project, open_store(settings.store_uri, settings))
    assert heldout.normal == {"a held out prompt please", "a second one"}
    assert heldout.digest not in (
        heldout_prompts(tiny_project, open_store(settings.store_uri, settings)).digest,
        evaluation_digest(project, open_store(settings.store_uri, settings)),
    )
    named = project.path.read_text().replace('prompts = "prompts.tsv"', 'prompts = "more"')
    path.write_text(named)
    assert load_project(path).evaluation.prompts == str(path.parent / "more.tsv"), "evaluation.prompts may name a set"
    path.write_text(named + own)
    with pytest.raises(ValueError, match="are named more"):
        load_project(path)


def test_prompts_that_are_nearly_held_out_are_held_too() -> None:
    nine = "one two three four five six seven eight nine"
    heldout = HeldoutPrompts(digest="0" * 64, normal=frozenset({f"{nine} ten"}))
    asked = [f"{nine} ten", f"{nine} TEN!", f"{nine} other", f"{nine} and other", "a cat"]
    assert [heldout.holds(prompt) for prompt in asked] == [True, True, True, False, False]
    assert [heldout.is_near(prompt) for prompt in asked] == [False, True, True, False, False]
    with pytest.raises(ValueError, match=r"train.txt holds 1 prompts of the evaluation \(lines 2\)"):
        check_not_heldout(["a cat", f"{nine} other"], heldout, "train.txt")
