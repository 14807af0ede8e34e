"""One page per candidate in MLflow: verdict, curves, images by step, contact sheet, bounds, report and card.

The page is a separate run without parameters, because MLflow prints every parameter above each image of a grid. All
its content is read from the store, where it remains when the run is deleted. Showing a candidate again updates the
page.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from alignment.contracts.evaluation import EvalReport
from alignment.contracts.jobs import CONTACT_SHEET_FILE, SAMPLES_INDEX_FILE, SampleLine
from alignment.evaluation.contact_sheet import SheetRow, contact_sheet, evenly_spaced
from pipelines.contracts.release import GateDecision
from pipelines.release.pages.checks import check_groups
from pipelines.release.pages.model_card import escaped
from pipelines.release.pages.provenance import read_metrics
from pipelines.release.pages.wording import headline, summary
from pipelines.release.pages.write import card_uri
from pipelines.settings import Settings
from pipelines.store.disk import named_uri
from pipelines.store.storage import Store, open_store
from pipelines.tracking import registry, runs

MOST_STEPS = 6
MOST_PROMPTS = 8
BY_STEP_FILE = "images_by_step.png"


def show_candidate(settings: Settings, decision: GateDecision, *, report: EvalReport) -> str:
    """Create or update the candidate's page and the version's description; return the run's id."""
    candidate = decision.candidate
    name = f"{candidate.model} version {candidate.version}"
    run_id = runs.parent_run(settings, project=candidate.model, key=name, tags={"plumbline.kind": "candidate"})
    store = open_store(settings.store_uri, settings)
    stream = runs.RunStream(settings.tracking_uri, run_id)
    for line in read_metrics(store, candidate.weights_uri):
        stream.log_metrics(line.step, line.unix_seconds, line.metrics)
    stream.log_metrics(0, time.time(), bounds(report))
    stream.flush()
    with tempfile.TemporaryDirectory() as scratch:
        pages = _write_files(store, decision, report, folder=Path(scratch) / "gate")
        _log_samples(store, candidate.weights_uri, stream, scratch=Path(scratch), pages=pages)
        runs.log_artifacts(settings, run_id, pages, "gate")
        pictures = [file for file in (CONTACT_SHEET_FILE, BY_STEP_FILE) if (pages / file).is_file()]
    address = runs.run_address(settings, run_id)
    tags = {**verdict_tags(decision), runs.NOTE_TAG: _page_note(report, decision, address, pictures=pictures)}
    runs.set_run_tags(settings, run_id, tags)
    registry.describe_version(settings, candidate.model, candidate.version, _version_note(report, decision, address))
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
    """Return the figures of every comparison by metric name; if the base is the champion, it appears once."""
    figures: dict[str, float] = {}
    once = [c for c in report.comparisons if c.against == "champion" or report.spec.champion.kind != "base"]
    for comparison in once:
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
    page = f"[Curves, images and contact sheet]({address}{runs.TRAINING_VIEW})"
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
    report, card = (f"{address}/artifacts/gate/{file}{runs.TRAINING_VIEW}" for file in ("report.html", "model_card.md"))
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


def _log_samples(store: Store, weights_uri: str, stream: runs.RunStream, *, scratch: Path, pages: Path) -> None:
    """Log the run's sample images to MLflow's image grid and as one picture, if the run drew any."""
    index = f"{weights_uri}/{SAMPLES_INDEX_FILE}"
    if not store.exists(index):
        return
    samples = [SampleLine.model_validate_json(line) for line in store.read_bytes(index).splitlines()]
    files = {sample: scratch / f"{number:05d}.png" for number, sample in enumerate(samples)}
    for sample, file in files.items():
        file.write_bytes(store.read_bytes(named_uri(weights_uri, sample.path, index)))
        stream.log_image(file, sample.key, sample.step)
    if samples:
        _by_step(files).save(pages / BY_STEP_FILE)


def _by_step(files: dict[SampleLine, Path]) -> Image.Image:
    """Return a sheet with one row per prompt and one column per step, including the first and last; steps without an
    image of every prompt are left out."""
    found = {(sample.key, sample.step): path for sample, path in files.items()}
    prompts = {sample.key: sample.prompt for sample in files}
    keys = evenly_spaced(sorted(prompts), MOST_PROMPTS)
    steps = sorted(step for step in {step for _, step in found} if all((key, step) in found for key in keys))
    shown = [*evenly_spaced(steps[:-1], MOST_STEPS - 1), *steps[-1:]]
    rows = []
    for key in keys:
        images = {}
        for step in shown:
            with Image.open(found[key, step]) as image:
                images[f"step {step}"] = image.convert("RGB")
        rows.append(SheetRow(prompts[key], images))
    return contact_sheet(rows, [f"step {step}" for step in shown])
