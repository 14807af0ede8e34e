"""Commands that read external files: published judges, prompt lists and users' picks."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands import loop
from pipelines.commands.answers import DONE, GATE_SAID_NO, show
from pipelines.commands.arguments import AsJson, existing_path
from pipelines.commands.groups import command_group, stage_group


def canary(
    table: Annotated[
        Path,
        typer.Argument(
            metavar="TABLE",
            help="CSV file with the column pick (challenger, champion or tie) and, optionally, user and time.",
            callback=existing_path,
        ),
    ],
    confidence: Annotated[
        float, typer.Option(metavar="P", help="Confidence that holds for all repetitions together.")
    ] = 0.95,
    required: Annotated[float, typer.Option(metavar="P", help="Win rate that the challenger must exceed.")] = 0.5,
    picks_per_user: Annotated[int, typer.Option(metavar="N", help="Number of picks to count for each user.")] = 1,
    as_json: AsJson = False,
) -> int:
    """Test whether users prefer the challenger. You may repeat the test while picks arrive.

    The exit code is 0 if the challenger won and 3 otherwise.
    """
    from pipelines.monitor.canary import judge_picks

    verdict = judge_picks(table, confidence=confidence, required=required, picks_per_user=picks_per_user)
    show(verdict.model_dump(mode="json"), as_json=as_json)
    return DONE if verdict.verdict == "challenger" else GATE_SAID_NO


def import_prompts(
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="Published prompt list; for hps a folder.", callback=existing_path),
    ],
    *,
    format: Annotated[str, typer.Option(metavar="FORMAT", help="parti, geneval, hps, tsv or jsonl.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Tab-separated file to write.")],
    category: Annotated[
        str,
        typer.Option(metavar="FIELD", help="Column or field to slice by.", show_default="depends on the format"),
    ] = "",
    per_category: Annotated[
        int | None, typer.Option(metavar="N", help="Number of prompts to keep of each category, spread evenly.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Convert a published prompt list to the file that evaluations read."""
    from pipelines.intake import prompt_lists

    found = prompt_lists.import_prompts(source, format, out, category=category, per_category=per_category)
    show(found.model_dump(mode="json"), as_json=as_json)
    return DONE


def import_judge(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND", help="pickscore, hpsv2, imagereward, aesthetic_v2, hpsv3, clip_head or another."
        ),
    ],
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Published file, or the folder of a CLIP.")],
    *,
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder to write; it must not exist.")],
    base: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder of the model that the weights extend: CLIP, BERT or Qwen2-VL."),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="Rubric of hpsv3: a text, or the path of the authors' data_collator_qwen.py."
        ),
    ] = None,
    sha256: Annotated[str | None, typer.Option(metavar="HEX", help="SHA-256 that the source must have.")] = None,
    activation: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Activation between the layers of a clip_head: none, relu or gelu."),
    ] = None,
    reads: Annotated[
        str | None, typer.Option(metavar="NAME", help="Input of a clip_head: image or image_text.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Convert published weights once to the folder that a judge loads. See docs/judges.md."""
    from pipelines.dispatch import judge_import

    given = {
        "kind": kind,
        "source": source,
        "base": base,
        "template": template,
        "sha256": sha256,
        "activation": activation,
        "reads": reads,
    }
    fields = {name: value for name, value in given.items() if value is not None}
    show(judge_import.import_judge(fields, out), as_json=as_json)
    return DONE


judges_app = stage_group(loop.judges, {"import": import_judge})
prompts_app = command_group({"import": import_prompts}, help="Import a prompt list.")
