"""Trained weights become a version once, with all an auditor asks for, and can be loaded back."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from alignment.contracts.jobs import Placement
from alignment.contracts.soup import SoupResult
from alignment.contracts.training import TrainResult
from pipelines.contracts.jobs import JobRequest
from pipelines.records.jobs import note_starter
from pipelines.release.champion import versions
from pipelines.release.champion.versions import read_version
from pipelines.release.promotion.verification import check_weights
from pipelines.release.registration import candidates
from pipelines.release.registration.candidates import register, register_soup
from pipelines.store.folders import hash_folder
from pipelines.tracking import registry
from pipelines.tracking import runs as tracking_runs
from pipelines.tracking.registry import fetch_served
from pipelines.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def test_a_version_carries_where_it_came_from_and_reads_back_the_same(world: Any) -> None:
    result = world.train("a")
    settings = world.settings.model_copy(update={"git_sha": "f00d"})
    snapshot = world.snapshot
    candidate = register(result, Workspace(world.project, settings), snapshot=snapshot, run_id=world.run_id)
    assert candidate.version == 1
    assert candidate.weights_digest == result.weights_digest
    assert (candidate.weights_uri, candidate.spec_digest) == (result.uri, result.spec_digest)
    assert (candidate.snapshot_digest, candidate.trained_on) == (snapshot.content_digest, ("shapes_pairs",))
    assert read_version(Workspace(world.project, settings), 1) == candidate
    assert read_version(Workspace(world.project, settings), "candidate") == candidate
    assert read_version(Workspace(world.project, settings), "champion") is None
    assert read_version(Workspace(world.project, settings), 2) is None
    tags = registry.version_tags(settings, world.project.name, 1)
    assert tags is not None
    assert tags["licence.base"] == "Apache-2.0"
    assert tags["licence.data"] == "CC0-1.0"
    assert tags["git.sha"] == "f00d"
    assert tags["airflow.run_id"] == "run-1"
    assert tags["train.steps"] == "100"
    assert tags["data.num_pairs"] == "11"


def test_the_norms_of_the_predictions_are_a_tag_and_a_version_without_them_keeps_its_digest(world: Any) -> None:
    workspace = Workspace(world.project, world.settings)
    old = register(world.train("old"), workspace, snapshot=world.snapshot, run_id=world.run_id)
    assert "prediction_norm_ratios" not in old.model_dump()
    metrics = {f"prediction_norm_ratio/{number}": 1 + number / 1e5 for number in range(4)}
    result = world.train("new").model_copy(update={"final_metrics": metrics})
    new = register(result, workspace, snapshot=world.snapshot, run_id=world.run_id)
    assert new.prediction_norm_ratios == (1.0, 1.0, 1.0, 1.0), "rounded, so that equal runs on other hosts agree"
    assert read_version(workspace, new.version) == new


def test_what_an_online_run_learnt_from_stands_for_the_sources(world: Any) -> None:
    result = world.train("online").model_copy(update={"trained_on": ("taste", "scorer 12", "panel")})
    candidate = register(result, Workspace(world.project, world.settings), snapshot=world.snapshot, run_id=world.run_id)
    assert candidate.trained_on == ("panel", "scorer 12", "taste")


def test_who_labelled_the_pairs_is_learnt_from_beside_the_sources(world: Any) -> None:
    sources = ("taste_a", f"scorer {'a' * 64}", "shapes_panel_a")
    labelled = world.snapshot.model_copy(update={"labelled_by": sources})
    candidate = register(
        world.train("labelled"), Workspace(world.project, world.settings), snapshot=labelled, run_id=world.run_id
    )
    assert candidate.trained_on == tuple(sorted(("shapes_pairs", *sources)))


def test_the_judge_that_chose_the_recipe_is_named_beside_the_sources(world: Any) -> None:
    result = world.train("chosen").model_copy(update={"selected_by": ("taste", "scorer 12")})
    candidate = register(result, Workspace(world.project, world.settings), snapshot=world.snapshot, run_id=world.run_id)
    assert candidate.trained_on == ("scorer 12", "shapes_pairs", "taste")


def test_the_same_weights_are_registered_once_and_become_candidate_again(world: Any) -> None:
    first = world.register("a")
    second = world.register("b")
    assert (first.version, second.version) == (1, 2)
    result = world.train("again").model_copy(update={"weights_digest": first.weights_digest})
    again = register(result, Workspace(world.project, world.settings), snapshot=world.snapshot, run_id=world.run_id)
    assert again == first
    assert registry.get_alias(world.settings, world.project.name, "candidate") == 1


def soup_of(world: Any, name: str, *ingredients: TrainResult, **changes: Any) -> SoupResult:
    """A finished soup of these runs; its weights depend on the name only."""
    made = world.train(name)
    return SoupResult(
        uri=made.uri,
        spec_digest="50fa" * 16,
        kind=made.kind,
        weights_digest=made.weights_digest,
        base_digest=made.base_digest,
        ingredients=tuple(result.weights_digest for result in ingredients),
    ).model_copy(update=changes)


def test_a_soup_answers_for_its_ingredients_and_for_the_judge_that_chose_them(world: Any) -> None:
    runs = [world.train(name) for name in ("a", "b", "c")]
    runs[1] = runs[1].model_copy(update={"trained_on": ("taste", "panel")})
    soup = soup_of(world, "soup", runs[2], runs[0], chosen_by=("nose", "scorer 12"))
    trained = [(run, world.snapshot) for run in runs]
    candidate = register_soup(soup, trained, Workspace(world.project, world.settings), run_id=world.run_id)
    assert (candidate.version, candidate.weights_digest, candidate.weights_uri) == (1, soup.weights_digest, soup.uri)
    assert candidate.trained_on == ("nose", "panel", "scorer 12", "shapes_pairs", "taste")
    tags = registry.version_tags(world.settings, world.project.name, 1)
    assert tags is not None
    assert json.loads(tags["soup.ingredients"]) == [runs[2].weights_digest, runs[0].weights_digest]
    assert tags["spec.digest"] == soup.spec_digest
    with pytest.raises(ValueError, match="has ingredients of another run"):
        register_soup(soup, trained[:2], Workspace(world.project, world.settings), run_id=world.run_id)


def test_trainings_have_the_dataset_of_the_pipelines_run(world: Any) -> None:
    settings, project, snapshot = world.settings, world.project.name, world.snapshot
    trained = [world.train("a"), world.train("b")]
    soup = soup_of(world, "soup", *trained)
    tracking_runs.log_dataset(settings, world.run_id, snapshot, "training", page="http://mlflow/#/report")

    def job_run(name: str, uri: str) -> str:
        fields: dict[str, Any] = {"kind": "train", "parent_key": "k", "config": {}}
        tags = {tracking_runs.OUTPUT_TAG: uri}
        own = tracking_runs.job_run(settings, project=project, request_job_id=name, tags=tags, **fields)
        return own.run_id

    made = [job_run(f"job-{number}", own.uri) for number, own in enumerate([*trained, soup])]
    other = job_run("other", "file:///other")
    for _ in range(2):
        register_soup(
            soup, [(run, snapshot) for run in trained], Workspace(world.project, settings), run_id=world.run_id
        )
    with tracking_runs.connect(settings.tracking_uri) as client:
        (expected,) = client.get_run(world.run_id).inputs.dataset_inputs
        for run_id in made:
            (found,) = client.get_run(run_id).inputs.dataset_inputs
            assert found.to_dictionary() == expected.to_dictionary()
        assert not client.get_run(other).inputs.dataset_inputs


def test_a_soup_of_one_does_not_hide_behind_the_version_of_its_ingredient(world: Any) -> None:
    """The same weights, but a judge has seen them since: it must not vote on them any more."""
    first = world.register("a")
    run = world.train("again").model_copy(update={"weights_digest": first.weights_digest, "uri": first.weights_uri})
    soup = SoupResult(
        uri=first.weights_uri,
        spec_digest="50fa" * 16,
        kind="lora",
        weights_digest=first.weights_digest,
        base_digest=first.base_digest,
        ingredients=(first.weights_digest,),
        chosen_by=("nose",),
    )
    candidate = register_soup(
        soup, [(run, world.snapshot)], Workspace(world.project, world.settings), run_id=world.run_id
    )
    assert (candidate.version, candidate.trained_on) == (2, ("nose", "shapes_pairs"))
    later = register(run, Workspace(world.project, world.settings), snapshot=world.snapshot, run_id=world.run_id)
    assert later == candidate, "what was seen once stays seen"


def test_weights_that_are_not_those_of_the_result_are_refused(world: Any) -> None:
    result = world.train("a").model_copy(update={"weights_digest": "0" * 64})
    with pytest.raises(ValueError, match=f"{'0' * 64} was expected"):
        register(result, Workspace(world.project, world.settings), snapshot=world.snapshot, run_id=world.run_id)
    assert registry.get_alias(world.settings, world.project.name, "candidate") is None


def test_weights_changed_in_the_store_are_refused(world: Any) -> None:
    result = world.train("a")
    (path,) = Path(urlsplit(result.uri).path).glob("weights/*.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(ValueError, match="changed or damaged"):
        register(result, Workspace(world.project, world.settings), snapshot=world.snapshot, run_id=world.run_id)


def test_a_deleted_version_can_be_registered_again(world: Any) -> None:
    first = world.register("a")
    with tracking_runs.connect(world.settings.tracking_uri) as client:
        client.delete_model_version(world.project.name, "1")
    assert read_version(Workspace(world.project, world.settings), 1) is None
    result = world.train("again").model_copy(update={"weights_digest": first.weights_digest, "uri": first.weights_uri})
    again = register(result, Workspace(world.project, world.settings), snapshot=world.snapshot, run_id=world.run_id)
    assert again.version == 2


def started(world: Any, spec_digest: str, kind: Any, *people: str) -> None:
    """These people had a job of that spec run."""
    request = JobRequest(
        project=world.project.name,
        kind=kind,
        spec={},
        spec_digest=spec_digest,
        inputs=(),
        output_uri="file:///out",
        placement=Placement(),
    )
    for person in people:
        note_starter(world.store, request, person)


def trained_by(world: Any, version: int) -> list[str]:
    return versions.trainers_of(registry.version_tags(world.settings, world.project.name, version) or {})


def test_who_had_the_training_run_is_named_though_a_schedule_registers_it(world: Any) -> None:
    result = world.train("a")
    started(world, result.spec_digest, "train", "ada")
    place = {"snapshot": world.snapshot, "run_id": world.run_id}
    first = register(result, Workspace(world.project, world.settings), **place)
    assert trained_by(world, first.version) == ["ada"]
    again = register(result, Workspace(world.project, world.settings), more_tags=versions.trainer_tags("bob"), **place)
    assert again == first
    assert trained_by(world, first.version) == ["ada", "bob"]
    register(result, Workspace(world.project, world.settings), **place)
    assert trained_by(world, first.version) == ["ada", "bob"], "nobody is forgotten"


def test_a_soup_names_who_trained_its_ingredients_and_who_stirred_it(world: Any) -> None:
    run = world.train("a").model_copy(update={"spec_digest": "1" * 64})
    soup = soup_of(world, "soup", run)
    started(world, run.spec_digest, "train", "ada")
    started(world, soup.spec_digest, "soup", "bob")
    candidate = register_soup(
        soup, [(run, world.snapshot)], Workspace(world.project, world.settings), run_id=world.run_id
    )
    assert trained_by(world, candidate.version) == ["ada", "bob"]


def delete_logged_model(world: Any, version: int) -> str:
    """As a person would in MLflow's pages; the files go at the next `mlflow gc`."""
    with tracking_runs.connect(world.settings.tracking_uri) as client:
        model_id: str = client.get_model_version(world.project.name, str(version)).source.removeprefix("models:/")
        client.delete_logged_model(model_id)
    return model_id


