"""A notification about a decision finds the images of its evaluation and the report's page."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.stages import notification
from pipelines.tracking import pages, runs
from pipelines.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def test_the_best_prompts_images_and_the_reports_page_are_found(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notification, "open_workspace", lambda _path: Workspace(world.project, world.settings))
    decision = world.decide(world.register("a"), None)
    asked = {"decision_digest": decision.digest}
    assert notification.evidence_for("p.toml", asked, tmp_path) == {"report_page": "", "images": []}
    extremes = [{"end": end} for end in ("loss", "gain")]
    for extreme in extremes:
        extreme |= {f"{model}_image": f"extremes/{extreme['end']}_{model}.png" for model in ("champion", "candidate")}
    world.store.write_bytes(f"{decision.evaluation_uri}/extremes.json", json.dumps(extremes).encode())
    for extreme in extremes:
        for model in ("champion", "candidate"):
            name = extreme[f"{model}_image"]
            world.store.write_bytes(f"{decision.evaluation_uri}/{name}", name.encode())
    key = pages.candidate_key(world.project.name, 1)
    runs.parent_run(world.settings, project=world.project.name, key=key, tags={})
    found = notification.evidence_for("p.toml", asked, tmp_path)
    assert [Path(image).read_text() for image in found["images"]] == [
        "extremes/gain_champion.png",
        "extremes/gain_candidate.png",
    ]
    assert found["report_page"].endswith("artifacts/gate/report.html?workflowType=machine_learning")
    extremes[1]["candidate_image"] = "../../secret.png"
    world.store.write_bytes(f"{decision.evaluation_uri}/extremes.json", json.dumps(extremes).encode())
    with pytest.raises(ValueError, match=r"\.\./\.\./secret\.png"):
        notification.evidence_for("p.toml", asked, tmp_path)


def test_a_rollback_has_no_decision(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notification, "open_workspace", lambda _path: Workspace(world.project, world.settings))
    for result in ({"outcome": "rolled_back"}, {"decision_digest": None}, {"decision_digest": "0" * 64}):
        assert notification.evidence_for("p.toml", result, tmp_path) == {"report_page": "", "images": []}
