"""The text of a new project file: every section with a comment, from the facts that were found."""

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from alignment.catalogues.backbones import Backbone
from alignment.catalogues.rewards import AestheticV2, HpsV2, ImageReward, PickScore, Reward
from alignment.contracts.values import Record
from pipelines.project.recipe_choice import ChosenRecipe
from pipelines.project.sections import TO_DO

__all__ = ["FoundBase", "FoundJudge", "FoundPairs", "FoundProject", "project_text", "usual_shares"]

LICENCE_TO_DO = f"{TO_DO}: state the licence"
_FAMILY_NAMES = {"stable_diffusion": "Stable Diffusion", "sdxl": "SDXL", "sd3": "Stable Diffusion 3", "flux": "FLUX.1"}
_SAMPLERS = {
    "stable_diffusion": "{ steps = 30, guidance_scale = 7.5 }",
    "sdxl": "{ steps = 30, guidance_scale = 5.0 }",
    "sd3": '{ scheduler = "flow_euler", steps = 28, guidance_scale = 4.5 }',
    "flux": '{ scheduler = "flow_euler", steps = 28, guidance_scale = 3.5 }',
}
_MICRO_BATCHES = {"stable_diffusion": 8, "sdxl": 4, "sd3": 2, "flux": 1}
_DRIFT_MARGINS = {"saturation": 0.15, "brightness": 0.15, "contrast": 0.25, "high_frequency": 0.5, "checkerboard": 0.5}
"""Margins of the image statistics, in the champion's standard deviations over prompts; see docs/gate.md."""
_DEFAULT_PROMPTS, _CALIBRATION_PAIRS = 500, 200
"""Defaults of gate.minimum_prompts and gate.minimum_calibration_pairs, quoted in comments."""
_TINY_PIXELS = 128
_WIDTH = 120
_SAMPLE_PROMPTS = ["a red bicycle leaning against a brick wall", "a portrait of an old fisherman, oil painting"]
_PUBLISHED: Mapping[str, Reward] = {
    "hpsv21": HpsV2(version="2.1"),
    "imagereward": ImageReward(),
    "pickscore": PickScore(),
    "aesthetic_v2": AestheticV2(),
}
"""Published judges in the order in which a project without judges gets two of different families."""


class FoundBase(Record):
    """The base model of a new project."""

    uri: str
    backbone: Backbone
    licence: str = ""
    """Licence that its card states; empty for none."""


class FoundPairs(Record):
    """The pairs of a new project."""

    name: str
    kind: str
    uri: str
    num_shards: int
    num_rows: int
    licence: str = ""
    data_set: str = ""
    """Public data set that they look like, by the name that judges know; empty for none."""


class FoundJudge(Record):
    """A judge of a new project."""

    name: str
    uri: str
    scorer: Reward


class FoundProject(Record):
    """Everything that the file of a new project states."""

    name: str
    base: FoundBase
    pairs: FoundPairs
    recipe: ChosenRecipe
    judges: tuple[FoundJudge, ...] = ()
    """Judges that are there; without any, the file names two published ones to import."""
    prompts_uri: str
    num_prompts: int | None = None
    """Prompts in the file, near-duplicates as one; None while there is no file."""
    num_gpus: int = 0


def usual_shares(num_rows: int) -> tuple[float, float]:
    """Return the shares that are held out to calibrate judges and to test: more to calibrate if there are few pairs."""
    return (0.15, 0.1) if num_rows * 0.15 >= _CALIBRATION_PAIRS else (0.3, 0.1)


def project_text(found: FoundProject) -> str:
    """Return the project file as TOML. `load_project` reads it, also while the files that it names are missing."""
    blocks = [_head(found), *_data(found), *_evaluation(found), *_gate(found), _LATER, *_placement(found)]
    return "\n\n".join(blocks) + "\n"


_LATER = """\
# Approval by a person before a promotion, and schedules of the DAGs. Remove the "#" to use them.
# [approval]
# mode = "required"
# approvers = ["USER"]
#
# [schedule]
# ingest = "@daily\""""


