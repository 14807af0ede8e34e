from collections.abc import Callable
from pathlib import Path

import pytest

from alignment.contracts.calibration import CalibrationSpec
from alignment.contracts.coverage import CoverageSpec
from alignment.contracts.data import DatasetSnapshot
from alignment.contracts.evaluation import EvalSpec
from pipelines.contracts.jobs import JobRequest
from pipelines.contracts.judges import RegisteredJudge
from pipelines.contracts.release import CandidateVersion
from pipelines.dispatch.job_kinds import Calibrate, Coverage, Evaluate
from pipelines.dispatch.requests.judging import aa_request, comparison_request
from pipelines.project.file import Project, load_project
from pipelines.project.sections import CoverageSection
from pipelines.settings import Settings
from pipelines.store.folders import hash_folder, sha256_file
from pipelines.store.storage import open_store
from pipelines.workspace import Workspace

ORIGINAL = Path(__file__).with_name("words.toml")
MakeVersion = Callable[..., CandidateVersion]
AskEvaluation = Callable[..., JobRequest]


def names(request: JobRequest) -> list[str]:
    return [item.alias or item.content_digest for item in request.inputs]


@pytest.mark.parametrize(("backbone", "scheduler"), [("stable_diffusion", "flow_euler"), ("flux", "ddim")])
def test_a_sampler_that_does_not_fit_the_backbone_is_refused_when_the_project_is_read(
    project: Project, backbone: str, scheduler: str
) -> None:
    text = ORIGINAL.read_text().replace(
        "sampler = { steps = 4 }", f'sampler = {{ steps = 4, scheduler = "{scheduler}" }}'
    )
    text = text.replace('name = "stable_diffusion"', f'name = "{backbone}"')
    text = text.replace('"diffusion_dpo_shapes"', f'"diffusion_dpo_shapes"\noverrides = ["backbone.name={backbone}"]')
    project.path.write_text(text)
    with pytest.raises(
        ValueError, match=rf"'{scheduler}' does not work with backbone '{backbone}'.*evaluation\.sampler"
    ):
        load_project(project.path)


def test_without_a_champion_the_base_is_the_incumbent(
    project: Project, tmp_path: Path, evaluate: AskEvaluation
) -> None:
    request = evaluate(project)
    spec = EvalSpec.model_validate(request.spec)
    base, _ = hash_folder(tmp_path / "base")
    assert (spec.champion.kind, spec.champion.weights_digest) == ("base", base)
    assert spec.prompts_digest == sha256_file(tmp_path / "prompts.tsv")
    assert [judge.weights_digest for judge in (*spec.judges, *spec.guards)] == [
        hash_folder(tmp_path / "judge")[0],
        hash_folder(tmp_path / "guard")[0],
    ]
    assert len(request.side_outputs) == 2, "candidate and base; the champion is the base"
    assert request.placement.micro_batch == 5
    by_name = {item.alias or item.content_digest: item for item in request.inputs}
    assert by_name["c" * 64].subfolder == "weights"
    assert by_name["c" * 64].uri == "file:///store/models/c"
    assert by_name[spec.prompts_digest].kind == "file"
    assert {"5" * 64, base} < set(by_name)


def test_images_that_are_in_the_store_are_inputs_by_their_specs_digest(
    project: Project, settings: Settings, tmp_path: Path, make_version: MakeVersion, evaluate: AskEvaluation
) -> None:
    champion = make_version("d", version=2)
    first = evaluate(project, champion)
    assert len(first.side_outputs) == 3
    assert names(first).count("d" * 64) == 1
    spec = EvalSpec.model_validate(first.spec)
    drawn = spec.sample_spec(spec.champion).digest
    side = next(side for side in first.side_outputs if side.path == f"samples/{drawn}")
    assert side.uri == f"{settings.store_uri}/evaluations/samples/{drawn}"
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "00000_0.png").write_text("png")
    manifest = open_store(settings.store_uri).publish_folder(tmp_path / "images", side.uri, {})
    second = evaluate(project, champion)
    assert drawn not in {side.path.split("/")[1] for side in second.side_outputs}
    found = next(item for item in second.inputs if item.alias == drawn)
    assert found.content_digest == manifest.content_digest
    assert second.job_id == first.job_id


def test_an_evaluation_for_the_gate_needs_the_prompts_that_the_gate_requires(
    project: Project, settings: Settings, make_version: MakeVersion, evaluate: AskEvaluation
) -> None:
    job = Evaluate(candidate=make_version("c"))
    with pytest.raises(ValueError, match=r"the evaluation has 1 prompts .* every verdict would be invalid"):
        job.request(Workspace(project, settings))
    policy = project.gate.model_copy(update={"minimum_prompts": 1})
    enough = project.model_copy(update={"gate": policy})
    assert job.request(Workspace(enough, settings)) == evaluate(project)


def test_a_candidate_without_the_address_of_its_snapshot_is_refused(
    project: Project, settings: Settings, make_version: MakeVersion
) -> None:
    job = Evaluate(candidate=make_version("c", snapshot_uri=""))
    with pytest.raises(ValueError, match="words version 1 has no tag with the address of its snapshot"):
        comparison_request(Workspace(project, settings), job)


