"""A version's model card in the hub's format: YAML front matter, then Markdown; licences of data and base carried over.

The front matter is written as JSON values, which YAML reads, so nothing beyond the standard library is needed. Names
that come from outside cannot end a table cell or a line, nor become a tag.
"""

import html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from alignment.contracts.evaluation import EvalReport
from pipelines.contracts.release import GateDecision
from pipelines.project.file import Project
from pipelines.release.pages.checks import CheckRow, check_groups, check_row
from pipelines.release.pages.provenance import Provenance
from pipelines.release.pages.training import effort_rows, recipe_facts
from pipelines.release.pages.wording import headline, summary

TEMPLATE = "model_card.md.j2"
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
"""Licences of models and pairs that the hub knows by these names; any other becomes `other` with its own name."""
FREE_LICENCES = ("cc0-1.0",)
"""Licences of data that ask nothing of a model."""


@dataclass(frozen=True)
class Licences:
    """What may be done with the weights follows from both."""

    base: str
    data: tuple[str, ...]

    def hub(self) -> dict[str, str]:
        """Front matter. The base's licence stands for the model where the data's adds nothing; else a person reads."""
        adding = {name.lower() for name in self.data} - {self.base.lower(), *FREE_LICENCES}
        if not adding and self.base.lower() in HUB_LICENCES:
            return {"license": self.base.lower()}
        names = "-and-".join([self.base, *sorted(adding)])
        return {"license": "other", "license_name": re.sub(r"[^a-z0-9.+-]+", "-", names.lower()).strip("-")}


def render_card(report: EvalReport, decision: GateDecision, project: Project, known: Provenance) -> str:
    """The card of the version that was judged."""
    licences = licences_of(project, known)
    checks = [c for c in decision.checks if c.decisive or c.family == "votes"]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # Markdown: `told` escapes what comes from outside
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["told"] = told
    return environment.get_template(TEMPLATE).render(
        front=front_matter(decision, project, known, licences=licences),
        decision=decision,
        report=report,
        project=project,
        headline=headline(decision),
        summary=summary(report, decision),
        base=hub_repository(project.base.uri)[0] or Path(project.base.uri).name,
        revision=hub_repository(project.base.uri)[1],
        licences=licences,
        known=known,
        recipes=[recipe_facts(recipe) for recipe in known.recipes],
        efforts=effort_rows(known.records),
        checks=[check_row(check) for check in checks],
        gaps=_gaps(decision),
    )


def front_matter(decision: GateDecision, project: Project, known: Provenance, *, licences: Licences) -> str:
    """The lines between the dashes."""
    candidate = decision.candidate
    base, _ = hub_repository(project.base.uri)
    entries: dict[str, object] = {
        **licences.hub(),
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": [
            "text-to-image",
            "preference-alignment",
            *_method_tags(known),
            *(["lora"] * (candidate.kind == "lora")),
        ],
        "datasets": [source.name for source in known.sources] or list(candidate.trained_on),
    }
    if base:
        relation = "adapter" if candidate.kind == "lora" else "finetune"
        entries |= {"base_model": base, "base_model_relation": relation}
    return "\n".join(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in entries.items())


def licences_of(project: Project, known: Provenance) -> Licences:
    """The snapshot's licences say what the pairs came under; without a snapshot the project's sources do."""
    data = known.snapshot.licences if known.snapshot else tuple(source.licence for source in project.sources)
    return Licences(project.base.licence, tuple(sorted(set(data))))


def hub_repository(uri: str) -> tuple[str, str]:
    """`owner/name` and revision of a hub:// address; empty for any other."""
    if not uri.startswith(HUB_SCHEME):
        return "", ""
    name, _, revision = uri.removeprefix(HUB_SCHEME).partition("@")
    return name, revision


def told(text: object) -> str:
    """Text from outside as one line of Markdown that is nothing but text."""
    line = html.escape(" ".join(str(text).split()), quote=False)
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", line)


def _method_tags(known: Provenance) -> list[str]:
    return sorted({recipe.objective.name.replace("_", "-") for recipe in known.recipes})


def _gaps(decision: GateDecision) -> Sequence[CheckRow]:
    """What failed without consequence, or had nothing to go by."""
    rows = [row for group in check_groups(decision) for row in group.rows]
    return [row for row in rows if row.mark in ("warning", "unmeasured", "undecided")]