def _head(found: FoundProject) -> str:
    backbone = found.base.backbone
    about = (
        f"{_FAMILY_NAMES[backbone.name]} at {backbone.resolution} px, aligned with the votes in {found.pairs.name}."
        " Written by `plumbline new` from what it found; edit it freely. `plumbline doctor` lists what is missing."
        " docs/projects.md explains the sections, docs/configuration.md has every field with its default."
    )
    return f"{_comment(about)}\nname = {_toml(found.name)}"


def _data(found: FoundProject) -> Iterator[str]:
    base, pairs = found.base, found.pairs
    backbone = f"{{ name = {_toml(base.backbone.name)}, resolution = {base.backbone.resolution} }}"
    yield _table(
        "[base]",
        {"uri": _toml(base.uri), "licence": _licence(base.licence), "backbone": backbone},
        "The model to align. Family and resolution are those of its configurations.",
    )
    source = {"name": _toml(pairs.name), "kind": _toml(pairs.kind), "uri": _toml(pairs.uri)}
    source |= {"licence": _licence(pairs.licence)}
    yield _table(
        "[[sources]]",
        source | ({"data_sets": _toml([pairs.data_set])} if pairs.data_set else {}),
        f"Pairs of images with people's votes: {pairs.num_rows} rows, {pairs.num_shards} shards. Add a table for each"
        " further source. `data_sets` names a public data set that pairs come from: judges that learnt from it may not"
        " vote.",
    )
    calibration, test = usual_shares(pairs.num_rows)
    yield _table(
        "[snapshot]",
        {"calibration_share": str(calibration), "test_share": str(test), "minimum_new_pairs": "0"},
        "Pairs that no training sees, chosen by prompt: some compare the judges with people, some are for tests."
        " `minimum_new_pairs` is the number of new pairs that starts a training.",
    )
    yield _train(found.recipe)


def _train(recipe: ChosenRecipe) -> str:
    about = "The recipe of a training, one of alignment/recipes/ for this model family."
    if recipe.fitted:
        about += (
            " It was made for many pairs: the overrides give few pairs a smaller batch and fewer steps, and adapters"
            " where it trains all weights. They are a start and not tuned; remove them when you have more pairs."
        )
    listed = "".join(f"\n  {_toml(own)}," for own in recipe.overrides)
    return _table(
        "[[train]]",
        {"recipe": _toml(recipe.recipe)} | ({"overrides": f"[{listed}\n]"} if recipe.overrides else {}),
        about,
    )


def _evaluation(found: FoundProject) -> Iterator[str]:
    missing = f"{TO_DO}: write the file with `plumbline prompts import LIST --format tsv --out FILE`."
    number = missing if found.num_prompts is None else f"There are {found.num_prompts}."
    yield _table(
        "[evaluation]",
        {"prompts": _toml(found.prompts_uri), "seeds": "[0, 1]", "sampler": _SAMPLERS[found.base.backbone.name]},
        "Prompts that no training sees: a tab-separated file with the header `prompt<TAB>category`. Candidate, champion"
        f" and base draw each prompt with each seed. {number}",
    )
    about = (
        "Judges score the images and vote. A judge may vote only if it did not learn from these pairs, and agrees with"
        " people on the held-out ones. docs/judges.md lists the kinds. `trained_on` names the sources of other labels"
        " that a judge learnt from."
    )
    if not found.judges:
        about += f" {TO_DO}: make these folders with `plumbline judges import`, or name judges that you have."
    for judge in found.judges or _published(found):
        scorer = {"kind": judge.scorer.kind, **judge.scorer.model_dump(mode="json", exclude_defaults=True)}
        fields = {"name": _toml(judge.name), "uri": _toml(judge.uri), "scorer": _inline(scorer)}
        yield _table("[[evaluation.judges]]", fields, about)
        about = ""
    yield from _guards()


