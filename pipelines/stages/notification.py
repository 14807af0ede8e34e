"""Evidence for notifications about decisions: the report's page, and two images of one prompt."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignment.contracts.jobs import EXTREMES_FILE
from pipelines.stages.values import Json
from pipelines.workspace import open_workspace


def evidence_for(path: str, result: Mapping[str, Any], folder: Path) -> Json:
    """Return `report_page`, an address for a browser, and `images`, files in `folder`, for a decision.

    `result` names the decision by `decision_digest`. The images are those of the prompt on which the candidate gained
    most: the champion's, or the base's, and the candidate's. Empty values where there is no decision or no such image.
    """
    from pipelines.release.gate import decision_log
    from pipelines.store.disk import named_uri
    from pipelines.tracking import pages

    workspace, digest = open_workspace(path), str(result.get("decision_digest") or "")
    decision = decision_log.find_decision(digest, workspace) if digest else None
    if decision is None:
        return {"report_page": "", "images": []}
    store, images = workspace.store, []
    index = f"{decision.evaluation_uri}/{EXTREMES_FILE}"
    found = json.loads(store.read_bytes(index)) if store.exists(index) else []
    for best in [extreme for extreme in found if extreme["end"] == "gain"][:1]:
        for model in ("champion", "candidate"):
            uri = named_uri(decision.evaluation_uri, best[f"{model}_image"], index)
            file = folder / f"{model}.png"
            file.write_bytes(store.read_bytes(uri))
            images.append(str(file))
    page = pages.report_page(workspace.settings, workspace.project.name, decision.candidate.version)
    return {"report_page": page, "images": images}
