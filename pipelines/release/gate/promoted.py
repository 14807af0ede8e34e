"""Scores of the versions promoted earlier, for guards that hold against the best of them (`anchor = "best"`)."""

import hashlib
import logging
from dataclasses import replace

import numpy as np

from alignment.contracts.evaluation import EvalReport, EvalSpec
from alignment.contracts.jobs import SCORES_FILE
from alignment.contracts.judges import Judge
from alignment.statistics.comparison import SeedGrid
from alignment.statistics.score_grids import ScoreGrids
from pipelines.contracts.release import CandidateVersion, GateDecision
from pipelines.release.champion import ledger
from pipelines.release.gate import decision_log
from pipelines.release.gate.checks.score_table import read_columns, read_grids
from pipelines.workspace import Workspace

log = logging.getLogger(__name__)


def comparable_scores(
    report: EvalReport, grids: ScoreGrids, candidate: CandidateVersion, workspace: Workspace
) -> dict[int, ScoreGrids]:
    """Read the guards' scores of the promoted versions that were drawn and scored like this report's candidate.

    Left out are the candidate itself, versions that a rollback left or that only a person promoted, and guards whose
    weights, prompts or seeds differ. An evaluation that is missing or was changed is logged and left out too.
    """
    known = ledger.entries(workspace.project.name, workspace.store)
    found: dict[int, ScoreGrids] = {}
    for version in ledger.way_back(known):
        entry = ledger.promotion_of(known, version, gated=True) if version not in (None, candidate.version) else None
        if version is None or entry is None or entry.decision_digest is None:
            continue
        try:
            decision = decision_log.find_decision(entry.decision_digest, workspace)
            own = _scores(decision, report.spec, grids, workspace) if decision else {}
        except (OSError, ValueError) as error:
            log.warning("The evaluation of version %d cannot be read and is no anchor: %s", version, error)
            continue
        if own:
            found[version] = ScoreGrids(own)
    return found


def _scores(
    decision: GateDecision, spec: EvalSpec, grids: ScoreGrids, workspace: Workspace
) -> dict[tuple[str, str], SeedGrid]:
    """Return the candidate's grids of the guards that this decision's evaluation shares with the spec."""
    store = workspace.store
    manifest = store.read_manifest(decision.evaluation_uri)
    if manifest is None:
        raise ValueError(f"{decision.evaluation_uri} is not in the store.")
    own = EvalReport.model_validate(manifest.value).spec
    if own.sample_spec(own.candidate).model_copy(update={"model": spec.candidate}) != spec.sample_spec(spec.candidate):
        return {}
    data = store.read_bytes(f"{decision.evaluation_uri}/{SCORES_FILE}")
    if hashlib.sha256(data).hexdigest() != decision.scores_digest:
        raise ValueError(f"the scores in {decision.evaluation_uri} are not those of decision {decision.digest[:12]}.")
    earlier = read_grids(read_columns(data))
    measured = {_measure(guard) for guard in own.guards}
    keys = [(guard.name, "candidate") for guard in spec.guards if _measure(guard) in measured]
    return {
        key: replace(earlier.grid(*key), groups_N=grids.grid(*key).groups_N)
        for key in keys
        if earlier.has(*key) and grids.has(*key) and _same_images(earlier.grid(*key), grids.grid(*key))
    }


def _measure(guard: Judge) -> tuple[str, str, str]:
    return guard.name, guard.scorer.model_dump_json(), guard.weights_digest


def _same_images(first: SeedGrid, second: SeedGrid) -> bool:
    return np.array_equal(first.prompts_N, second.prompts_N) and np.array_equal(first.seeds_S, second.seeds_S)
