"""Write the file of a new project from a base model, a folder of pairs and judges that exist."""

import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from alignment.catalogues.lookup import unknown_name
from alignment.catalogues.rewards import REWARDS, Reward, RewardParams
from alignment.config import validate
from alignment.contracts.values import Record
from alignment.statistics.prompt_groups import count_groups
from alignment.statistics.prompts import parse_prompts
from pipelines.dispatch.base_facts import BaseFacts, licence_of, read_base_facts
from pipelines.dispatch.gpus import list_gpus
from pipelines.dispatch.model_folders import CARD, fact_folder
from pipelines.intake import ingestion
from pipelines.project.file import PROJECT_NAME, load_project
from pipelines.project.public_data_sets import looks_like_public
from pipelines.project.recipe_choice import choose_recipe
from pipelines.project.template import (
    FoundBase,
    FoundJudge,
    FoundPairs,
    FoundProject,
    project_text,
    usual_shares,
)
from pipelines.settings import Settings
from pipelines.store.storage import Store, open_store

IMPORT_RECORD = "import.json"
_HPS_VERSIONS = {"HPS_v2_compressed.pt": "2.0", "HPS_v2.1_compressed.pt": "2.1"}


class NewProject(Record):
    """The locations that a user gives for a new project. Local paths are relative to the working directory."""

    name: str
    base: str
    """Folder in diffusers' layout, s3:// or hub://owner/name@revision."""
    pairs: str
    """Folder or s3:// prefix of the shards."""
    judges: tuple[str, ...] = ()
    """Folders of judges, each as FOLDER or KIND=FOLDER."""
    prompts: str = ""
    """File of evaluation prompts; empty: `NAME/prompts.tsv` beside the folder of the projects."""


class _Scorer(Record):
    """Reads a scorer from plain data."""

    scorer: Reward


def write_project(asked: NewProject, settings: Settings) -> Path:
    """Write `NAME.toml` to the folder of the projects and return its path.

    ValueError when the file exists, the name is not allowed, or base, pairs, judges or prompts cannot be read; no file
    is then left.
    """
    if not re.fullmatch(PROJECT_NAME, asked.name):
        raise ValueError(
            f"Project name {asked.name!r} is not allowed. Use 1 to 41 small letters, digits and underscores, a letter"
            " first."
        )
    path = settings.projects_dir / f"{asked.name}.toml"
    if path.exists():
        raise ValueError(f"{path} exists. Choose another name, or move the file away; nothing was written.")
    text = project_text(_look(asked, settings))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
    try:
        load_project(path)
    except ValueError:
        path.unlink()
        raise
    return path


def _look(asked: NewProject, settings: Settings) -> FoundProject:
    """Collect the facts; each error names the location that it is about."""
    store, folder = open_store(settings.store_uri, settings), settings.projects_dir
    base, card = _base(asked.base, settings)
    pairs = _pairs(asked, store, folder)
    num_pairs = round(pairs.num_rows * (1 - sum(usual_shares(pairs.num_rows))))
    prompts = asked.prompts or str(folder.parent / asked.name / "prompts.tsv")
    return FoundProject(
        name=asked.name,
        base=FoundBase(uri=_shown(asked.base, folder), backbone=base.backbone, licence=licence_of(card)),
        pairs=pairs,
        recipe=choose_recipe(base.backbone, num_pairs),
        judges=_judges(asked.judges, settings),
        prompts_uri=_shown(prompts, folder),
        num_prompts=count_groups(parse_prompts(store.read_bytes(prompts), prompts)) if asked.prompts else None,
        num_gpus=_count_gpus(),
    )


def _base(uri: str, settings: Settings) -> tuple[BaseFacts, str]:
    """Return facts and card of the base model; the weights are not fetched."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = fact_folder(uri, settings, Path(scratch))
        return read_base_facts(folder), _text(folder / CARD)


def _pairs(asked: NewProject, store: Store, folder: Path) -> FoundPairs:
    """Look at the pairs; their kind is the one whose columns they have."""
    kind, facts = ingestion.recognise(asked.pairs, store)
    if facts.is_unpaired:
        raise ValueError(
            f"{asked.pairs} holds likes and dislikes of single images, and training needs pairs. Make the project from"
            " pairs, then add this as a further source."
        )
    public = looks_like_public(asked.pairs)
    card = f"{asked.pairs.rstrip('/')}/{CARD}"
    return FoundPairs(
        name=public.name if public else f"{asked.name}_pairs",
        kind=kind,
        uri=_shown(asked.pairs, folder),
        num_shards=facts.num_shards,
        num_rows=facts.num_rows,
        licence=licence_of(store.read_bytes(card).decode("utf-8", "replace")) if store.exists(card) else "",
        data_set=public.name if public else "",
    )


def _judges(given: Sequence[str], settings: Settings) -> tuple[FoundJudge, ...]:
    """Read the kind of each judge; ValueError when it is not known, or two judges would have one name."""
    found: list[FoundJudge] = []
    for text in given:
        kind, _, uri = text.rpartition("=")
        scorer = _scorer(kind, uri, settings)
        name = uri.partition("@")[0].rstrip("/").rpartition("/")[2]
        if name in [own.name for own in found]:
            raise ValueError(f"Two judges would be named {name!r}. Rename the folder of one.")
        found.append(FoundJudge(name=name, uri=_shown(uri, settings.projects_dir), scorer=scorer))
    return tuple(found)


def _scorer(kind: str, uri: str, settings: Settings) -> Reward:
    """Return the scorer of a judge's folder, of the kind that is given or that its import recorded."""
    kinds = {cls.model_fields["kind"].default: cls for cls in REWARDS if cls.has_weights and not cls.per_prompt}
    with tempfile.TemporaryDirectory() as scratch:
        record = _text(fact_folder(uri, settings, Path(scratch)) / IMPORT_RECORD)
    request = json.loads(record).get("request", {}) if record else {}
    chosen = kind or str(request.get("kind", ""))
    if not chosen:
        raise ValueError(
            f"Judge {uri} has no {IMPORT_RECORD} that states its kind. Give it: --judge KIND={uri}. Kinds:"
            f" {', '.join(sorted(kinds))}."
        )
    if chosen not in kinds:
        raise ValueError(unknown_name("kind of judge", chosen, kinds))
    data = {"kind": chosen, **_required(kinds[chosen], request)}
    return validate(_Scorer, {"scorer": data}, what=f"Judge {uri}").scorer


def _required(cls: type[RewardParams], request: dict[str, object]) -> dict[str, object]:
    """Return the fields that a kind requires and that an import recorded: the version of HPSv2."""
    if "version" not in cls.model_fields:
        return {}
    return {"version": _HPS_VERSIONS.get(str(request.get("source")), "2.1")}


def _shown(uri: str, folder: Path) -> str:
    """Return a path as the project file states it: relative to its folder if it is below the folder above."""
    if "://" in uri:
        return uri
    path = Path(uri).absolute()
    above = folder.absolute().parent
    return f"../{path.relative_to(above).as_posix()}" if path.is_relative_to(above) else str(path)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _count_gpus() -> int:
    try:
        return len(list_gpus())
    except ValueError:  # `plumbline doctor` reports the driver.
        return 0
