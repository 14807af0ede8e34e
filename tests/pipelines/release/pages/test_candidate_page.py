"""One page per candidate on a real server: found again, without parameters, with everything a person compares."""

import json
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from alignment.contracts.evaluation import EvalReport
from alignment.contracts.jobs import DevicePrices, Placement, SampleLine
from pipelines.contracts.jobs import ComputeEntry, ComputeTotal, JobRecord, JobRequest
from pipelines.records.compute import account
from pipelines.records.jobs import save_record
from pipelines.release import judge_candidate
from pipelines.release.pages import candidate_page
from pipelines.release.pages.write import card_uri
from pipelines.tracking import runs
from pipelines.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

STEPS = (0, 10, 20)


def png(shade: int) -> bytes:
    stream = BytesIO()
    Image.new("RGB", (16, 16), (shade, shade, shade)).save(stream, "PNG")
    return stream.getvalue()


def evaluation_report(decision: Any) -> EvalReport:
    judge = {"name": "taste", "scorer": {"kind": "clip_preference"}, "weights_digest": "d" * 64}
    spec = {
        "candidate": {"kind": "lora", "weights_digest": decision.candidate.weights_digest},
        "champion": {"kind": "base", "weights_digest": "b" * 64},
        "base_digest": "b" * 64,
        "backbone": {"name": "stable_diffusion", "resolution": 64},
        "prompts_digest": "c" * 64,
        "seeds": [0],
        "sampler": {"steps": 2},
        "judges": [judge],
        "guards": [],
        "snapshot_digest": "5" * 64,
    }
    numbers = {"num_prompts": 3, "wins": 2, "ties": 0, "losses": 1, "win_rate": 0.67, "p_value": 0.2}
    numbers |= {"win_rate_low": 0.2, "win_rate_high": 0.9}
    numbers |= {"mean_difference": 0.1, "mean_difference_low": -0.1, "mean_difference_high": 0.3}
    return EvalReport.model_validate(
        {
            "uri": decision.evaluation_uri,
            "spec": spec,
            "scores_digest": "e" * 64,
            "num_prompts": 3,
            "comparisons": [{"scorer": "taste", "against": name, **numbers} for name in ("champion", "base")],
            "calibrations": [],
        }
    )


def fill_store(world: Any, decision: Any) -> None:
    """Curves and samples beside the weights, report and card where the decision says."""
    weights = decision.candidate.weights_uri
    lines = [{"step": step, "unix_seconds": 1.7e9 + step, "metrics": {"loss": 1 / (step + 1)}} for step in STEPS]
    world.store.write_bytes(f"{weights}/metrics.jsonl", "\n".join(map(json.dumps, lines)).encode())
    samples = [
        SampleLine(step=step, key=f"samples/{key:02d}", path=f"samples/{step}_{key}.png", prompt="a <b>ring</b>")
        for step in STEPS
        for key in (0, 1)
    ]
    for sample in samples:
        world.store.write_bytes(f"{weights}/{sample.path}", png(sample.step))
    index = "\n".join(sample.model_dump_json() for sample in samples)
    world.store.write_bytes(f"{weights}/samples/index.jsonl", index.encode())
    world.store.write_bytes(f"{decision.evaluation_uri}/contact_sheet.png", png(200))
    world.store.write_bytes(decision.report_uri, b"<html></html>")
    world.store.write_bytes(card_uri(decision), b"# card")


def test_a_candidate_has_one_page_with_everything_on_it(world: Any) -> None:
    decision = world.decide(world.register("a"), None, reasons=("Too <few> prompts.",), verdict="hold")
    fill_store(world, decision)
    report = evaluation_report(decision)
    run_id = candidate_page.show_candidate(world.settings, decision, report=report, facts={"beta": "5000"})
    again = {"beta": "2000", "seed": "7"}
    assert candidate_page.show_candidate(world.settings, decision, report=report, facts=again) == run_id
    with runs.connect(world.settings.tracking_uri) as client:
        run = client.get_run(run_id)
        artifacts = {item.path for item in client.list_artifacts(run_id, "gate")}
        (by_step,) = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
        images = [item.path for item in client.list_artifacts(by_step.info.run_id, "images")]
        losses = [point.value for point in client.get_metric_history(run_id, "loss")]
        version = client.get_model_version(decision.candidate.model, str(decision.candidate.version))
    names = ("report.html", "model_card.md", "decision.json", "contact_sheet.png", "images_by_step.png")
    assert artifacts == {f"gate/{name}" for name in names}
    assert len([path for path in images if path.endswith(".png")]) == 6
    assert by_step.data.params == {}, "MLflow prints them above every image"
    assert losses == [1.0, 1 / 11, 1 / 21]
    assert run.data.params == {"beta": "5000", "seed": "7"}, "what is there stays, as MLflow lets no parameter change"
    assert run.info.status == "FINISHED"
    assert run.data.metrics["gate/taste/vs_champion/win_rate_low"] == 0.2
    assert {"gate/taste/vs_base/win_rate", "gate/taste/vs_champion/win_rate"} <= set(run.data.metrics)
    note = run.data.tags["mlflow.note.content"]
    assert f"get-artifact?path=gate%2Fcontact_sheet.png&run_uuid={run_id}" in note
    assert "Too &lt;few&gt; prompts." in note
    assert "tag `gate.report_uri`" in version.description
    assert f"runs/{run_id}/artifacts/gate/report.html?workflowType=machine_learning" in version.description


def test_costs_are_tags_of_the_version_its_page_and_the_experiment(world: Any) -> None:
    decision = world.decide(world.register("a"), None)
    fill_store(world, decision)
    report = evaluation_report(decision)
    request = JobRequest(
        project=world.project.name,
        kind="evaluate",
        spec={},
        spec_digest=report.spec.digest,
        inputs=(),
        output_uri="file:///out",
        placement=Placement(num_processes=2),
        prices=DevicePrices(currency="EUR", gpu_hour=2.5),
    )
    record = JobRecord(request=request, device="gpu", attempts=1, seconds=3600)
    save_record(world.store, record)
    total = ComputeTotal(cpu_hours=1.0).plus(record)
    entry = ComputeEntry(job_id="j", attempt=1, job_seconds=3600, total=total)
    account(world.store, world.project.name).append(lambda _number, _last: entry)
    workspace = Workspace(world.project, world.settings)
    judge_candidate.show_in_tracking(workspace, decision, report=report, run_key="k")
    with runs.connect(world.settings.tracking_uri) as client:
        version = client.get_model_version(decision.candidate.model, str(decision.candidate.version))
        experiment = client.get_experiment_by_name(world.project.name)
        pages = client.search_runs([experiment.experiment_id], "tags.`plumbline.kind` = 'candidate'")
    for tags in (version.tags, pages[0].data.tags):
        found = {name: value for name, value in tags.items() if name.startswith("cost.")}
        assert found == {"cost.gpu_hours": "2.0000", "cost.EUR": "5.0000"}
    assert experiment.tags["cost.cpu_hours"] == "1.0000"
    assert experiment.tags["cost.EUR"] == "5.0000"
