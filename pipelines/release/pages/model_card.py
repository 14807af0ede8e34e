"""Render a version's model card in the format of the Hugging Face Hub: YAML front matter, then Markdown.

The licences of data and base model are carried over. The front matter consists of JSON values, which are valid YAML, so
no YAML library is needed. External names are escaped: they cannot end a table cell or a line, or become an HTML tag.
"""

import html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from alignment.contracts.evaluation import EvalReport
from pipelines.contracts.release import CandidateVersion, GateDecision
from pipelines.project.file import Project
from pipelines.release.pages.checks import CheckRow, check_groups, check_row
from pipelines.release.pages.costs import cost_rows
from pipelines.release.pages.provenance import Provenance
from pipelines.release.pages.training import recipe_facts
from pipelines.release.pages.wording import headline, pair_counts, summary

TEMPLATE = "model_card.md.j2"
UNGATED_TEMPLATE = "ungated_card.md.j2"
HUB_SCHEME = "hub://"
HUB_LICENCES = (
    "apache-2.0",
    "cc-by-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
    "cc-by-sa-4.0",
    "cc0-1.0",
    "creativeml-openrail-m",
    "mit",
    "openrail",
    "openrail++",
)
"""Licence names that the hub accepts; any other becomes `other` with the field `license_name`."""
FREE_LICENCES = ("cc0-1.0",)
"""Data licences that put no conditions on a model."""


@dataclass(frozen=True)
class _Licences:
    """The licences of base model and data; both apply to the weights."""

    base: str
    data: tuple[str, ...]

    def hub(self) -> dict[str, str]:
        """Return the licence entries of the front matter: the base's licence if the data's add no conditions, else
        `other`."""
        adding = {name.lower() for name in self.data} - {self.base.lower(), *FREE_LICENCES}
        if not adding and self.base.lower() in HUB_LICENCES:
            return {"license": self.base.lower()}
        names = "-and-".join([self.base, *sorted(adding)])
        return {"license": "other", "license_name": re.sub(r"[^a-z0-9.+-]+", "-", names.lower()).strip("-")}


@dataclass(frozen=True)
class Exported:
    """Files of an export, for the part of the card that says how to load them."""

    format: str
    """diffusers, kohya or comfyui."""
    files: tuple[str, ...]
    """Paths relative to the folder."""
    address: str
    """Where a reader finds the folder: `owner/name` on the hub, or `.` for the card's own folder."""

    @property
    def part(self) -> str:
        """Folder of the denoiser; empty for an adapter."""
        return next((parent.name for file in self.files for parent in PurePosixPath(file).parents if parent.name), "")


def render_card(report: EvalReport, decision: GateDecision, project: Project, known: Provenance) -> str:
    """Return the model card of the judged version."""
    return _render(decision.candidate, project, known, judged=(report, decision), exported=None)


def render_export_card(
    candidate: CandidateVersion,
    project: Project,
    known: Provenance,
    *,
    judged: tuple[EvalReport, GateDecision] | None,
    exported: Exported,
) -> str:
    """Return the card of exported weights, without addresses of this installation.

    `judged` is the newest verdict with its evaluation; None where there is none, or the evaluation is gone.
    """
    return _render(candidate, project, known, judged=judged, exported=exported)


def render_ungated_card(
    candidate: CandidateVersion,
    project: Project,
    known: Provenance,
    *,
    actor: str,
    reason: str,
    at: datetime,
    earlier: GateDecision | None,
) -> str:
    """Return the model card of a version that a person promoted while the gate was off. `earlier` is the gate's last
    decision about it, if any."""
    when = f"{at:%Y-%m-%d %H:%M} UTC"
    facts = {"actor": actor, "reason": reason, "at": when, "earlier": earlier}
    history = _history(candidate, project, known, exported=None)
    return _card_environment().get_template(UNGATED_TEMPLATE).render(**facts, **history)


