"""The versions that a run of the promote DAG judges, on a real registry."""

from pathlib import Path
from typing import Any

import pytest

from pipelines.stages import candidates as candidate_stages
from pipelines.tracking import registry

ROOT = Path(__file__).parents[3]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def path(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The world's project as a file."""
    monkeypatch.setenv("PLUMBLINE_STORE_URI", world.settings.store_uri)
    monkeypatch.setenv("PLUMBLINE_STATE_DIR", str(world.settings.state_dir))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", world.settings.tracking_uri)
    text = (ROOT / "projects" / "shapes.toml").read_text().replace('"../examples', f'"{ROOT}/examples')
    file = tmp_path / f"{world.project.name}.toml"
    file.write_text(text.replace('name = "shapes"', f'name = "{world.project.name}"', 1))
    return str(file)


def test_an_event_starts_the_judgement_of_every_undecided_version(world: Any, path: str) -> None:
    assert candidate_stages.versions_to_judge(path, by_event=True) == [], "an event without a candidate judges nothing"
    candidates = [world.register(name) for name in ("a", "b", "c")]
    assert candidate_stages.versions_to_judge(path, by_event=True) == [3, 2, 1]
    world.decide(candidates[2], None)
    assert candidate_stages.versions_to_judge(path, by_event=True) == [2, 1]


def test_a_following_run_skips_the_versions_that_earlier_runs_tried(world: Any, path: str) -> None:
    candidates = [world.register(name) for name in ("a", "b", "c")]
    assert candidate_stages.versions_to_judge(path, tried=[3]) == [2, 1], "the run of version 3 may have failed"
    world.decide(candidates[1], None)
    assert candidate_stages.versions_to_judge(path, tried=[3]) == [1], "version 2 was decided in the meantime"
    assert candidate_stages.versions_to_judge(path, tried=[3, 1]) == []
    world.register("d")
    assert candidate_stages.versions_to_judge(path, tried=[3]) == [4, 1], "a newer candidate comes first"
    assert candidate_stages.versions_to_judge(path, by_event=True) == [4, 3, 1], "the next event brings version 3 back"


def test_a_person_may_have_a_decided_version_judged_again(world: Any, path: str) -> None:
    candidates = [world.register(name) for name in ("a", "b", "c")]
    for candidate in candidates[1:]:
        world.decide(candidate, None)
    assert candidate_stages.versions_to_judge(path, version=2) == [2]
    assert candidate_stages.versions_to_judge(path) == [3, 1], "the alias `candidate`, then the undecided versions"
    assert candidate_stages.versions_to_judge(path, generation=1) == [3], "a new evaluation of this one only"
    registry.set_alias(world.settings, world.project.name, "candidate", 1)
    assert candidate_stages.versions_to_judge(path) == [1]


def test_a_missing_candidate_is_an_error_for_a_person(path: str) -> None:
    with pytest.raises(ValueError, match=r"has no candidate \(alias `candidate` is not set\)"):
        candidate_stages.versions_to_judge(path)


def test_nothing_is_judged_while_the_gate_is_off(world: Any, path: str) -> None:
    Path(path).write_text(Path(path).read_text().replace("[gate]\n", '[gate]\nmode = "off"\n', 1))
    world.register("a")
    assert candidate_stages.versions_to_judge(path, by_event=True) == []
    assert candidate_stages.versions_to_judge(path, tried=[1]) == []
    for given in ({"version": 1}, {"generation": 1}, {}):
        with pytest.raises(ValueError, match=r'has mode = "off", so nothing is judged.*promote .* --by-hand --reason'):
            candidate_stages.versions_to_judge(path, **given)


def test_one_event_starts_a_bounded_number_of_runs(
    path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from pipelines.release import awaiting

    most = candidate_stages.MAXIMUM_RUNS_PER_EVENT
    monkeypatch.setattr(awaiting, "awaiting_judgement", lambda *_: list(range(most + 5, 0, -1)))
    tried: list[int] = []
    while versions := candidate_stages.versions_to_judge(path, tried=tried, by_event=not tried):
        tried.append(versions[0])
        assert len(tried) < 2 * most
    assert tried == list(range(most + 5, 5, -1)), "the newest"
    assert "5, 4, 3, 2, 1" in caplog.text, "those that wait for the next event are named"
