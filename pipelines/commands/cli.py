"""Every stage as a subcommand. One JSON value on stdout, progress and logs on stderr.

Exit codes: 0 done, 1 failed, 2 bad input, 3 the gate said no or a person has to agree. A stage needs only the project:
what it builds on is made first, or found by digest when it was made before. `gate simulate`, `gate explain` and `gate
aa` answer people in text, and with --json as a value.
"""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipelines.commands import champion, gate, imports, platform
from pipelines.host import shell_user
from pipelines.stages import (
    candidates as candidate_stages,
)
from pipelines.stages import (
    champion as champion_stages,
)
from pipelines.stages import (
    jobs,
    monitor,
    pairs,
    training,
    values,
)
from pipelines.stages import (
    judges as judge_stages,
)

Json = dict[str, Any]

DONE, FAILED, BAD_INPUT, GATE_SAID_NO = 0, 1, 2, 3
TWO_WORDS = {
    *gate.GATE_TOOLS,
    imports.PROMPTS_IMPORT,
    imports.GATE_PEOPLE,
    platform.JUDGES_IMPORT,
}
"""Commands of two words, of which the first may be a stage as well."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code."""
    arguments = _parser().parse_args(_joined(list(sys.argv[1:] if argv is None else argv)))
    level = logging.DEBUG if arguments.verbose else logging.INFO
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    for noisy in ("alembic", "httpx", "great_expectations", "urllib3", "botocore", "mlflow"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        if getattr(arguments, "recipe", None):
            platform.take_variant(arguments)
        return command(arguments)
    except ValueError as error:
        print(f"plumbline: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("plumbline: interrupted; run the same command to go on", file=sys.stderr)
        return 130
    except (RuntimeError, OSError, LookupError) as error:
        logging.debug("failed", exc_info=True)
        print(f"plumbline: {error}", file=sys.stderr)
        return FAILED


def _joined(words: list[str]) -> list[str]:
    """`gate simulate ...` as one command beside the stage `gate projects/NAME.toml`."""
    at = next((i for i, word in enumerate(words) if not word.startswith("-")), len(words))
    name = " ".join(words[at : at + 2])
    return [*words[:at], name, *words[at + 2 :]] if name in TWO_WORDS else words


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="plumbline", description="Keeps a text-to-image model aligned with people.")
    parser.add_argument("-v", "--verbose", action="store_true", help="debug logs on stderr")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (command, text) in STAGES.items():
        stage = commands.add_parser(name, help=text, description=text)
        stage.add_argument("project", help="projects/NAME.toml")
        stage.set_defaults(command=command, stage=name)
        if name in RECIPE_STAGES:
            platform.add_recipe_arguments(stage)
        if name in ("evaluate", "coverage", "gate", "promote"):
            stage.add_argument("--version", type=int, help="model version to judge; default: alias candidate")
        if name == "search":
            stage.add_argument("--gpu-memory", type=float, required=True, help="GiB that one process may take")
            stage.add_argument(
                "--hours", type=float, required=True, help="for the search and the winner's run together"
            )
            stage.add_argument("--out", help="recipe file; default: recipes/NAME_search.toml beside the project")
        champion.add_arguments(name, stage)
    gate.add_gate_tools(commands, command=_gate_tool)
    imports.add_evidence_commands(commands, command=_tool)
    platform.add_platform_commands(commands, command=_tool)
    return parser


# --- stages ---------------------------------------------------------------------------------------------------------


def _draw(arguments: argparse.Namespace) -> int:
    if not pairs.drawn_sources(values.read_project(arguments.project)):
        raise ValueError(f'{arguments.project} has no source of kind "self_generated"; there is nothing to draw.')
    return _print(pairs.draw(arguments.project, run_key=_run_key(arguments.project)))


def _ingest(arguments: argparse.Namespace) -> int:
    pairs.draw(arguments.project, run_key=_run_key(arguments.project))
    return _print({"batches": [pairs.ingest(arguments.project, s) for s in pairs.list_shards(arguments.project)]})


def _validate(arguments: argparse.Namespace) -> int:
    return _print({"reports": _reports(arguments.project)})


def _snapshot(arguments: argparse.Namespace) -> int:
    _reports(arguments.project)
    return _print(pairs.snapshot(arguments.project))


def _label(arguments: argparse.Namespace) -> int:
    if values.read_project(arguments.project).labelling is None:
        raise ValueError(
            f"{arguments.project} has no [labelling]. Add one, e.g. judges = [NAME] and"
            ' method = {kind = "proxy_vote"}.'
        )
    labelled = _fresh_snapshot(arguments)
    return _print({"snapshot": labelled, "report": pairs.label_report(labelled)})


def _caption(arguments: argparse.Namespace) -> int:
    path = arguments.project
    values.read_project(path).caption_section()
    snapshot = _fresh_snapshot(arguments)
    return _print(jobs.run_job(path, "caption", {"snapshot": snapshot}, run_key=_run_key(path)))


def _encode(arguments: argparse.Namespace) -> int:
    return _print(_caches(arguments, _fresh_snapshot(arguments)))


def _train(arguments: argparse.Namespace) -> int:
    return _print(_results(arguments, _trainings(arguments)))


def _soup(arguments: argparse.Namespace) -> int:
    if values.read_project(arguments.project, tuple(arguments.overrides)).soup is None:
        raise ValueError(f'{arguments.project} has no [soup]. Add one, with method = "uniform" or "greedy".')
    trainings = _trainings(arguments)
    return _print(_job(arguments, "soup", {"trainings": trainings, "results": _results(arguments, trainings)}))


def _search(arguments: argparse.Namespace) -> int:
    limits = {"gpu_memory_gib": arguments.gpu_memory, "hours": arguments.hours}
    training.check_search(arguments.project, **limits, out=arguments.out)
    _reports(arguments.project)
    snapshot = pairs.snapshot(arguments.project)
    return _print(training.search(arguments.project, snapshot, **limits, out=arguments.out))


def _reward(arguments: argparse.Namespace) -> int:
    if not values.read_project(arguments.project).rewards:
        raise ValueError(f"{arguments.project} has no [[rewards]]. Add one: name, encoder, and a recipe with its head.")
    _reports(arguments.project)
    key = _run_key(arguments.project)
    judges = []
    for plan in training.plan_rewards(arguments.project):
        result = jobs.run_job(arguments.project, "train_reward", plan, run_key=key)
        judges.append(judge_stages.register_reward(arguments.project, plan, result, run_key=key))
    return _print(judges)


def _calibrate(arguments: argparse.Namespace) -> int:
    _reports(arguments.project)
    return _print(_calibrated(arguments.project))


def _monitor(arguments: argparse.Namespace) -> int:
    _reports(arguments.project)
    key, snapshot = _run_key(arguments.project), pairs.snapshot(arguments.project)
    calibration = jobs.run_job(arguments.project, "calibrate", {"snapshot": snapshot}, run_key=key)
    judge_stages.record_calibration(arguments.project, calibration, run_key=key)
    report = monitor.monitor(arguments.project, calibration, run_key=key)
    _print(report)
    return DONE if report["outcome"] == "ok" else GATE_SAID_NO


def _judges(arguments: argparse.Namespace) -> int:
    return _print(judge_stages.judges(arguments.project))


def _register(arguments: argparse.Namespace) -> int:
    return _print(_candidates(arguments))


def _evaluate(arguments: argparse.Namespace) -> int:
    candidate = candidate_stages.pick_candidate(arguments.project, arguments.version)
    return _print(_evaluation(arguments.project, candidate))


def _coverage(arguments: argparse.Namespace) -> int:
    candidate = candidate_stages.pick_candidate(arguments.project, arguments.version)
    return _print(
        jobs.run_job(arguments.project, "coverage", {"candidate": candidate}, run_key=_run_key(arguments.project))
    )


def _gate(arguments: argparse.Namespace) -> int:
    candidate = candidate_stages.pick_candidate(arguments.project, arguments.version)
    decision = _decision(arguments.project, candidate)
    _print(decision)
    return DONE if decision["verdict"] == "promote" else GATE_SAID_NO


def _gate_tool(arguments: argparse.Namespace) -> int:
    value, text = arguments.tool(arguments)
    if arguments.json:
        return _print(value)
    print(text)
    return DONE


def _tool(arguments: argparse.Namespace) -> int:
    """Commands of other files: a value or a text to print, or neither, and an exit code."""
    return _answer(arguments.tool(arguments))


def _promote(arguments: argparse.Namespace) -> int:
    candidate = candidate_stages.pick_candidate(arguments.project, arguments.version)
    if arguments.approve and champion_stages.asks_somebody(arguments.project):
        return _answer(champion.approve(arguments, candidate))
    return _promote_candidates(arguments.project, [candidate])


def _run(arguments: argparse.Namespace) -> int:
    return _promote_candidates(arguments.project, _candidates(arguments))


def _status(arguments: argparse.Namespace) -> int:
    from pipelines.platform.dag_states import read_dag_states
    from pipelines.release import status
    from pipelines.settings import load_settings

    project, settings = values.read_project(arguments.project), load_settings()
    airflow = read_dag_states(project, settings).model_dump(mode="json")
    return _print({**status.status(project, settings), "airflow": airflow})


def _reports(path: str) -> list[Json]:
    pairs.draw(path, run_key=_run_key(path))
    return [pairs.validate(path, pairs.ingest(path, shard)) for shard in pairs.list_shards(path)]


def _fresh_snapshot(arguments: argparse.Namespace) -> Json:
    """What is accepted by now, under the labels that the project wants.

    The project is read first, so that a bad recipe fails before the work begins.
    """
    values.read_project(arguments.project, tuple(getattr(arguments, "overrides", ())))
    _reports(arguments.project)
    plain = pairs.snapshot(arguments.project)
    return pairs.labelled_snapshot(arguments.project, plain, run_key=_run_key(arguments.project))


def _caches(arguments: argparse.Namespace, snapshot: Json) -> list[Json]:
    """A FeatureCache for each distinct snapshot, backbone and cut of the recipes that need one."""
    overrides = tuple(arguments.overrides)
    if training.needs_captioned_snapshot(arguments.project, overrides):
        _job(arguments, "caption", {"snapshot": snapshot})
    encodings = training.plan_encodings(arguments.project, snapshot, overrides)
    return [_job(arguments, "encode", given) for given in encodings]


def _trainings(arguments: argparse.Namespace) -> list[Json]:
    """`given` of a train job per recipe."""
    snapshot = _fresh_snapshot(arguments)
    caches = _caches(arguments, snapshot)
    return training.plan_trainings(arguments.project, snapshot, caches, tuple(arguments.overrides))


def _results(arguments: argparse.Namespace, trainings: list[Json]) -> list[Json]:
    """TrainResult per recipe."""
    return [_job(arguments, "train", given) for given in trainings]


def _candidates(arguments: argparse.Namespace) -> list[Json]:
    """Every run registered; of a project with a soup, that soup alone."""
    key, trainings = _run_key(arguments.project), _trainings(arguments)
    results, user = _results(arguments, trainings), shell_user()
    if values.read_project(arguments.project).soup is not None:
        soup = _job(arguments, "soup", {"trainings": trainings, "results": results})
        return [
            candidate_stages.register_soup(
                arguments.project, trainings, results, soup=soup, run_key=key, trained_by=user
            )
        ]
    return [
        candidate_stages.register(arguments.project, given["snapshot"], result, run_key=key, trained_by=user)
        for given, result in zip(trainings, results, strict=True)
    ]


def _promote_candidates(path: str, candidates: list[Json]) -> int:
    """Gate and promote one candidate after another; 3 when none of them became or was the champion."""
    promotions, champions = [], 0
    for candidate in candidates:
        if candidate_stages.is_challenger(path, candidate):
            decision = _decision(path, candidate)
            promotion = champion_stages.promote(path, decision, actor=shell_user())
            champions += promotion["moved"]
            if promotion["outcome"] == "rejected":
                print(f"plumbline: {champion_stages.who_may_agree(path, decision)}", file=sys.stderr)
        else:
            message = f"Version {candidate['version']} holds the champion's weights already."
            promotion = {"model": candidate["model"], "moved": False, "message": message}
            champions += 1
        promotions.append(promotion)
    _print(promotions)
    return DONE if champions else GATE_SAID_NO


def _decision(path: str, candidate: Json) -> Json:
    if values.read_project(path).gate.maximum_calibration_age_days:
        _calibrated(path)
    evaluation, key = _evaluation(path, candidate), _run_key(path)
    wanted = values.read_project(path).coverage is not None
    coverage = jobs.run_job(path, "coverage", {"candidate": candidate}, run_key=key) if wanted else None
    return candidate_stages.gate(path, candidate, evaluation, run_key=key, coverage=coverage, asked_by=shell_user())


def _calibrated(path: str) -> list[Json]:
    """The judges' calibrations on everything accepted so far; found when nothing is new."""
    report = jobs.run_job(path, "calibrate", {"snapshot": pairs.snapshot(path)}, run_key=_run_key(path))
    return judge_stages.record_calibration(path, report, run_key=_run_key(path))


def _evaluation(path: str, candidate: Json) -> Json:
    return jobs.run_job(path, "evaluate", {"candidate": candidate}, run_key=_run_key(path))


def _job(arguments: argparse.Namespace, stage: str, given: Json) -> Json:
    key, overrides = _run_key(arguments.project), tuple(arguments.overrides)
    return jobs.run_job(arguments.project, stage, given, run_key=key, overrides=overrides, started_by=shell_user())


def _run_key(path: str) -> str:
    """One parent run in MLflow for all that is run by hand for a project."""
    return f"{Path(path).stem}.by_hand"


def _champion(arguments: argparse.Namespace) -> int:
    return _answer(champion.COMMANDS[arguments.stage](arguments))


def _answer(answer: tuple[Any, int]) -> int:
    value, code = answer
    if isinstance(value, str):
        print(value)
    elif value is not None:
        _print(value)
    return code


def _print(value: Any) -> int:
    print(json.dumps(value, indent=2, ensure_ascii=False))
    return DONE


STAGES: dict[str, tuple[Callable[[argparse.Namespace], int], str]] = {
    "draw": (_draw, "pairs of the self_generated sources, drawn by the base model"),
    "ingest": (_ingest, "fetch every shard of every source into an immutable batch"),
    "validate": (_validate, "judge every batch by the data rules; quarantine what breaks them"),
    "snapshot": (_snapshot, "everything accepted so far as a content-addressed data set"),
    "label": (_label, "labels of the training pairs by judges instead of people; with a report"),
    "caption": (_caption, "texts of their own for the snapshot's images, as [captions] says"),
    "encode": (_encode, "VAE latents and text states of the snapshot"),
    "train": (_train, "train every recipe of the project"),
    "soup": (_soup, "average the trained recipes, as the project's [soup] says"),
    "search": (_search, "try recipes within the limits and write the best as a recipe file"),
    "reward": (_reward, "train the project's reward models, report, and register them as judges"),
    "calibrate": (_calibrate, "the judges' agreement with held-out people, kept as records"),
    "judges": (_judges, "which judges may vote, and why the others may not"),
    "register": (_register, "trained weights as model versions, alias candidate"),
    "evaluate": (_evaluate, "candidate, champion and base on the held-out prompts"),
    "coverage": (_coverage, "what the best of several images is worth, for candidate, champion and base"),
    "gate": (_gate, "decide on the candidate; exit code 3 when the answer is no"),
    "promote": (_promote, "decide, and move the champion alias if the gate says so"),
    "run": (_run, "the whole loop, without Airflow"),
    "monitor": (_monitor, "the champion against what came in since; exit code 3 when it asks for something"),
    "rollback": (_champion, "the previous champion, or the base model, back"),
    "reconcile": (_champion, "do alias, ledger and tags agree; exit code 1 when they do not"),
    "ledger": (_champion, "every move of the champion, oldest first"),
    "prune": (_champion, "delete old model versions that no alias and no way back needs"),
    "status": (_status, "champion, candidate, last decision, ledger, paused DAGs"),
}
RECIPE_STAGES = {"encode", "train", "soup", "register", "run"}


if __name__ == "__main__":
    sys.exit(main())
