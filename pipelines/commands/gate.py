"""`plumbline gate simulate`, `gate explain` and `gate aa`: arguments, and the answer as a value and as text.

Imported by the command line at every start, so what they need is imported where it is used.
"""

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

Answer = tuple[Any, str]
"""JSON value, and the same for people."""

logger = logging.getLogger(__name__)


def add_gate_tools(commands: Any, *, command: Callable[[argparse.Namespace], int]) -> None:
    """A sub-command for each tool; `command` runs `arguments.tool`."""
    for name, (tool, text) in GATE_TOOLS.items():
        parser = commands.add_parser(name, help=text, description=text)
        parser.add_argument("file", type=Path, help="projects/NAME.toml" + OTHER_FILES.get(name, ""))
        parser.add_argument("--json", action="store_true", help="one JSON value instead of text")
        parser.set_defaults(command=command, tool=tool)
        if name == "gate simulate":
            _add_simulation(parser)
        if name == "gate aa":
            parser.add_argument("--write", action="store_true", help="put the tie thresholds into the project file")


def _add_simulation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompts", type=int, help="default: the project's, else 1632")
    parser.add_argument("--simulations", type=int, default=500, help="evaluations of each kind of candidate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--margin-spreads",
        type=float,
        help="guards' margins in standard deviations of a difference; default: the last evaluation's, else 0.15",
    )


def simulate(arguments: argparse.Namespace) -> Answer:
    """The operating curve of a policy."""
    from pipelines.release.gate import simulated_project
    from pipelines.release.gate.simulation import curve_table, fault_lines
    from pipelines.settings import load_settings

    world = simulated_project.read_world(
        arguments.file,
        settings=load_settings(),
        num_prompts=arguments.prompts,
        margin_spreads=arguments.margin_spreads,
    )
    outcomes = simulated_project.simulate(
        world,
        simulations=arguments.simulations,
        seed=arguments.seed,
        after=lambda name: logger.info("simulated: %s", name),
    )
    parts = [
        simulated_project.world_sentences(world, arguments.simulations),
        [curve_table(outcomes)],
        fault_lines(outcomes),
    ]
    text = "\n\n".join("\n".join(part) for part in parts if part)
    return [outcome.model_dump(mode="json") for outcome in outcomes], text


def explain(arguments: argparse.Namespace) -> Answer:
    """A decision in sentences."""
    from pipelines.release.gate import decision_log
    from pipelines.release.gate import explain as sentences_of
    from pipelines.settings import load_settings

    decision = decision_log.load_decision(arguments.file, load_settings())
    sentences = sentences_of.explain(decision)
    return {"verdict": decision.verdict, "sentences": sentences}, "\n".join(sentences)


def aa(arguments: argparse.Namespace) -> Answer:
    """The judges' noise, and the tie thresholds that follow from it."""
    from alignment.contracts.evaluation import EvalReport
    from pipelines.release.gate import seed_noise
    from pipelines.settings import load_settings
    from pipelines.stages import candidates

    path = str(arguments.file)
    report = EvalReport.model_validate(candidates.aa(path, run_key=f"{arguments.file.stem}.by_hand"))
    noise = seed_noise.noise_of(report, load_settings())
    line = seed_noise.tie_thresholds_toml(noise)
    if arguments.write:
        seed_noise.write_tie_thresholds(arguments.file, line)
    where = f"Written to {path}:" if arguments.write else "Under [evaluation]:"
    value = {"noise": [own.model_dump(mode="json") for own in noise], "written": arguments.write}
    return value, "\n".join([*seed_noise.noise_sentences(noise), where, line])


GATE_TOOLS: dict[str, tuple[Callable[[argparse.Namespace], Answer], str]] = {
    "gate simulate": (simulate, "how often a policy would promote candidates whose truth is known"),
    "gate explain": (explain, "the last decision, or a decision's file, in sentences"),
    "gate aa": (aa, "the champion against itself on other seeds: the judges' noise and the tie thresholds"),
}
OTHER_FILES = {
    "gate simulate": ", or a TOML file with the fields of [gate]",
    "gate explain": ", or a decision's JSON file",
}