def test_weights_whose_files_mlflow_lost_are_logged_again(world: Any) -> None:
    """The version is still in the registry and says that it holds the weights, but there is nothing to serve."""
    first = world.register("a")
    delete_logged_model(world, 1)
    result = world.train("again").model_copy(update={"weights_digest": first.weights_digest, "uri": first.weights_uri})
    again = register(result, Workspace(world.project, world.settings), snapshot=world.snapshot, run_id=world.run_id)
    assert (again.version, again.weights_digest) == (2, first.weights_digest)
    assert registry.get_alias(world.settings, world.project.name, "candidate") == 2
    check_weights(again, Workspace(world.project, world.settings))
    later = register(result, Workspace(world.project, world.settings), snapshot=world.snapshot, run_id=world.run_id)
    assert later == again


def test_the_weights_are_logged_in_the_experiment_of_their_run(world: Any) -> None:
    """In the default experiment a user with rights for the project alone may only read."""
    world.register("a")
    with tracking_runs.connect(world.settings.tracking_uri) as client:
        run = client.get_run(world.run_id)
        version = client.get_model_version(world.project.name, "1")
        logged = client.get_logged_model(version.source.removeprefix("models:/"))
    assert logged.experiment_id == run.info.experiment_id != "0"
    assert logged.source_run_id == world.run_id
    assert logged.status == "READY"