def _guards() -> Iterator[str]:
    about = (
        "Guards do not vote; a candidate must not get worse under them. These read pixels and need no weights. Add one"
        " for the prompt's content (clip_score), one for variety (diversity) and one for safety, as in"
        " examples/projects/sdxl.toml."
    )
    for statistic in _DRIFT_MARGINS:
        scorer = _inline({"kind": "image_statistic", "statistic": statistic, "better": "more"})
        yield _table("[[evaluation.guards]]", {"name": _toml(statistic), "scorer": scorer}, about)
        about = ""


def _gate(found: FoundProject) -> Iterator[str]:
    judges = found.judges or _published(found)
    required = min(2, len(judges))
    fields = {"mode": _toml("dry_run"), "required_judges": str(required)}
    about = (
        "Requirements for a candidate. dry_run decides without consequence; set enforce when `plumbline gate simulate`"
        f" and `plumbline gate aa` show what you want. A judge may vote after it agreed with people on"
        f" {_CALIBRATION_PAIRS} held-out pairs; you have about"
        f" {round(found.pairs.num_rows * usual_shares(found.pairs.num_rows)[0])}."
    )
    if len({judge.scorer.encoder_family or judge.name for judge in judges}) < required:
        fields["required_families"] = "1"
        about += " The judges have one encoder, so they have the same blind spots; add another and remove this field."

    if found.num_prompts is not None and found.num_prompts < _DEFAULT_PROMPTS:
        fields["minimum_prompts"] = str(max(found.num_prompts, 1))
        about += f" The default of minimum_prompts is {_DEFAULT_PROMPTS}: fewer prompts find large gains only."
    yield _table("[gate]", fields, about)
    yield _table(
        "[gate.detectors.drift]",
        {name: _inline({"action": "block", "margin": own, "unit": "sd"}) for name, own in _DRIFT_MARGINS.items()},
        "Largest change of the pixel statistics, in the champion's standard deviations over prompts.",
    )


def _placement(found: FoundProject) -> Iterator[str]:
    """Yield the placements: one process for each GPU of this host, and sizes that fit the family."""
    backbone = found.base.backbone
    micro_batch = 16 if backbone.resolution <= _TINY_PIXELS else _MICRO_BATCHES[backbone.name]
    processes = {"num_processes": str(max(found.num_gpus, 1))}
    yield _table(
        "[placement.encode]",
        processes,
        "Hardware of the jobs; none of it changes the result. One process uses one GPU. Lower micro_batch if the memory"
        " is too small.",
    )
    samples = {"sample_every_steps": "50", "sample_prompts": _toml(_SAMPLE_PROMPTS)}
    yield _table("[placement.train]", {**processes, "micro_batch": str(micro_batch), **samples})
    yield _table("[placement.evaluate]", {**processes, "micro_batch": str(2 * micro_batch)})


def _published(found: FoundProject) -> Sequence[FoundJudge]:
    """Return two published judges of different families that did not learn from the pairs."""
    chosen: list[FoundJudge] = []
    for name, scorer in _PUBLISHED.items():
        families = {own.scorer.encoder_family for own in chosen}
        if found.pairs.data_set not in scorer.trained_on and scorer.encoder_family not in families:
            chosen.append(FoundJudge(name=name, uri=f"../{found.name}/judges/{name}", scorer=scorer))
    return chosen[:2]


def _table(header: str, fields: Mapping[str, str], about: str = "") -> str:
    """Return a table under its comment. Values are TOML."""
    lines = [header, *(f"{name} = {value}" for name, value in fields.items())]
    return "\n".join([*([_comment(about)] if about else []), *lines])


def _comment(text: str) -> str:
    indent = "# "
    return textwrap.fill(
        text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _licence(stated: str) -> str:
    return _toml(stated or LICENCE_TO_DO)


def _inline(table: Mapping[str, object]) -> str:
    return "{ " + ", ".join(f"{name} = {_toml(value)}" for name, value in table.items()) + " }"


def _toml(value: object) -> str:
    """Return a text, number, boolean or list as JSON, which is valid TOML too."""
    return json.dumps(value, ensure_ascii=False)
