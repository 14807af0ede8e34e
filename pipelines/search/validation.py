"""Prompts and judge that rank the trials: prompts neither trained on nor held out, and a judge that loses its vote."""

import hashlib
import logging
import tempfile
from collections.abc import Iterable
from pathlib import Path

from alignment.catalogues.lookup import unknown_name
from alignment.contracts.data import DatasetSnapshot
from alignment.statistics.normal_text import normal_prompt
from alignment.statistics.prompts import HEADER, read_prompts
from pipelines.project.file import Project
from pipelines.project.sections import JudgeSection
from pipelines.records.heldout_prompts import check_not_heldout, heldout_prompts
from pipelines.workspace import Workspace

log = logging.getLogger(__name__)

TEST_FILE = "test.parquet"
FEWEST_PROMPTS = 2
STORE_FOLDER = "searches"


def validation_judge(project: Project) -> JudgeSection:
    """Return the scorer that `search.judge` names; ValueError when there is none of that name.

    Without a name: the first scorer of [online] that is no judge or guard of the gate, else the first judge.
    """
    online = project.online.rewards if project.online else ()
    evaluation = project.evaluation
    if not project.search.judge:
        return (*online, *evaluation.judges)[0]
    scorers = {s.name: s for s in (*evaluation.guards, *evaluation.judges, *online)}
    if project.search.judge not in scorers:
        raise ValueError(f"{project.path}: {unknown_name('search.judge', project.search.judge, scorers)}")
    return scorers[project.search.judge]


def vote_note(project: Project, judge: JudgeSection) -> str:
    """Return the gate's restriction on the judge that chose the recipe; empty when the judge has no vote to lose.

    A guard that chose the recipe may not guard it either, and then the gate refuses the candidate.
    """
    names = [section.name for section in project.evaluation.judges]
    if judge.name in {guard.name for guard in project.evaluation.guards}:
        return (
            f"{judge.name} is a guard and chose this recipe, so it may not guard what the recipe trains and the gate"
            " will refuse it. Name another scorer as search.judge."
        )
    if judge.name not in names:
        return ""
    left, required = len(names) - 1, project.gate.required_judges
    too_few = f" gate.required_judges is {required}: name more judges, or lower it." if left < required else ""
    return f"{judge.name} chose this recipe and may not vote on what it trains; {left} other judges are left.{too_few}"


def for_validation(workspace: Workspace, snapshot: DatasetSnapshot, judge: JudgeSection) -> Project:
    """Return the project with validation prompts, seeds and judge, and no guards, as a trial is evaluated."""
    project = workspace.project
    prompts = _named_prompts(workspace) if project.search.prompts else _test_prompts(workspace, snapshot)
    evaluation = project.evaluation.model_copy(
        update={"prompts": prompts, "seeds": project.search.seeds, "judges": (judge,), "guards": ()}
    )
    return project.model_copy(update={"evaluation": evaluation})


def _named_prompts(workspace: Workspace) -> str:
    """Return the URI of the prompts file that the project names; ValueError when it contains evaluation prompts."""
    uri = workspace.project.search.prompts
    with tempfile.TemporaryDirectory() as scratch:
        prompts = read_prompts(workspace.store.local_path(uri, Path(scratch)))
    check_not_heldout([prompt.text for prompt in prompts], heldout_prompts(workspace.project, workspace.store), uri)
    _check_enough(len(prompts), uri)
    return uri


def _test_prompts(workspace: Workspace, snapshot: DatasetSnapshot) -> str:
    """Return the URI of a prompts file with prompts of the snapshot's test split, chosen by their hash."""
    import pyarrow.parquet as pq

    store = workspace.store
    with tempfile.TemporaryDirectory() as scratch:
        store.fetch_folder(snapshot.uri, Path(scratch) / "snapshot", only=(TEST_FILE,))
        column = pq.read_table(Path(scratch) / "snapshot" / TEST_FILE, columns=["prompt"]).column("prompt")
        chosen = _choose(column.to_pylist(), workspace.project.search.num_prompts)
    _check_enough(len(chosen), f"the test split of snapshot {snapshot.uri}")
    text = "".join(f"{left}\t{right}\n" for left, right in [HEADER, *((prompt, "test_split") for prompt in chosen)])
    digest = hashlib.sha256(text.encode()).hexdigest()
    uri = store.uri(STORE_FOLDER, workspace.project.name, f"prompts_{digest[:16]}.tsv")
    store.write_bytes(uri, text.encode())
    return uri


def _choose(prompts: Iterable[str], most: int) -> list[str]:
    """Return distinct prompts that fit on a line, ordered by sha256: a sample that additional prompts hardly change.

    Of several spellings of one prompt the first in that order is kept.
    """
    whole = {prompt for prompt in prompts if prompt.strip() and not set("\t\r\n") & set(prompt)}
    ordered = sorted(whole, key=lambda prompt: hashlib.sha256(prompt.encode()).hexdigest())
    first = {normal_prompt(prompt): prompt for prompt in reversed(ordered)}
    return [prompt for prompt in ordered if first[normal_prompt(prompt)] == prompt][:most]


def _check_enough(number: int, origin: str) -> None:
    if number < FEWEST_PROMPTS:
        raise ValueError(
            f"{origin} has {number} validation prompts; at least {FEWEST_PROMPTS} are needed and 50 are advisable."
            " Name a file as search.prompts, or raise snapshot.test_share."
        )
