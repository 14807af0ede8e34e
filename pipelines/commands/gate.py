"""`plumbline gate` and its sub-commands: decide, give advice, simulate a policy, and explain a decision.

`simulate`, `explain` and `aa` print text, on a terminal and on a pipe; with `--json` they print a value.
"""

import logging
from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands import loop
from pipelines.commands.answers import DONE, GATE_SAID_NO, show, show_text
from pipelines.commands.arguments import AsJson, Project, existing_path
from pipelines.commands.groups import stage_group

logger = logging.getLogger(__name__)

PolicyFile = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help="Project, or a TOML file with the fields of a gate section.", callback=existing_path
    ),
]
DecisionFile = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help="Project, for its last decision, or a decision's JSON file.", callback=existing_path
    ),
]
ProjectFile = Annotated[
    Path,
    typer.Argument(
        metavar="PROJECT", help="Project: its name, or its file projects/NAME.toml.", callback=existing_path
    ),
]
TextAsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def simulate(
    file: PolicyFile,
    *,
    prompts: Annotated[
        int | None,
        typer.Option(metavar="N", help="Number of prompts of an evaluation.", show_default="the project's, else 1632"),
    ] = None,
    simulations: Annotated[
        int, typer.Option(metavar="N", help="Number of evaluations of each kind of candidate.")
    ] = 500,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the random numbers.")] = 0,
    margin_spreads: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Margins of the guards, in standard deviations of a difference.",
            show_default="the last evaluation's, else 0.15",
        ),
    ] = None,
    as_json: TextAsJson = False,
) -> int:
    """Simulate how often a policy promotes candidates of known quality."""
    from pipelines.release.gate import simulated_project
    from pipelines.release.gate.simulation import curve_table, fault_lines
    from pipelines.settings import load_settings

    world = simulated_project.read_world(
        file, settings=load_settings(), num_prompts=prompts, margin_scale=margin_spreads
    )
    outcomes = simulated_project.simulate(
        world, simulations=simulations, seed=seed, after=lambda name: logger.info("simulated: %s", name)
    )
    parts = [simulated_project.world_sentences(world, simulations), [curve_table(outcomes)], fault_lines(outcomes)]
    text = "\n\n".join("\n".join(part) for part in parts if part)
    show_text(text, [outcome.model_dump(mode="json") for outcome in outcomes], as_json=as_json)
    return DONE


def advise(project: ProjectFile, as_json: AsJson = False) -> int:
    """Say what can be shown with the prompts, judges and pairs at hand, which preset fits, and what shows more.

    It evaluates nothing. Win rates are among people; figures are for the first candidate of a quarter, without guards.
    """
    from pipelines.stages import advice

    show(advice.advice(str(project)), as_json=as_json)
    return DONE


def explain(file: DecisionFile, as_json: TextAsJson = False) -> int:
    """Explain the last decision of a project, or the decision in a file, in sentences."""
    from pipelines.release.gate import decision_log
    from pipelines.release.gate import explain as sentences_of
    from pipelines.settings import load_settings

    decision = decision_log.load_decision(file, load_settings())
    sentences = sentences_of.explain(decision)
    show_text("\n".join(sentences), {"verdict": decision.verdict, "sentences": sentences}, as_json=as_json)
    return DONE


def aa(
    project: ProjectFile,
    write: Annotated[bool, typer.Option("--write", help="Write the tie thresholds into the project file.")] = False,
    as_json: TextAsJson = False,
) -> int:
    """Measure each judge's noise: compare the champion with itself on other seeds.

    It prints the tie thresholds that follow from the noise."""
    from alignment.contracts.evaluation import EvalReport
    from pipelines.commands import by_hand
    from pipelines.release.gate import seed_noise
    from pipelines.settings import load_settings
    from pipelines.stages import candidates

    report = EvalReport.model_validate(candidates.aa(str(project), run_key=by_hand.run_key(str(project))))
    noise = seed_noise.noise_of(report, load_settings())
    line = seed_noise.tie_thresholds_toml(noise)
    if write:
        seed_noise.write_tie_thresholds(project, line)
    where = f"Written to {project}:" if write else "Under [evaluation]:"
    text = "\n".join([*seed_noise.noise_sentences(noise), where, line])
    show_text(text, {"noise": [judge.model_dump(mode="json") for judge in noise], "written": write}, as_json=as_json)
    return DONE


def people(
    file: DecisionFile,
    votes: Annotated[
        Path | None,
        typer.Argument(
            metavar="VOTES",
            help="CSV file with the columns prompt and pick (candidate, champion or tie).",
            show_default="the votes of `plumbline vote PROJECT`",
            callback=existing_path,
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Estimate people's win rate from their votes on some prompts.

    The judges' scores on all prompts narrow the interval."""
    from pipelines.stages import ballots

    show(ballots.people_win_rates(file, votes), as_json=as_json)
    return DONE


def compare(
    project: Project,
    first: Annotated[str, typer.Argument(metavar="A", help="Version number, alias, or id of an MLflow run.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The same, or base.")] = "champion",
    as_json: AsJson = False,
) -> int:
    """Compare version A with version B by the gate's checks, and write a page with their images side by side.

    No alias moves and no decision is made. Exit code 0 if A is better, 3 if not."""
    from pipelines.commands import by_hand
    from pipelines.stages import candidates

    found = candidates.compare(project, first, second, run_key=by_hand.run_key(project))
    show(found, as_json=as_json)
    return DONE if found["outcome"] == "better" else GATE_SAID_NO


app = stage_group(loop.gate, {"advise": advise, "simulate": simulate, "explain": explain, "aa": aa, "people": people})
