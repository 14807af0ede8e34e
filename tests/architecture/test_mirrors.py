"""Each source file has its mirror test, or names the test that covers it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COVERED_BY = {
    "alignment/catalogues/backbones.py": "tests/alignment/backbones/test_aspect_buckets.py",
    "alignment/catalogues/objectives.py": "tests/alignment/objectives/test_dcpo.py",
    "alignment/catalogues/rewards.py": "tests/alignment/jobs/test_evaluate.py",
    "alignment/contracts/calibration.py": "tests/alignment/jobs/test_calibrate.py",
    "alignment/contracts/coverage.py": "tests/alignment/jobs/test_coverage.py",
    "alignment/contracts/data.py": "tests/alignment/contracts/test_captions.py",
    "alignment/contracts/evaluation.py": "tests/alignment/jobs/test_evaluate.py",
    "alignment/contracts/export.py": "tests/alignment/jobs/test_export_weights.py",
    "alignment/contracts/judges.py": "tests/alignment/evaluation/test_record.py",
    "alignment/contracts/names.py": "tests/alignment/files/test_paths.py",
    "alignment/contracts/soup.py": "tests/alignment/jobs/test_soup.py",
    "alignment/contracts/training.py": "tests/alignment/backbones/test_diffusers_model.py",
    "alignment/contracts/values.py": "tests/alignment/catalogues/test_record.py",
    "alignment/conversion/catalogue.py": "tests/alignment/jobs/test_import_judge.py",
    "alignment/conversion/export.py": "tests/alignment/jobs/test_export_weights.py",
    "alignment/conversion/folders.py": "tests/alignment/jobs/test_import_judge.py",
    "alignment/evaluation/models.py": "tests/alignment/jobs/test_coverage.py",
    "alignment/training/update.py": "tests/alignment/training/test_online.py",
    "alignment/training/policy.py": "tests/alignment/training/test_loop.py",
    "pipelines/commands/answers.py": "tests/pipelines/commands/test_cli.py",
    "pipelines/commands/arguments.py": "tests/pipelines/commands/test_imports.py",
    "pipelines/commands/by_hand.py": "tests/pipelines/stages/test_champion.py",
    "pipelines/commands/champion.py": "tests/pipelines/commands/test_cli.py",
    "pipelines/commands/gate.py": "tests/pipelines/commands/test_cli.py",
    "pipelines/commands/groups.py": "tests/pipelines/commands/test_help.py",
    "pipelines/commands/loop.py": "tests/pipelines/commands/test_cli.py",
    "pipelines/commands/platform.py": "tests/pipelines/commands/test_cli.py",
    "pipelines/commands/reference.py": "tests/pipelines/commands/test_help.py",
    "pipelines/contracts/data_report.py": "tests/pipelines/intake/report/test_write.py",
    "pipelines/contracts/jobs.py": "tests/pipelines/dispatch/operators/test_train_job.py",
    "pipelines/contracts/judges.py": "tests/pipelines/records/test_trained_judges.py",
    "pipelines/contracts/pairs.py": "tests/pipelines/intake/test_validation.py",
    "pipelines/contracts/release.py": "tests/pipelines/contracts/test_earlier_decisions.py",
    "pipelines/contracts/store.py": "tests/pipelines/dispatch/test_inputs.py",
    "pipelines/contracts/withdrawals.py": "tests/pipelines/intake/test_withdrawals.py",
    "pipelines/dispatch/engines/interface.py": "tests/pipelines/dispatch/engines/test_contract.py",
    "pipelines/intake/accepted.py": "tests/pipelines/intake/test_withdrawals.py",
    "pipelines/intake/checked_files.py": "tests/pipelines/intake/test_validation.py",
    "pipelines/intake/lineage.py": "tests/pipelines/intake/test_withdrawals.py",
    "pipelines/intake/purge.py": "tests/pipelines/intake/test_withdrawals.py",
    "pipelines/intake/shard_index.py": "tests/pipelines/intake/test_withdrawals.py",
    "pipelines/intake/withdrawn_rows.py": "tests/pipelines/intake/test_withdrawals.py",
    "pipelines/intake/sources/columns.py": "tests/pipelines/intake/sources/test_pick_a_pic.py",
    "pipelines/intake/sources/interface.py": "tests/pipelines/intake/sources/test_pick_a_pic.py",
    "pipelines/platform/demo.py": "tests/integration/test_loop.py",
    "pipelines/platform/exporter/catalogue.py": "tests/pipelines/platform/exporter/test_server.py",
    "pipelines/platform/exporter/metrics.py": "tests/pipelines/platform/exporter/test_server.py",
    "pipelines/platform/foreground.py": "tests/integration/test_loop.py",
    "pipelines/platform/running_jobs.py": "tests/integration/test_loop.py",
    "pipelines/project/captions.py": "tests/pipelines/dispatch/requests/test_pairs.py",
    "pipelines/project/search.py": "tests/pipelines/search/test_space.py",
    "pipelines/project/sections.py": "tests/pipelines/dispatch/requests/test_judges.py",
    "pipelines/records/withdrawals.py": "tests/pipelines/intake/test_withdrawals.py",
    "pipelines/stages/withdrawals.py": "tests/pipelines/commands/test_withdrawals.py",
    "pipelines/release/champion/state.py": "tests/pipelines/release/promotion/test_promote.py",
    "pipelines/release/promotion/served_champion.py": "tests/pipelines/release/promotion/test_reconcile.py",
    "pipelines/release/champion/versions.py": "tests/pipelines/release/registration/test_candidates.py",
    "pipelines/release/gate/checks/detectors.py": "tests/pipelines/release/gate/checks/test_families.py",
    "pipelines/release/gate/checks/identity.py": "tests/pipelines/release/gate/checks/test_families.py",
    "pipelines/release/gate/checks/interface.py": "tests/pipelines/release/gate/checks/test_guards.py",
    "pipelines/release/gate/checks/power.py": "tests/pipelines/project/test_gate.py",
    "pipelines/release/gate/checks/slices.py": "tests/pipelines/release/gate/checks/test_families.py",
    "pipelines/release/gate/simulated_worlds.py": "tests/pipelines/release/gate/test_simulation.py",
    "pipelines/release/gate/seed_noise.py": "tests/pipelines/release/gate/test_simulated_project.py",
    "pipelines/release/judge_candidate.py": "tests/pipelines/release/gate/test_mutations.py",
    "pipelines/release/pages/curve_plot.py": "tests/pipelines/release/pages/test_training.py",
    "pipelines/release/pages/drawing.py": "tests/pipelines/release/pages/test_calibration_plot.py",
    "pipelines/release/pages/slice_plot.py": "tests/pipelines/release/pages/test_slices.py",
    "pipelines/release/pages/write.py": "tests/pipelines/release/pages/test_candidate_page.py",
    "pipelines/stages/judges.py": "tests/integration/test_live_dags.py",
    "pipelines/stages/monitor.py": "tests/dags/test_wiring.py",
    "pipelines/stages/pairs.py": "tests/pipelines/stages/test_jobs.py",
    "pipelines/stages/training.py": "tests/pipelines/stages/test_jobs.py",
    "pipelines/stages/values.py": "tests/pipelines/stages/test_jobs.py",
    "pipelines/tracking/run_stream.py": "tests/pipelines/tracking/test_runs.py",
    "pipelines/tracking/registry.py": "tests/pipelines/tracking/test_errors.py",
}
"""Files without a mirror, with the test that exercises them: value objects, interfaces, and parts of a whole."""
SOURCES = sorted(
    str(path.relative_to(ROOT))
    for package in ("alignment", "pipelines")
    for path in (ROOT / package).rglob("*.py")
    if path.name != "__init__.py"
)


def mirror_of(source: str) -> Path:
    """tests/FOLDER/test_FILE.py of a source file."""
    folder, _, file = source.rpartition("/")
    return ROOT / "tests" / folder / f"test_{file}"


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_file_has_a_test(source: str) -> None:
    if mirror_of(source).is_file():
        assert source not in COVERED_BY, f"{source} has a mirror now; remove its line from COVERED_BY"
        return
    assert source in COVERED_BY, f"{source} has no test at {mirror_of(source)}; write it, or name what covers it"
    covering = ROOT / COVERED_BY[source]
    assert covering.is_file()
    users = [other for other in SOURCES if imports(ROOT / other, source)]
    theirs = [other for other in SOURCES if any(imports(ROOT / other, user) for user in users)]
    used = any(imports(covering, file) for file in (source, *users, *theirs))
    assert used or "integration" in covering.parts, (
        f"{covering} does not use {source}, directly or through two others at most"
    )


def imports(path: Path, source: str) -> bool:
    """True when a Python file imports the module at `source`."""
    package, module = source.removesuffix(".py").replace("/", ".").rsplit(".", 1)
    text = path.read_text()
    return f"from {package}.{module} import" in text or bool(
        re.search(rf"from {package} import [^)]*?\b{module}\b", text)
    )


def test_no_line_names_a_file_that_is_gone() -> None:
    assert set(COVERED_BY) <= set(SOURCES)