def _render(
    candidate: CandidateVersion,
    project: Project,
    known: Provenance,
    *,
    judged: tuple[EvalReport, GateDecision] | None,
    exported: Exported | None,
) -> str:
    report, decision = judged or (None, None)
    sampler = report.spec.sampler if report else project.evaluation.sampler
    facts = {"decision": decision, "report": report, "exported": exported, "sampler": sampler}
    verdict = _verdict(*judged) if judged else {}
    history = _history(candidate, project, known, exported=exported)
    return _card_environment().get_template(TEMPLATE).render(**facts, **verdict, **history)


def _card_environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # Markdown: the filter `escaped` escapes external text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["escaped"] = escaped
    return environment


def _history(
    candidate: CandidateVersion, project: Project, known: Provenance, *, exported: Exported | None
) -> dict[str, Any]:
    """Return the values that every card needs: front matter, base, licences, pairs, recipes and costs."""
    licences = _licences_of(project, known)
    repository, revision = _hub_repository(project.base.uri)
    return {
        "front": _front_matter(candidate, project, known, licences=licences, exported=exported),
        "candidate": candidate,
        "project": project,
        "base": repository or Path(project.base.uri).name,
        "revision": revision,
        "licences": licences,
        "known": known,
        "pair_counts": _pair_counts(known),
        "recipes": [recipe_facts(recipe) for recipe in known.recipes],
        "costs": cost_rows(known.records, known.project_total),
    }


def _pair_counts(known: Provenance) -> str:
    trained = known.result.num_pairs if known.result else None
    return pair_counts(known.snapshot, trained) if known.snapshot else ""


def _verdict(report: EvalReport, decision: GateDecision) -> dict[str, object]:
    """Return the values that only the card of a judged version has."""
    shown = [check for check in decision.checks if check.decisive or check.family == "votes"]
    return {
        "headline": headline(decision),
        "summary": summary(report, decision),
        "checks": [check_row(check) for check in shown],
        "gaps": _gaps(decision),
    }


def _front_matter(
    candidate: CandidateVersion,
    project: Project,
    known: Provenance,
    *,
    licences: _Licences,
    exported: Exported | None,
) -> str:
    """Return the lines between the dashes."""
    base, _ = _hub_repository(project.base.uri)
    format = exported.format if exported else "diffusers"
    entries: dict[str, object] = {
        **licences.hub(),
        **({"library_name": "diffusers"} if format == "diffusers" else {}),
        "pipeline_tag": "text-to-image",
        "tags": [
            "text-to-image",
            "preference-alignment",
            *_method_tags(known),
            *(["lora"] * (candidate.kind == "lora")),
            *([format] if format != "diffusers" else []),
        ],
        "datasets": [source.name for source in known.sources] or list(candidate.trained_on),
    }
    if base:
        relation = "adapter" if candidate.kind == "lora" else "finetune"
        entries |= {"base_model": base, "base_model_relation": relation}
    return "\n".join(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in entries.items())


def _licences_of(project: Project, known: Provenance) -> _Licences:
    """Return the licences of base model and pairs: from the snapshot, or without one from the project's sources."""
    data = known.snapshot.licences if known.snapshot else tuple(source.licence for source in project.sources)
    return _Licences(project.base.licence, tuple(sorted(set(data))))


def _hub_repository(uri: str) -> tuple[str, str]:
    """Return `owner/name` and revision of a hub:// address; empty strings for any other."""
    if not uri.startswith(HUB_SCHEME):
        return "", ""
    name, _, revision = uri.removeprefix(HUB_SCHEME).partition("@")
    return name, revision


def escaped(text: object) -> str:
    """Escape external text as one line of plain Markdown text."""
    line = html.escape(" ".join(str(text).split()), quote=False)
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", line)


def _method_tags(known: Provenance) -> list[str]:
    return sorted({recipe.objective.name.replace("_", "-") for recipe in known.recipes})


def _gaps(decision: GateDecision) -> Sequence[CheckRow]:
    """Return the checks that are warnings, unmeasured or undecided."""
    rows = [row for group in check_groups(decision) for row in group.rows]
    return [row for row in rows if row.mark in ("warning", "unmeasured", "undecided")]
