"""One page per candidate in MLflow: verdict, curves, images by step, contact sheet, bounds, report and card.

Its parameters are what candidates are compared by: recipe, beta, rate, steps, seed and pairs. The images by step are in
a run below it without parameters, because MLflow prints every parameter above each image of a grid. All its content is
read from the store, where it remains when the run is deleted. Showing a candidate again updates the page.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from alignment.contracts.evaluation import EvalReport
from alignment.contracts.jobs import CONTACT_SHEET_FILE, SAMPLES_INDEX_FILE, SampleLine
from alignment.evaluation.contact_sheet import samples_sheet
from pipelines.contracts.release import CandidateVersion, GateDecision
from pipelines.release.pages.checks import check_groups
from pipelines.release.pages.model_card import escaped
from pipelines.release.pages.provenance import Provenance, read_metrics
from pipelines.release.pages.wording import headline, summary
from pipelines.release.pages.write import card_uri
from pipelines.settings import Settings
from pipelines.store.disk import named_uri
from pipelines.store.storage import Store, open_store
from pipelines.tracking import pages as mlflow_pages
from pipelines.tracking import registry, run_stream, runs

BY_STEP_FILE = "images_by_step.png"


NO_FACTS: Mapping[str, str] = {}


def show_candidate(
    settings: Settings, decision: GateDecision, *, report: EvalReport, facts: Mapping[str, str] = NO_FACTS
) -> str:
    """Create or update the candidate's page and the version's description; return the run's id.

    `facts` become the page's parameters.
    """
    candidate = decision.candidate
    key = mlflow_pages.candidate_key(candidate.model, candidate.version)
    run_id = runs.parent_run(settings, project=candidate.model, key=key, tags={"plumbline.kind": "candidate"})
    store = open_store(settings.store_uri, settings)
    runs.log_params(settings, run_id, facts)
    stream = run_stream.RunStream(settings.tracking_uri, run_id)
    for line in read_metrics(store, candidate.weights_uri):
        stream.log_metrics(line.step, line.unix_seconds, line.metrics)
    stream.log_metrics(0, time.time(), bounds(report))
    stream.flush()
    with tempfile.TemporaryDirectory() as scratch:
        pages = _write_files(store, decision, report, folder=Path(scratch) / "gate")
        if samples := _fetch_samples(store, candidate.weights_uri, Path(scratch)):
            samples_sheet(samples).save(pages / BY_STEP_FILE)
            _show_by_step(settings, candidate, run_id, samples)
        runs.log_artifacts(settings, run_id, pages, "gate")
        pictures = [file for file in (CONTACT_SHEET_FILE, BY_STEP_FILE) if (pages / file).is_file()]
    address = mlflow_pages.run_address(settings, run_id)
    trained = mlflow_pages.find_address(settings, candidate.model, (runs.OUTPUT_TAG, candidate.weights_uri))
    training = f"[Training run]({trained}{mlflow_pages.TRAINING_VIEW})" if trained else ""
    note = _page_note(report, decision, address, pictures=pictures)
    tags = {**verdict_tags(decision), runs.NOTE_TAG: f"{note} {training}".strip()}
    runs.set_run_tags(settings, run_id, tags)
    registry.describe_version(
        settings, candidate.model, candidate.version, f"{_version_note(report, decision, address)} {training}".strip()
    )
    runs.finish_run(settings, run_id, "FINISHED")
    return run_id


def verdict_tags(decision: GateDecision) -> dict[str, str]:
    """Return the tags by which a verdict is found in MLflow's run table."""
    return {
        "gate.verdict": decision.verdict,
        "gate.report_uri": decision.report_uri,
        "gate.candidate_version": str(decision.candidate.version),
    }


def bounds(report: EvalReport) -> dict[str, float]:
    """Return the figures of every comparison by metric name. All candidates have the same names: without a champion,
    `vs_champion` is the comparison with the base."""
    figures: dict[str, float] = {}
    for comparison in report.comparisons:
        prefix = f"gate/{comparison.scorer}/vs_{comparison.against}"
        figures[f"{prefix}/win_rate"] = comparison.win_rate
        figures[f"{prefix}/win_rate_low"] = comparison.win_rate_low
        figures[f"{prefix}/win_rate_high"] = comparison.win_rate_high
        figures[f"{prefix}/mean_difference_low"] = comparison.mean_difference_low
    return figures


# --- text -----------------------------------------------------------------------------------------------------------