def test_a_version_made_by_hand_is_named_as_such(world: Any) -> None:
    world.register("a")
    with tracking_runs.connect(world.settings.tracking_uri) as client:
        client.delete_model_version_tag(world.project.name, "1", "base.digest")
    with pytest.raises(ValueError, match=r"Version 1 .* lacks a tag .*base\.digest"):
        read_version(Workspace(world.project, world.settings), 1)


def test_lora_weights_load_through_mlflow_diffusers_and_nothing_is_pickled(world: Any, tmp_path: Path) -> None:
    import mlflow.artifacts
    import mlflow.diffusers

    candidate = world.register("a")
    uri = f"models:/{world.project.name}@candidate"
    mlflow.set_tracking_uri(world.settings.tracking_uri)
    adapter = mlflow.diffusers.load_model(uri)
    assert adapter.base_model == world.project.base.uri
    assert [path.name for path in Path(adapter.adapter_path).iterdir()] == ["pytorch_lora_weights.safetensors"]
    served = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path)))
    files = {path.relative_to(served).as_posix() for path in served.rglob("*") if path.is_file()}
    assert {"pyfunc_model.py", "artifacts/weights/pytorch_lora_weights.safetensors", "MLmodel"} <= files
    assert not [name for name in files if name.endswith((".pkl", ".pt", ".bin", ".pickle"))]
    weights = next(served.glob("artifacts/weights/*"))
    line = f"{weights.name} {hashlib.sha256(weights.read_bytes()).hexdigest()}\n"
    assert hashlib.sha256(line.encode()).hexdigest() == candidate.weights_digest


