"""`plumbline doctor`, `up`, `down`, `demo` and `judges import`: commands about the place that Plumbline runs in.

Imported by the command line at every start, so what they need is imported where it is used.
"""

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

DONE, FAILED = 0, 1
JUDGES_IMPORT = "judges import"

Answer = tuple[Any, int]
"""JSON value, None where the command speaks for itself, and exit code."""


def add_platform_commands(commands: Any, *, command: Callable[[argparse.Namespace], int]) -> None:
    """A sub-command for each; `command` runs `arguments.tool` and prints its value."""
    doctor = commands.add_parser("doctor", help="check store, tracking, engine, model; say how to mend each")
    doctor.add_argument("project", nargs="?", help="projects/NAME.toml")
    doctor.set_defaults(command=command, tool=_doctor)
    up = commands.add_parser("up", help="start the embedded platform and stay in the foreground")
    up.add_argument("--airflow-port", type=int, default=0, help="0: any free port")
    up.add_argument("--mlflow-port", type=int, default=0, help="0: any free port")
    up.set_defaults(command=command, tool=_up)
    down = commands.add_parser("down", help="stop the embedded platform")
    down.set_defaults(command=command, tool=_down)
    demo = commands.add_parser("demo", help="the whole loop once on the embedded platform, then stop it")
    demo.add_argument("project", help="projects/NAME.toml")
    add_recipe_arguments(demo)
    demo.set_defaults(command=command, tool=_demo)
    _add_judges_import(commands, command)


def add_recipe_arguments(command: argparse.ArgumentParser) -> None:
    """Overrides, and another recipe than the project's."""
    command.add_argument("overrides", nargs="*", help="recipe overrides, e.g. objective.beta=2000")
    command.add_argument("--recipe", help="train this recipe instead of those of the project")


def take_variant(arguments: argparse.Namespace) -> None:
    """From here on the project is the one with the given recipe, its overrides included."""
    from pipelines.project.recipe_swap import write_variant
    from pipelines.settings import load_settings

    path = write_variant(Path(arguments.project), arguments.recipe, arguments.overrides, load_settings())
    log.info("%s with the recipe %s: %s", arguments.project, arguments.recipe, path)
    arguments.project, arguments.overrides = str(path), []


def _add_judges_import(commands: Any, command: Callable[[argparse.Namespace], int]) -> None:
    bring = commands.add_parser(
        JUDGES_IMPORT, help="convert published weights once to the folder that a judge loads; docs/judges.md"
    )
    bring.add_argument("kind", help="e.g. pickscore, hpsv2, imagereward, aesthetic_v2, hpsv3, clip_head")
    bring.add_argument("source", help="the published file, or the folder of a CLIP")
    bring.add_argument("--out", required=True, help="the judge's folder, not there yet")
    bring.add_argument("--base", help="folder of the model that the weights build on: CLIP, BERT's or Qwen2-VL's")
    bring.add_argument("--template", help="rubric of hpsv3: a text, or the authors' data_collator_qwen.py")
    bring.add_argument("--sha256", help="what the source file must have")
    bring.add_argument("--activation", help="between the layers of a clip_head: none, relu or gelu")
    bring.add_argument("--reads", help="what a clip_head reads: image, or image_text")
    bring.set_defaults(command=command, tool=_import_judge)


def _doctor(arguments: argparse.Namespace) -> Answer:
    from pipelines.platform import doctor
    from pipelines.settings import load_settings
    from pipelines.stages import values

    project = values.read_project(arguments.project) if arguments.project else None
    checks = [check.model_dump(mode="json") for check in doctor.diagnose(project, load_settings())]
    return {"checks": checks}, DONE if all(check["ok"] for check in checks) else FAILED


def _import_judge(arguments: argparse.Namespace) -> Answer:
    from pipelines.dispatch.judge_import import import_judge

    names = ("kind", "source", "base", "template", "sha256", "activation", "reads")
    fields = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    return import_judge(fields, arguments.out), DONE


def _up(arguments: argparse.Namespace) -> Answer:
    from pipelines.platform import foreground

    return None, foreground.stay_up(mlflow_port=arguments.mlflow_port, airflow_port=arguments.airflow_port)


def _down(_: argparse.Namespace) -> Answer:
    from pipelines.platform import services
    from pipelines.settings import load_settings

    return {"stopped": services.stop(load_settings())}, DONE


def _demo(arguments: argparse.Namespace) -> Answer:
    from pipelines.platform import demo

    if arguments.overrides:
        raise ValueError("The DAGs read the project file. Give --recipe NAME with overrides, or write them there.")
    return None, demo.run(arguments.project)