def _page_note(report: EvalReport, decision: GateDecision, address: str, *, pictures: Sequence[str]) -> str:
    """Return the Markdown at the top of the page. `address` is the run's page in MLflow; pictures are artifacts in
    gate/."""
    run_id = address.rpartition("/")[2]
    shown = [f"![{name}](get-artifact?path=gate%2F{name}&run_uuid={run_id})" for name in pictures]
    return "\n\n".join([_sentence(report, decision), _families(decision), *shown, _links(decision, address)])


def _version_note(report: EvalReport, decision: GateDecision, address: str) -> str:
    """Return the Markdown description of the registered version."""
    page = f"[Curves, images and contact sheet]({address}{mlflow_pages.TRAINING_VIEW})"
    parts = [_sentence(report, decision), _families(decision), f"{page}. {_links(decision, address)}"]
    return "\n\n".join(parts)


def _sentence(report: EvalReport, decision: GateDecision) -> str:
    first = f"**{decision.verdict}**: {escaped(headline(decision))} {escaped(summary(report, decision))}"
    return "\n".join([first, *(f"- {escaped(reason)}" for reason in decision.reasons)])


def _families(decision: GateDecision) -> str:
    rows = [f"| {group.title} | {group.outcome} |" for group in check_groups(decision)]
    return "\n".join(["| question | result |", "|---|---|", *rows])


def _links(decision: GateDecision, address: str) -> str:
    """Return links to report and card in this MLflow. The tag gives the address in the store, which outlives the
    run."""
    view = mlflow_pages.TRAINING_VIEW
    report, card = (f"{address}/artifacts/gate/{file}{view}" for file in ("report.html", "model_card.md"))
    kept = "Both remain in the store with their evidence if this page is deleted: see the tag `gate.report_uri`."
    return f"[Report]({report}), [model card]({card}). {kept}"


# --- files ----------------------------------------------------------------------------------------------------------


def _write_files(store: Store, decision: GateDecision, report: EvalReport, *, folder: Path) -> Path:
    """Write report, card, decision and contact sheet to one folder."""
    folder.mkdir()
    (folder / "report.html").write_bytes(store.read_bytes(decision.report_uri))
    (folder / "model_card.md").write_bytes(store.read_bytes(card_uri(decision)))
    (folder / "decision.json").write_text(decision.model_dump_json(indent=1), encoding="utf-8")
    sheet = f"{report.uri}/{CONTACT_SHEET_FILE}"
    if store.exists(sheet):
        (folder / CONTACT_SHEET_FILE).write_bytes(store.read_bytes(sheet))
    return folder


def _fetch_samples(store: Store, weights_uri: str, scratch: Path) -> dict[SampleLine, Path]:
    """Fetch the run's sample images; empty if the run drew none."""
    index = f"{weights_uri}/{SAMPLES_INDEX_FILE}"
    if not store.exists(index):
        return {}
    samples = [SampleLine.model_validate_json(line) for line in store.read_bytes(index).splitlines()]
    files = {sample: scratch / f"{number:05d}.png" for number, sample in enumerate(samples)}
    for sample, file in files.items():
        file.write_bytes(store.read_bytes(named_uri(weights_uri, sample.path, index)))
    return files


def _show_by_step(
    settings: Settings, candidate: CandidateVersion, page_id: str, files: Mapping[SampleLine, Path]
) -> None:
    """Log the images to MLflow's image grid, on a run below the page."""
    key = f"{mlflow_pages.candidate_key(candidate.model, candidate.version)} images by step"
    run_id = runs.parent_run(settings, project=candidate.model, key=key, tags={runs.PARENT_TAG: page_id})
    stream = run_stream.RunStream(settings.tracking_uri, run_id)
    for sample, file in files.items():
        stream.log_image(file, sample.key, sample.step)
    runs.finish_run(settings, run_id, "FINISHED")


def candidate_facts(known: Provenance) -> dict[str, str]:
    """Return what candidates are compared by; of a soup the settings that all its ingredients share."""
    facts: dict[str, str] = {}
    for recipe in known.recipes:
        own = {
            "recipe": recipe.name,
            "objective": recipe.objective.name,
            "beta": getattr(recipe.objective, "beta", None),
            "learning_rate": recipe.optimiser.learning_rate,
            "steps": recipe.steps,
            "seed": recipe.seed,
        }
        for name, value in own.items():
            if value is not None:
                facts[name] = f"{value}" if facts.get(name, f"{value}") == f"{value}" else "several"
    if known.result is not None:
        facts["training_pairs"] = str(known.result.num_pairs)
    return facts