def test_weights_are_fetched_from_the_settings_server_whatever_the_process_has_set(world: Any, tmp_path: Path) -> None:
    import mlflow

    candidate = world.register("a")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/elsewhere.db")
    try:
        served = fetch_served(world.settings, world.project.name, candidate.version, tmp_path / "served")
    finally:
        mlflow.set_tracking_uri(before)
    assert hash_folder(served / registry.SERVED_WEIGHTS)[0] == candidate.weights_digest
    tags = registry.version_tags(world.settings, world.project.name, candidate.version) or {}
    assert tags["served.digest"] == hash_folder(served)[0], "hashed before it was uploaded, and the same after"


def test_full_weights_are_registered_without_the_diffusers_flavor(world: Any) -> None:
    import mlflow.models

    result = world.train("a", kind="full")
    register(result, Workspace(world.project, world.settings), snapshot=world.snapshot, run_id=world.run_id)
    info = mlflow.models.get_model_info(f"models:/{world.project.name}/1")
    assert set(info.flavors) == {"python_function"}
    config = info.flavors["python_function"]["config"]
    assert (config["kind"], config["base_digest"]) == ("full", world.base_digest)


def test_a_control_plane_without_the_model_libraries_can_register(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    result = world.train("a")
    for library in ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors"):
        monkeypatch.setitem(sys.modules, library, None)
    assert (
        register(result, Workspace(world.project, world.settings), snapshot=world.snapshot, run_id=world.run_id).version
        == 1
    )


def test_serving_requirements_are_those_of_the_training_host() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[4] / "pyproject.toml").read_text())["project"]
    pinned = {
        *project["dependencies"],
        *(r for extra in ("control", "gpu") for r in project["optional-dependencies"][extra]),
    }
    assert set(candidates.SERVING_REQUIREMENTS) <= pinned
