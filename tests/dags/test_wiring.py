"""Every DAG parses, has owner and retries, the expected edges, and GPU tasks in the GPU pool."""

import copy
import importlib.util
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException, ParamValidationError
from airflow.serialization.serialized_objects import DagSerialization
from airflow.timetables.base import TimeRestriction

from pipelines.contracts.monitor import MonitorFinding, MonitorReport, RetrainEntry
from pipelines.dispatch.job_kinds import JOB_KINDS, find_kind
from pipelines.monitor import report as monitor_report
from pipelines.project.file import load_project
from pipelines.release import awaiting
from pipelines.settings import load_settings
from pipelines.stages import candidates, champion, monitor, pairs, pool
from pipelines.workspace import Workspace

ROOT = Path(__file__).parents[2]
TRAIN = '[[train]]\nrecipe = "diffusion_dpo_shapes"\n'
EDGES = {
    "shapes.ingest": {
        ("list_shards", "ingest_shard"),
        ("list_shards", "announce_pairs"),
        ("ingest_shard", "announce_pairs"),
        ("ingest_shard", "every_shard_read"),
    },
    "shapes.train": {
        ("build_snapshot", "enough_new_pairs"),
        ("build_snapshot", "plan_encodings"),
        ("build_snapshot", "plan_trainings"),
        ("enough_new_pairs", "plan_encodings"),
        ("enough_new_pairs", "plan_trainings"),
        ("plan_encodings", "encode"),
        ("encode", "plan_trainings"),
        ("plan_trainings", "train"),
        ("plan_trainings", "register"),
        ("train", "register"),
    },
    "shapes.promote": {
        ("pick_candidate", "is_challenger"),
        ("pick_candidate", "evaluate"),
        ("pick_candidate", "gate"),
        ("is_challenger", "evaluate"),
        ("pick_candidate", "coverage"),
        ("evaluate", "coverage"),
        ("evaluate", "gate"),
        ("coverage", "gate"),
        ("gate", "promote"),
        ("versions_to_judge", "pick_candidate"),
        ("versions_to_judge", "list_next"),
        ("list_next", "judge_next"),
    },
    "shapes.rollback": set(),
    "shapes.calibrate": {("build_snapshot", "calibrate"), ("calibrate", "record")},
    "shapes.monitor": {
        ("build_snapshot", "calibrate"),
        ("calibrate", "monitor"),
        ("monitor", "is_retraining_announced"),
        ("monitor", "announce_retraining"),
        ("monitor", "alarm"),
        ("is_retraining_announced", "announce_retraining"),
    },
    "shapes.reconcile": {("reconcile", "sound_the_alarm")},
    "shapes.reward": {
        ("build_snapshots", "train_reward"),
        ("build_snapshots", "register"),
        ("train_reward", "register"),
    },
}


