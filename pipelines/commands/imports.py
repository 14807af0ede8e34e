"""`plumbline canary`, `plumbline prompts import` and `plumbline gate people`: commands on files that people bring.

Imported by the command line at every start, so what they need is imported where it is used.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

DONE, NOT_SHOWN = 0, 3
PROMPTS_IMPORT = "prompts import"
GATE_PEOPLE = "gate people"

Answer = tuple[Any, int]
"""JSON value, and exit code."""


def add_evidence_commands(commands: Any, *, command: Callable[[argparse.Namespace], int]) -> None:
    """A sub-command for each; `command` runs `arguments.tool` and prints its value."""
    text = "the verdict of users' picks between champion and challenger, valid at every look; exit code 3 unless it won"
    canary = commands.add_parser("canary", help=text, description=text)
    canary.add_argument("table", type=Path, help="CSV with the column pick (challenger, champion, tie); user, time")
    canary.add_argument("--confidence", type=float, default=0.95, help="over all looks together")
    canary.add_argument("--required", type=float, default=0.5, help="win rate that the challenger must exceed")
    canary.add_argument("--picks-per-user", type=int, default=1, help="how many of a user's picks count")
    canary.set_defaults(command=command, tool=_canary)
    text = "people's votes on some prompts and the judges' on all: people's win rate, with an interval"
    people = commands.add_parser(GATE_PEOPLE, help=text, description=text)
    people.add_argument("file", type=Path, help="projects/NAME.toml, for its last decision, or a decision's JSON file")
    people.add_argument("votes", type=Path, help="CSV with the columns prompt and pick (candidate, champion, tie)")
    people.set_defaults(command=command, tool=_people)
    text = "a published prompt list to the file that evaluations read"
    bring = commands.add_parser(PROMPTS_IMPORT, help=text, description=text)
    bring.add_argument("source", type=Path, help="the list as it was published; for hps a folder")
    bring.add_argument("--format", required=True, help="parti, geneval, hps, tsv or jsonl")
    bring.add_argument("--out", type=Path, required=True, help="tab separated file to write")
    bring.add_argument("--category", default="", help="column or field to slice by; default: the format's own")
    bring.add_argument("--per-category", type=int, help="keep so many of each category, spread evenly")
    bring.set_defaults(command=command, tool=_import_prompts)


def _canary(arguments: argparse.Namespace) -> Answer:
    from pipelines.monitor.canary import judge_picks

    verdict = judge_picks(
        arguments.table,
        confidence=arguments.confidence,
        required=arguments.required,
        picks_per_user=arguments.picks_per_user,
    )
    won = verdict.verdict == "challenger"
    return verdict.model_dump(mode="json"), DONE if won else NOT_SHOWN


def _import_prompts(arguments: argparse.Namespace) -> Answer:
    from pipelines.intake.prompt_lists import import_prompts

    found = import_prompts(
        arguments.source,
        arguments.format,
        arguments.out,
        category=arguments.category,
        per_category=arguments.per_category,
    )
    return found.model_dump(mode="json"), DONE


def _people(arguments: argparse.Namespace) -> Answer:
    from pipelines.release.gate import human_votes
    from pipelines.settings import load_settings

    found = human_votes.peoples_win_rates(arguments.file, arguments.votes, load_settings())
    return [own.model_dump(mode="json") for own in found], DONE