def test_a_version_of_another_base_is_refused(
    project: Project, make_version: MakeVersion, evaluate: AskEvaluation
) -> None:
    with pytest.raises(ValueError, match="words version 3 was trained on base 0000"):
        evaluate(project, make_version("d", version=3, base_digest="0" * 64))


def test_a_repeated_prompt_is_refused_before_anything_is_submitted(
    project: Project, settings: Settings, make_version: MakeVersion, evaluate: AskEvaluation
) -> None:
    Path(project.evaluation.prompts).write_text("prompt\tcategory\na circle\tshape\na dot\tshape\nA circle.\tshape\n")
    with pytest.raises(ValueError, match=r"prompts.tsv has 1 repeated prompts.*'a circle' on lines 2, 4"):
        evaluate(project)
    covering = project.model_copy(update={"coverage": CoverageSection(judge="taste")})
    with pytest.raises(ValueError, match="repeated prompts"):
        Coverage(candidate=make_version("c")).request(Workspace(covering, settings))


def test_aa_uses_the_champion_in_both_roles_on_twice_the_seeds(
    project: Project, settings: Settings, snapshot: DatasetSnapshot, make_version: MakeVersion
) -> None:
    champion = make_version("d")
    given = {"snapshot_uri": snapshot.uri, "snapshot_digest": snapshot.content_digest}
    spec = EvalSpec.model_validate(aa_request(Workspace(project, settings), champion=champion, **given).spec)
    own = project.evaluation.seeds
    assert spec.candidate == spec.champion
    assert spec.champion.weights_digest == "d" * 64
    assert spec.seeds[: len(own)] == own
    assert len(set(spec.seeds)) == 2 * len(own)
    spec = EvalSpec.model_validate(aa_request(Workspace(project, settings), champion=None, **given).spec)
    assert (spec.candidate.kind, spec.champion.kind) == ("base", "base")


def with_coverage(project: Project, judge: str) -> Project:
    section = f'[coverage]\njudge = "{judge}"\nnum_prompts = 2\nnum_samples = 3\n'
    project.path.write_text(ORIGINAL.read_text() + section)
    return load_project(project.path)


def test_coverage_uses_one_judge_on_many_images_of_few_prompts(
    project: Project, settings: Settings, make_version: MakeVersion
) -> None:
    judged = with_coverage(project, project.evaluation.judges[0].name)
    champion = make_version("a", version=3)
    request = Coverage(candidate=make_version("c"), champion=champion).request(Workspace(judged, settings))
    spec = CoverageSpec.model_validate(request.spec)
    assert (spec.num_prompts, spec.seeds, spec.bar) == (2, (0, 1, 2), 0.75)
    assert (spec.candidate.weights_digest, spec.champion.weights_digest) == ("c" * 64, "a" * 64)
    assert {spec.base_digest, spec.prompts_digest, spec.judge.weights_digest} <= set(names(request))
    assert len(request.side_outputs) == 3
    assert request.output_uri == f"{settings.store_uri}/evaluations/{spec.digest}"


def test_coverage_needs_its_section_and_a_judge_that_exists(
    project: Project, settings: Settings, make_version: MakeVersion
) -> None:
    with pytest.raises(ValueError, match=r"no \[coverage\]\. Add it with judge = NAME"):
        Coverage(candidate=make_version("c")).request(Workspace(project, settings))
    with pytest.raises(ValueError, match=r"Unknown judge 'jugde'"):
        with_coverage(project, "jugde")


def test_coverage_refuses_a_scorer_of_prompts(project: Project) -> None:
    guard = '[[evaluation.guards]]\nname = "variety"\nuri = "guard"\nscorer = { kind = "diversity" }\n'
    text = ORIGINAL.read_text().replace("[placement", f"{guard}[placement") + "variety = { margin = 0.1 }\n"
    project.path.write_text(text + '[coverage]\njudge = "variety"\n')
    with pytest.raises(ValueError, match="'variety' scores the images of a prompt together, so it can only be a guard"):
        load_project(project.path)


def test_calibration_includes_every_judge_that_has_weights(
    project: Project,
    settings: Settings,
    snapshot: DatasetSnapshot,
    register_judge: Callable[[str], RegisteredJudge],
    reward_section: str,
) -> None:
    judge = '[[evaluation.judges]]\nname = "people"\nuri = "reward://people"\nscorer = { kind = "pal" }\n'
    project.path.write_text(ORIGINAL.read_text() + reward_section + judge)
    both = load_project(project.path)
    before = Calibrate(snapshot=snapshot).request(Workspace(both, settings))
    spec = CalibrationSpec.model_validate(before.spec)
    assert [own.name for own in spec.judges] == ["taste"], "the other is not trained yet"
    assert names(before) == [snapshot.content_digest, spec.judges[0].weights_digest]
    assert before.output_uri == f"{settings.store_uri}/calibrations/reports/{spec.digest}"
    register_judge("a")
    after = Calibrate(snapshot=snapshot).request(Workspace(both, settings))
    assert [own["name"] for own in after.spec["judges"]] == ["taste", "people"]
    assert after.job_id != before.job_id
    empty = snapshot.model_copy(update={"num_pairs": {"train": 3, "calibration": 0, "test": 1}})
    with pytest.raises(ValueError, match=r"Raise \[snapshot\] calibration_share"):
        Calibrate(snapshot=empty).request(Workspace(both, settings))