def read_dags(projects_dir: Path, airflow_home: Path) -> dict[str, Any]:
    """Return the DAGs that Airflow makes of a folder of projects."""
    found: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_HOME", str(airflow_home))
        patch.setenv("PLUMBLINE_PROJECTS_DIR", str(projects_dir))
        for path in sorted((ROOT / "dags").glob("*.py")):
            if path.name in ("__init__.py", "assets.py"):
                continue
            spec = importlib.util.spec_from_file_location(f"wiring_{path.stem}", path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            found |= {name: value for name, value in vars(module).items() if name.startswith("shapes.")}
    return found


def edges(dag: Any) -> set[tuple[str, str]]:
    """Return the pairs of a task and the task that directly follows it."""
    return {(task.task_id, child) for task in dag.tasks for child in task.downstream_task_ids}


LABELLED = """
[labelling]
judges = ["taste_a"]
method = { kind = "proxy_vote" }
"""
DRAWN = """
[[sources]]
name = "style"
kind = "self_generated"
licence = "CC0-1.0"
[sources.draw]
prompts = "few.txt"
chosen_template = "{prompt}, bright"
seeds = [0]
sampler = { steps = 5 }
"""


@pytest.fixture(scope="module")
def dags(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return read_dags(ROOT / "projects", tmp_path_factory.mktemp("airflow"))


@pytest.fixture
def dags_with(tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """The DAGs of the shapes project with other sections in place of its `[[train]]`."""

    def make(sections: str) -> dict[str, Any]:
        text = (ROOT / "projects" / "shapes.toml").read_text().replace('"../examples', f'"{ROOT}/examples')
        assert TRAIN in text
        (tmp_path / "shapes.toml").write_text(text.replace(TRAIN, sections))
        return read_dags(tmp_path, tmp_path / "airflow")

    return make


def test_every_dag_exists(dags: dict[str, Any]) -> None:
    assert set(dags) == set(EDGES)


@pytest.mark.parametrize("dag_id", EDGES)
def test_edges(dags: dict[str, Any], dag_id: str) -> None:
    assert edges(dags[dag_id]) == EDGES[dag_id]


def test_a_soup_runs_between_training_and_a_single_registration(dags_with: Callable[[str], dict[str, Any]]) -> None:
    train = dags_with(f'{TRAIN}{TRAIN}overrides = ["seed=8"]\n[soup]\nmethod = "uniform"\n')["shapes.train"]
    usual = EDGES["shapes.train"]
    assert edges(train) == usual | {("plan_trainings", "soup"), ("train", "soup"), ("soup", "register")}
    mapped = {task.task_id for task in train.tasks if task.is_mapped}
    assert mapped == {"encode", "train"}, "one soup is registered once"
    soup, register = train.get_task("soup"), train.get_task("register")
    assert (soup.pool, soup.retries, [a.name for a in register.outlets]) == ("gpu", 2, ["shapes.candidate"])


def test_recipes_that_share_errors_of_the_base_compute_them_once_before(
    dags_with: Callable[[str], dict[str, Any]],
) -> None:
    train = dags_with(f'{TRAIN}{TRAIN}overrides = ["objective.beta=500"]\n')["shapes.train"]
    assert edges(train) == EDGES["shapes.train"] | {
        ("build_snapshot", "plan_references"),
        ("encode", "plan_references"),
        ("plan_references", "reference"),
        ("reference", "plan_trainings"),
    }
    once = train.get_task("reference")
    assert once.is_mapped
    assert once.partial_kwargs["pool"] == "gpu"


def test_without_a_soup_every_run_is_registered(dags: dict[str, Any]) -> None:
    mapped = {task.task_id for task in dags["shapes.train"].tasks if task.is_mapped}
    assert mapped == {"encode", "train", "register"}


def test_a_project_whose_recipes_are_all_online_encodes_nothing(dags_with: Callable[[str], dict[str, Any]]) -> None:
    train = dags_with('[[train]]\nrecipe = "prdp_shapes"\n')["shapes.train"]
    encoding = {"plan_encodings", "encode"}
    assert edges(train) == {edge for edge in EDGES["shapes.train"] if not encoding & set(edge)}
    beside = dags_with(f'{TRAIN}[[train]]\nrecipe = "prdp_shapes"\n')["shapes.train"]
    assert edges(beside) == EDGES["shapes.train"], "the other recipe still wants its features"


def test_rewards_are_trained_on_new_pairs_or_by_their_own_schedule(
    dags: dict[str, Any], dags_with: Callable[[str], dict[str, Any]]
) -> None:
    asked = dags["shapes.reward"].timetable.asset_condition.objects
    assert [asset.name for asset in asked] == ["shapes.pairs"]
    by_cron = dags_with(f'{TRAIN}[schedule]\nreward = "@weekly"\n')["shapes.reward"]
    assert by_cron.schedule == "@weekly"
    mapped = {task.task_id for task in by_cron.tasks if task.is_mapped}
    assert mapped == {"train_reward", "register"}, "one of each per reward"


def test_a_project_without_rewards_has_no_reward_dag(tmp_path: Path) -> None:
    text = (ROOT / "projects" / "shapes.toml").read_text().replace('"../examples', f'"{ROOT}/examples')
    start, end = text.index("[[rewards]]"), text.index("[evaluation]")
    (tmp_path / "shapes.toml").write_text(text[:start] + text[end:])
    assert set(read_dags(tmp_path, tmp_path / "airflow")) == set(EDGES) - {"shapes.reward"}


def test_no_task_depends_on_one_that_may_be_skipped(dags: dict[str, Any]) -> None:
    """The tasks that skip also skip everything downstream: the default trigger rule fits everywhere.

    Only the monitor compares alias and ledger even when the judges could not be scored; it is skipped with its
    snapshot. Pairs are announced although some of the shards failed.
    """
    rules = {(dag_id, task.task_id): task.trigger_rule.value for dag_id, dag in dags.items() for task in dag.tasks}
    assert rules.pop(("shapes.monitor", "monitor")) == "none_skipped"
    assert rules.pop(("shapes.ingest", "announce_pairs")) == "all_done"
    assert set(rules.values()) == {"all_success"}


APPROVAL = '[approval]\nmode = "required"\napprovers = ["ada"]\ntimeout_hours = 2\n'


def test_a_decision_is_put_to_people_in_a_run_that_keeps_no_other_version_waiting(
    dags_with: Callable[[str], dict[str, Any]],
) -> None:
    found = dags_with(f"{TRAIN}{APPROVAL}")
    judging, asking = found["shapes.promote"], found["shapes.approve"]
    asked = {("gate", "list_approval"), ("list_approval", "ask")}
    assert edges(judging) == EDGES["shapes.promote"] - {("gate", "promote")} | asked
    assert edges(asking) == {
        ("find_decision", "approve"),
        ("find_decision", "promote"),
        ("approve", "promote"),
    }
    assert (judging.max_active_runs, asking.max_active_runs, asking.is_paused_upon_creation) == (1, 100, False)
    assert {key: asking.params.get_param(key).schema["type"] for key in asking.params} == {
        "decision": "string",
        "asked_by": "string",
    }
    approve = asking.get_task("approve")
    assert approve.response_timeout.total_seconds() == 7200
    assert approve.defaults == ["Reject"], "no answer is no"
    assert approve.execution_timeout is None
    asked_by = judging.get_task("gate").op_args[-1]
    assert "triggering_user_name" in asked_by, "who had it decided may not approve it at a shell either"


def test_reconcile_runs_by_its_schedule(dags: dict[str, Any], dags_with: Callable[[str], dict[str, Any]]) -> None:
    assert dags["shapes.reconcile"].schedule == "@hourly"
    assert dags_with(f'{TRAIN}[schedule]\nreconcile = "@daily"\n')["shapes.reconcile"].schedule == "@daily"


def test_lost_runs_are_closed_whether_or_not_the_champion_can_be_determined(dags: dict[str, Any]) -> None:
    task = dags["shapes.reconcile"].get_task("close_lost_runs")
    assert task.upstream_task_ids == task.downstream_task_ids == set()


def test_notifications_are_sent_only_where_the_project_configures_them(
    dags: dict[str, Any], dags_with: Callable[[str], dict[str, Any]]
) -> None:
    def notified(found: dict[str, Any], kind: str) -> set[str]:
        return {f"{dag.dag_id} {task.task_id}" for dag in found.values() for task in dag.tasks if getattr(task, kind)}

    assert notified(dags, "on_success_callback") == notified(dags, "on_failure_callback") == set()
    notifying = dags_with(f'{TRAIN}[notify.webhook]\nconnection = "chat"\n')
    assert notified(notifying, "on_success_callback") == {
        "shapes.promote promote",
        "shapes.rollback rollback",
        "shapes.reconcile reconcile",
    }
    everything = {f"{dag.dag_id} {task.task_id}" for dag in notifying.values() for task in dag.tasks}
    assert notified(notifying, "on_failure_callback") == everything - {"shapes.reconcile sound_the_alarm"}
    quiet = dags_with(f'{TRAIN}[notify]\non = ["alarm"]\nwebhook = {{ connection = "chat" }}\n')
    assert notified(quiet, "on_failure_callback") == {"shapes.monitor alarm"}
    for found in (notifying, quiet):
        [notifier] = found["shapes.monitor"].get_task("alarm").on_failure_callback
        assert (notifier.event, notifier.report_of) == ("alarm", "monitor"), (
            "an alarm is notified as one, with its report"
        )


def test_assets_link_the_dags(dags: dict[str, Any]) -> None:
    produced = {a.name for d in dags.values() for t in d.tasks for a in t.outlets}
    conditions = [getattr(dag.timetable, "asset_condition", None) for dag in dags.values()]
    wanted = {asset.name for condition in conditions if condition for asset in condition.objects}
    assert produced == wanted == {f"shapes.{name}" for name in ("pairs", "candidate", "judges", "retrain")}


def names_any(dag: Any) -> set[str]:
    """Return the assets of which one is enough."""
    condition = dag.timetable.asset_condition
    assert type(condition).__name__ == "AssetAny"
    return {asset.name for asset in condition.objects}


def test_training_starts_on_new_pairs_or_on_the_monitors_request(
    dags: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert names_any(dags["shapes.train"]) == {"shapes.pairs", "shapes.retrain"}
    check = dags["shapes.train"].get_task("enough_new_pairs").python_callable
    asked = [SimpleNamespace(name="shapes.retrain")]
    path = str(ROOT / "projects/shapes.toml")
    monkeypatch.setenv("PLUMBLINE_STORE_URI", tmp_path.as_uri())
    closed: list[str] = []
    monkeypatch.setattr(pairs, "enough_new_pairs", lambda *_: False)
    monkeypatch.setattr(pairs, "close_run", lambda _path, run_key: closed.append(run_key))
    assert check(path, {}, "run-1", triggering_asset_events=asked), "no minimum of new pairs stands in its way"
    assert not check(path, {}, "run-2", triggering_asset_events=[SimpleNamespace(name="shapes.pairs")])
    assert closed == ["run-2"], "its run in MLflow has the data report, and nothing follows"


def test_the_next_run_handles_a_retraining_whose_event_was_not_delivered(
    dags: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NAME.train was paused while the monitor raised the event, so that Airflow queued nothing."""
    monkeypatch.setenv("PLUMBLINE_STORE_URI", tmp_path.as_uri())
    monkeypatch.setattr(pairs, "enough_new_pairs", lambda *_: False)
    monkeypatch.setattr(pairs, "close_run", lambda _path, run_key: None)
    project, path = load_project(ROOT / "projects/shapes.toml"), str(ROOT / "projects/shapes.toml")
    monitor_report.claim(Workspace(project, load_settings()), ("drift",), key="monitor-1", now=datetime.now(UTC))
    check = dags["shapes.train"].get_task("enough_new_pairs").python_callable
    by_pairs = [SimpleNamespace(name="shapes.pairs")]
    assert check(path, {}, "run-1", triggering_asset_events=by_pairs)
    assert check(path, {}, "run-1", triggering_asset_events=by_pairs), "a retry of the run that took it"
    assert not check(path, {}, "run-2", triggering_asset_events=by_pairs), "one retraining, one run"


def test_training_by_the_clock_runs_beside_the_data_trigger(
    dags: dict[str, Any], dags_with: Callable[[str], dict[str, Any]]
) -> None:
    assert type(dags["shapes.train"].timetable).__name__ == "AssetTriggeredTimetable", "without the field: data alone"
    train = dags_with(f'{TRAIN}[schedule]\ntrain = "30 4 * * 1"\n')["shapes.train"]
    assert names_any(train) == {"shapes.pairs", "shapes.retrain"}
    stored = DagSerialization.from_dict(DagSerialization.to_dict(train)).timetable
    assert stored.summary == "Asset or 30 4 * * 1"
    restriction = TimeRestriction(earliest=None, latest=None, catchup=False)
    run = stored.next_dagrun_info(last_automated_data_interval=None, restriction=restriction)
    assert run is not None
    assert (run.run_after.isoweekday(), run.run_after.hour, run.run_after.minute) == (1, 4, 30)
    assert run.run_after > datetime.now(UTC), "nothing runs at once when the DAG is created"


def test_schedules_are_in_the_projects_time_zone(dags_with: Callable[[str], dict[str, Any]]) -> None:
    times = 'ingest = "0 6 * * *"\ntrain = "30 4 * * 1"\nreward = "@weekly"\nreconcile = "@once"\n'
    zone = 'timezone = "Europe/Berlin"\n'
    found = dags_with(f'{TRAIN}[schedule]\n{times}{zone}[monitor]\nschedule = "0 7 * * *"\n')
    restriction = TimeRestriction(earliest=None, latest=None, catchup=False)
    for name, hour in (("ingest", 6), ("train", 4), ("reward", 0), ("monitor", 7)):
        stored = DagSerialization.from_dict(DagSerialization.to_dict(found[f"shapes.{name}"])).timetable
        run = stored.next_dagrun_info(last_automated_data_interval=None, restriction=restriction)
        assert run is not None
        assert run.run_after.in_timezone("Europe/Berlin").hour == hour, name
    assert found["shapes.reconcile"].schedule == "@once"


def test_dags_are_created_paused_as_the_project_says(
    dags: dict[str, Any], dags_with: Callable[[str], dict[str, Any]]
) -> None:
    guarding = {"monitor", "reconcile", "rollback"}
    for paused, found in ((None, dags), (True, dags_with(f"{TRAIN}[schedule]\npaused = true\n"))):
        states = {dag_id.partition(".")[2]: dag.is_paused_upon_creation for dag_id, dag in found.items()}
        assert states == {name: False if name in guarding else paused for name in states}


def test_a_scheduled_run_trains_with_any_number_of_new_pairs(
    dags: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLUMBLINE_STORE_URI", tmp_path.as_uri())
    monkeypatch.setattr(pairs, "enough_new_pairs", lambda path, snapshot: False)
    monkeypatch.setattr(pairs, "close_run", lambda _path, run_key: None)
    check, path = dags["shapes.train"].get_task("enough_new_pairs").python_callable, str(ROOT / "projects/shapes.toml")
    assert check(path, {}, "run-1", dag_run=SimpleNamespace(run_type="scheduled"))
    assert not check(path, {}, "run-1", dag_run=SimpleNamespace(run_type="manual"))


def test_judges_are_calibrated_on_new_pairs_and_after_a_reward_training(
    dags: dict[str, Any], dags_with: Callable[[str], dict[str, Any]]
) -> None:
    assert names_any(dags["shapes.calibrate"]) == {"shapes.pairs", "shapes.judges"}
    assert dags["shapes.monitor"].schedule == "@daily"
    hourly = dags_with(f'{TRAIN}[monitor]\nschedule = "@hourly"\n')["shapes.monitor"]
    assert hourly.schedule == "@hourly"


def test_the_parameters_of_a_rollback_are_validated_and_passed_on(
    dags: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    params = copy.deepcopy(dags["shapes.rollback"].params)
    plain = {"from_version": None, "to_version": None, "to_base": False, "forward": False}
    assert params.dump() == {"reason": None, **plain}, "whoever gives a reason only goes to the champion before"
    right = {"reason": "too dark", "from_version": 3, "to_version": 2, "to_base": True, "forward": True}
    wrong = {"reason": "", "from_version": "three", "to_version": 0, "to_base": "yes", "forward": "yes"}
    for name, value in right.items():
        assert params.get_param(name).resolve(value) == value
        with pytest.raises(ParamValidationError):
            params.get_param(name).resolve(wrong[name])
    given: list[dict[str, Any]] = []
    monkeypatch.setattr(champion, "rollback", lambda path, **order: given.append(order))
    dags["shapes.rollback"].get_task("rollback").python_callable("p.toml", "ada", params=right)
    assert given == [{"actor": "ada", **right}]


PARAMS = {
    "shapes.train": {"generation": "integer"},
    "shapes.reward": {"generation": "integer"},
    "shapes.promote": {"generation": "integer", "version": "integer", "tried": "array", "anonymous": "boolean"},
    "shapes.rollback": {
        "reason": "string",
        "from_version": ["null", "integer"],
        "to_version": ["null", "integer"],
        "forward": "boolean",
        "to_base": "boolean",
    },
}
BOUNDS = {
    "integer": {"minimum", "maximum"},
    "array": {"items", "maxItems"},
    "string": {"minLength", "maxLength", "pattern"},
    "boolean": set(),
}


def test_no_parameter_of_a_dag_can_name_a_path_an_image_or_an_entry_point(dags: dict[str, Any]) -> None:
    found = {name: {key: dag.params.get_param(key) for key in dag.params} for name, dag in dags.items()}
    types = {name: {key: param.schema["type"] for key, param in params.items()} for name, params in found.items()}
    assert types == {name: PARAMS.get(name, {}) for name in dags}
    for param in (param for params in found.values() for param in params.values()):
        kind = param.schema["type"]
        kind = kind[-1] if isinstance(kind, list) else kind
        assert BOUNDS[kind] <= set(param.schema), param.schema
    [items] = [
        param.schema["items"] for params in found.values() for param in params.values() if "items" in param.schema
    ]
    assert items["type"] == "integer"


def test_other_names_in_the_conf_of_a_run_reach_no_code(dags: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow adds every name in the conf of a run to its params."""
    other = {
        "path": "/tmp/evil.toml",
        "project_path": "/tmp/evil.toml",
        "by_event": True,
        "actor": "root",
        "stage": "x",
    }
    given: list[tuple[Any, ...]] = []
    monkeypatch.setattr(pool, "check_pool", lambda path: None)
    monkeypatch.setattr(candidates, "versions_to_judge", lambda *names, **order: given.append((*names, order)))
    monkeypatch.setattr(champion, "rollback", lambda *names, **order: given.append((*names, order)))
    judged, back = dags["shapes.promote"], dags["shapes.rollback"]
    run = SimpleNamespace(run_type="manual")
    judged.get_task("versions_to_judge").python_callable("p.toml", params=judged.params.dump() | other, dag_run=run)
    back.get_task("rollback").python_callable("p.toml", "ada", params=back.params.dump() | other)
    numbers = {"generation": 0, "version": 0, "tried": []}
    moves = {"reason": None, "from_version": None, "to_version": None, "to_base": False, "forward": False}
    assert given == [("p.toml", {"by_event": False, **numbers}), ("p.toml", {"actor": "ada", **moves})]


def test_retraining_is_announced_only_when_the_report_requests_it(dags: dict[str, Any]) -> None:
    check = dags["shapes.monitor"].get_task("is_retraining_announced").python_callable
    assert check({"retrain": "due"})
    assert not any(check({"retrain": other}) for other in ("not_needed", "held_back", "advised"))


def test_the_snapshot_of_a_training_shows_its_data_report_in_the_runs_own_page(
    dags: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "check_pool", lambda path: None)
    monkeypatch.setattr(pairs, "snapshot", lambda path, run_key: {"path": path, "key": run_key})
    build = dags["shapes.train"].get_task("build_snapshot")
    assert build.python_callable("p.toml", "shapes.train/1") == {"path": "p.toml", "key": "shapes.train/1"}
    assert build.op_args[1] == "{{ dag_run.dag_id }}/{{ run_id }}"


def test_the_monitor_is_skipped_before_the_first_pair_and_promotion(
    dags: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "check_pool", lambda path: None)
    monkeypatch.setattr(pairs, "snapshot", lambda path: {"path": path})
    build = dags["shapes.monitor"].get_task("build_snapshot").python_callable
    monkeypatch.setattr(monitor, "has_anything_to_monitor", lambda path: False)
    with pytest.raises(AirflowSkipException, match="No pair was accepted"):
        build("shapes.toml")
    monkeypatch.setattr(monitor, "has_anything_to_monitor", lambda path: True)
    assert build("shapes.toml") == {"path": "shapes.toml"}


def test_a_retraining_is_claimed_once_when_it_is_announced(
    dags: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLUMBLINE_STORE_URI", tmp_path.as_uri())
    report = MonitorReport(
        project="shapes",
        at=datetime(2026, 6, 1, tzinfo=UTC),
        champion_version=1,
        snapshot_digest=None,
        num_fresh_pairs=0,
        findings=(MonitorFinding(name="drift:width", measured=1, limit="", status="retrain", explanation="wider"),),
        outcome="retrain",
        retrain="due",
        uri="s3://report",
    ).model_dump(mode="json")

    def announce(run_key: str) -> dict[str, Any]:
        """Return the extra of the event that the task raises."""
        events: Any = defaultdict(SimpleNamespace)
        task = dags["shapes.monitor"].get_task("announce_retraining")
        task.python_callable(str(ROOT / "projects" / "shapes.toml"), report, run_key, outlet_events=events)
        return {asset.name: event.extra for asset, event in events.items()}

    raised = {"shapes.retrain": {"report_uri": "s3://report"}}
    assert announce("run-1") == raised
    assert announce("run-1") == raised, "a retry"
    with pytest.raises(AirflowSkipException):
        announce("run-2")
    [kept] = (tmp_path / "monitor" / "shapes" / "retrains").iterdir()
    assert RetrainEntry.model_validate_json(kept.read_bytes()).reasons == ("wider",)


class Promote:
    """Runs of the promote DAG on a registry in memory, one after another, as Airflow would start them."""

    def __init__(self, dag: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.dag, self.undecided, self.judged, self.known = dag, set[int](), list[int](), set[str]()
        monkeypatch.setattr(awaiting, "awaiting_judgement", lambda *_: sorted(self.undecided, reverse=True))
        monkeypatch.setattr(candidates, "pick_candidate", lambda path, version: {"version": version})

    def call(self, name: str, *given: Any, **context: Any) -> Any:
        return self.dag.get_task(name).python_callable(*given, **context)

    def run(self, run_type: str, run_id: str, *, conf: dict[str, Any] | None = None, failing: int = 0) -> None:
        """Start a run and those that it starts; the evaluation of version `failing` fails."""
        if run_id in self.known:
            return
        self.known.add(run_id)
        params = {name: param.value for name, param in self.dag.params.items()} | (conf or {})
        dag_run = SimpleNamespace(run_type=run_type, run_id=run_id, triggering_user_name=None)
        path = str(ROOT / "projects/shapes.toml")
        versions = self.call("versions_to_judge", path, params=params, dag_run=dag_run)
        if versions:
            version = self.call("pick_candidate", "shapes.toml", versions)["version"]
            self.judged.append(version)
            self.undecided -= {version} - {failing}
            for following in self.call("list_next", versions, params=params, dag_run=dag_run):
                self.run("operator_triggered", following["trigger_run_id"], conf=following["conf"], failing=failing)


def test_every_candidate_is_judged_when_only_one_event_of_three_is_delivered(
    dags: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Versions 4, 5 and 6 were registered while a run was active; Airflow hands the next run the event of 4 only."""
    promote = Promote(dags["shapes.promote"], monkeypatch)
    promote.undecided = {4, 5, 6}
    promote.run("asset_triggered", "asset_triggered__4")
    assert promote.judged == [6, 5, 4], "each once, whatever the event says"
    promote.run("asset_triggered", "asset_triggered__5")
    assert promote.judged == [6, 5, 4], "a late event finds everything decided"


def test_a_version_whose_run_failed_blocks_no_other_and_is_judged_again_on_the_next_event(
    dags: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    promote = Promote(dags["shapes.promote"], monkeypatch)
    promote.undecided = {4, 5, 6}
    promote.run("asset_triggered", "asset_triggered__a", failing=5)
    assert (promote.judged, promote.undecided) == ([6, 5, 4], {5})
    promote.undecided |= {7}
    promote.run("asset_triggered", "asset_triggered__b")
    assert (promote.judged[3:], promote.undecided) == ([7, 5], set())


def test_a_run_with_a_version_judges_that_one_only(dags: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    promote = Promote(dags["shapes.promote"], monkeypatch)
    promote.undecided = {4, 5, 6}
    promote.run("manual", "manual__1", conf={"version": 3})
    assert (promote.judged, promote.undecided) == ([3], {4, 5, 6})


def test_the_following_run_is_started_once_and_is_queued(dags: dict[str, Any]) -> None:
    promote = dags["shapes.promote"]
    trigger = promote.get_task("judge_next")
    assert trigger.is_mapped
    assert trigger.partial_kwargs["trigger_dag_id"] == "shapes.promote"
    assert trigger.partial_kwargs["skip_when_already_exists"], "a retry starts nothing twice"
    assert promote.max_active_runs == 1, "one after another, against the champion of that time"
    for value, ok in (([3, 2], True), (["3"], False), ([0], False), (3, False)):
        param = copy.deepcopy(promote.params).get_param("tried")
        if ok:
            assert param.resolve(value) == value
        else:
            with pytest.raises(ParamValidationError):
                param.resolve(value)


def test_owner_retries_and_one_run_at_a_time(dags: dict[str, Any]) -> None:
    for dag in dags.values():
        assert dag.max_active_runs == 1
        for task in dag.tasks:
            assert task.owner == "plumbline"
            assert task.retries == (0 if task.task_id in ("rollback", "alarm", "sound_the_alarm") else 2)


def test_only_monitor_reconcile_and_rollback_are_created_unpaused(dags: dict[str, Any]) -> None:
    unpaused = {dag_id for dag_id, dag in dags.items() if dag.is_paused_upon_creation is False}
    assert unpaused == {"shapes.monitor", "shapes.reconcile", "shapes.rollback"}
    assert all(dag.is_paused_upon_creation is None for name, dag in dags.items() if name not in unpaused)


def test_a_task_takes_a_slot_for_each_process_of_its_job(dags_with: Callable[[str], dict[str, Any]]) -> None:
    """Jobs of the engine local share a host, so each takes the slots of the largest; on Ray each takes its own."""
    local = dags_with(TRAIN)
    slots = {task.task_id: task.pool_slots for dag in local.values() for task in dag.tasks if task.pool == "gpu"}
    assert set(slots.values()) == {2}
    ray = dags_with(f'{TRAIN}[placement.reward]\nengine = "ray"\nnum_processes = 8\n')
    slots = {task.task_id: task.pool_slots for dag in ray.values() for task in dag.tasks if task.pool == "gpu"}
    assert {name: number for name, number in slots.items() if number != 2} == {"train_reward": 8}
    others = {task.pool_slots for dag in ray.values() for task in dag.tasks if task.pool != "gpu"}
    assert others == {1}


@pytest.mark.parametrize(
    ("dag_id", "task_id"),
    [
        ("train", "build_snapshot"),
        ("calibrate", "build_snapshot"),
        ("monitor", "build_snapshot"),
        ("reward", "build_snapshots"),
        ("promote", "versions_to_judge"),
    ],
)
def test_a_run_begins_with_a_look_at_the_pool(
    dags: dict[str, Any], monkeypatch: pytest.MonkeyPatch, dag_id: str, task_id: str
) -> None:
    """Airflow lets a task wait without a word that needs more slots than its pool has."""

    def fault(path: str) -> None:
        raise ValueError(f"{path}: the pool is too small")

    monkeypatch.setattr(pool, "check_pool", fault)
    monkeypatch.setattr(monitor, "has_anything_to_monitor", lambda path: True)
    with pytest.raises(ValueError, match=r"p.toml: the pool is too small"):
        dags[f"shapes.{dag_id}"].get_task(task_id).python_callable("p.toml")


def test_gpu_tasks_use_the_gpu_pool(dags: dict[str, Any]) -> None:
    pools = {task.task_id: task.pool for dag in dags.values() for task in dag.tasks}
    on_gpu = {name for name, pool in pools.items() if pool == "gpu"}
    assert on_gpu == {"encode", "train", "train_reward", "evaluate", "coverage", "calibrate"}


def test_every_job_task_names_a_kind_of_job_and_its_fields(dags_with: Callable[[str], dict[str, Any]]) -> None:
    found = dags_with(f'{TRAIN}{TRAIN}[soup]\nmethod = "uniform"\n{LABELLED}{DRAWN}')
    seen = set()
    for task in (task for dag in found.values() for task in dag.tasks if task.task_type == "TrainJobOperator"):
        stage = task.partial_kwargs["stage"] if task.is_mapped else task.stage
        given = {} if task.is_mapped else task.given
        assert set(given) <= set(find_kind(stage).model_fields), task
        seen.add(stage)
    assert seen >= {kind.name for kind in JOB_KINDS} - {"caption"}, "no recipe here trains on captions"


def test_dag_files_are_wiring_only() -> None:
    for path in (ROOT / "dags").glob("*.py"):
        assert len(path.read_text().splitlines()) < 100, path


def test_labels_come_before_features_and_drawing_before_the_shards(dags_with: Callable[[str], dict[str, Any]]) -> None:
    dags = dags_with(TRAIN + LABELLED + DRAWN)
    train, ingest = edges(dags["shapes.train"]), edges(dags["shapes.ingest"])
    assert {("enough_new_pairs", "label"), ("build_snapshot", "label"), ("label", "plan_encodings")} <= train
    assert ("build_snapshot", "plan_encodings") not in train
    assert ("draw_style", "list_shards") in ingest
    pools = {task.task_id: task.pool for name in ("train", "ingest") for task in dags[f"shapes.{name}"].tasks}
    assert pools["label"] == pools["draw_style"] == "gpu"


def test_captions_come_before_encoding_where_a_recipe_needs_them(dags_with: Callable[[str], dict[str, Any]]) -> None:
    train = dags_with(f'{TRAIN}[[train]]\nrecipe = "dcpo_shapes"\n')["shapes.train"]
    usual = EDGES["shapes.train"]
    between = {("build_snapshot", "caption"), ("enough_new_pairs", "caption"), ("caption", "plan_encodings")}
    assert edges(train) == usual | between
    caption = train.get_task("caption")
    assert (caption.pool, caption.retries, caption.generation) == ("gpu", 2, 0)


def test_tasks_open_the_pages_that_their_work_is_on(dags_with: Callable[[str], dict[str, Any]]) -> None:
    """Read from the serialised DAGs, which is what Airflow's pages see."""
    found = dags_with(f"{TRAIN}{APPROVAL}")
    shown: dict[str, set[str]] = {}
    for dag_id, dag in found.items():
        for task in DagSerialization.from_dict(DagSerialization.to_dict(dag)).tasks:
            for link in task.operator_extra_links:
                shown.setdefault(link.name, set()).add(f"{dag_id} {task.task_id}")
    assert shown["Report"] == {"shapes.promote gate", "shapes.approve find_decision"}
    assert shown["Model version"] == {"shapes.train register", "shapes.approve promote", "shapes.rollback rollback"}
    assert shown["Data Docs"] == {"shapes.ingest ingest_shard"}
    assert shown["Data report"] == {"shapes.train build_snapshot"}
    jobs = {f"{dag_id} {task.task_id}" for dag_id, dag in found.items() for task in dag.tasks if task.pool == "gpu"}
    assert shown["MLflow run"] == jobs


def test_mapped_tasks_have_names(dags_with: Callable[[str], dict[str, Any]]) -> None:
    found = dags_with(f"{TRAIN}{APPROVAL}")
    mapped = {f"{dag_id} {task.task_id}": task for dag_id, dag in found.items() for task in dag.tasks if task.is_mapped}
    unnamed = {name for name, task in mapped.items() if not task.partial_kwargs.get("map_index_template")}
    assert (len(mapped), unnamed) == (8, set())
