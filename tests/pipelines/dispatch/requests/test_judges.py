import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from alignment.contracts.evaluation import EvalSpec
from pipelines.contracts.jobs import JobRequest
from pipelines.contracts.judges import RegisteredJudge
from pipelines.dispatch.requests.judges import judge_of
from pipelines.project.file import Project, load_project
from pipelines.project.sections import JudgeSection
from pipelines.settings import Settings
from pipelines.workspace import Workspace

ORIGINAL = Path(__file__).with_name("words.toml")
AskEvaluation = Callable[..., JobRequest]


def names(request: JobRequest) -> list[str]:
    return [item.alias or item.content_digest for item in request.inputs]


def test_a_trained_judge_is_fixed_by_its_digest_with_its_training_sources(
    project: Project, evaluate: AskEvaluation, register_judge: Callable[[str], RegisteredJudge], reward_section: str
) -> None:
    section = '[[evaluation.judges]]\nname = "folk"\nuri = "reward://people"\nscorer = { kind = "pal" }\n'
    guards = "[[evaluation.guards]]"
    assert guards in ORIGINAL.read_text()
    judged = ORIGINAL.read_text().replace(guards, f'{section}trained_on = ["clip_labels"]\n{guards}')
    project.path.write_text(judged + reward_section)
    rewarding = load_project(project.path)
    with pytest.raises(ValueError, match=r"No judge 'people' is registered yet"):
        evaluate(rewarding)
    first = register_judge("a")
    request = evaluate(rewarding)
    folk = EvalSpec.model_validate(request.spec).judges[1]
    assert (folk.name, folk.weights_digest, folk.trained_on) == ("folk", "a" * 64, ("clip_labels", "pairs"))
    found = next(item for item in request.inputs if item.content_digest == "a" * 64)
    assert (found.uri, found.subfolder, found.manifest) == (first.uri, "judge", True)
    register_judge("e")
    assert "reward://" not in request.model_dump_json(), "a spec names digests, never the newest of a name"
    assert EvalSpec.model_validate(evaluate(rewarding).spec).judges[1].weights_digest == "e" * 64


def test_a_judge_is_identified_by_its_weights_in_any_folder(
    project: Project, settings: Settings, tmp_path: Path
) -> None:
    section = project.evaluation.judges[0]
    shutil.copytree(tmp_path / "judge", tmp_path / "copy")
    (tmp_path / "copy" / "README.md").write_text("A copy.")
    judge, copy = (
        judge_of(Workspace(project, settings), section.model_copy(update={"name": name, "uri": str(tmp_path / name)}))
        for name in ("judge", "copy")
    )
    other = judge_of(Workspace(project, settings), section.model_copy(update={"uri": str(tmp_path / "guard")}))
    assert judge.weights_digest != copy.weights_digest
    assert judge.identity == copy.identity != other.identity
    assert f"scorer {judge.identity}" in copy.training_sources


def test_scorers_without_weights_are_identified_by_their_settings(project: Project, settings: Settings) -> None:
    sections = [
        JudgeSection.model_validate({"name": "s", "scorer": {"kind": "image_statistic", "statistic": statistic}})
        for statistic in ("contrast", "saturation")
    ]
    first, second = (judge_of(Workspace(project, settings), section) for section in sections)
    assert first.weights_digest == second.weights_digest
    assert first.identity is not None
    assert first.identity != second.identity


def test_a_trained_judge_is_identified_by_the_weights_in_its_manifest(
    project: Project, settings: Settings, tmp_path: Path, register_judge: Callable[[str], RegisteredJudge]
) -> None:
    section = JudgeSection.model_validate({"name": "s", "uri": "reward://people", "scorer": {"kind": "pal"}})
    (tmp_path / "a" / "judge").mkdir(parents=True)
    (tmp_path / "a" / "judge" / "head.safetensors").write_text("head")
    (tmp_path / "a" / "other.safetensors").write_text("no part of the judge")
    register_judge("a")
    head = hashlib.sha256(b"head").hexdigest()
    assert judge_of(Workspace(project, settings), section).identity == hashlib.sha256(head.encode()).hexdigest()


def test_a_guard_without_weights_adds_no_input(project: Project, evaluate: AskEvaluation) -> None:
    before = evaluate(project)
    guard = '[[evaluation.guards]]\nname = "colour"\nscorer = { kind = "image_statistic", statistic = "saturation" }\n'
    project.path.write_text(project.path.read_text() + "colour = { margin = 0.1 }\n" + guard)
    request = evaluate(load_project(project.path))
    assert names(request) == names(before)
    last = request.spec["guards"][-1]
    assert last["weights_digest"] == hashlib.sha256(b"").hexdigest()


def test_a_judge_knows_the_sources_of_its_data_set_whatever_their_names(project: Project, settings: Settings) -> None:
    """A judge that was trained on Pick-a-Pic, and a source of Pick-a-Pic that is called `pairs`."""
    (source, *_) = project.sources
    section = project.evaluation.judges[0].model_copy(update={"trained_on": ("pick_a_pic_v2",)})

    def sources_of(**changes: object) -> tuple[str, ...]:
        own = project.model_copy(update={"sources": (source.model_copy(update=changes),)})
        return judge_of(Workspace(own, settings), section).trained_on

    assert sources_of() == ("pick_a_pic_v2",)
    assert sources_of(data_sets=("hpd_v2",)) == ("pick_a_pic_v2",)
    assert sources_of(data_sets=("pick_a_pic_v2",)) == tuple(sorted(("pick_a_pic_v2", source.name)))


def test_a_source_shares_its_data_set_with_other_sources(project: Project) -> None:
    one, two, three = (project.sources[0].model_copy(update={"name": name}) for name in ("one", "two", "three"))
    marked = [source.model_copy(update={"data_sets": ("hpd_v2",)}) for source in (one, two)]
    own = project.model_copy(update={"sources": (*marked, three)})
    assert own.sources_behind(["one"]) == {"one", "two"}
    assert own.sources_behind(["three"]) == {"three"}
    assert own.sources_behind(["hpd_v2"]) == {"one", "two"}
    assert own.sources_behind([]) == set()
