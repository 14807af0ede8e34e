"""The DAGs around the champion in a live scheduler: calibrate, reward, promote, monitor, reconcile, rollback.

One platform and one sequence, since every run costs minutes. Pairs come in, a reward is trained and the judges are
calibrated on them; a version is promoted; the monitor finds nothing, then drift, then an alias that was moved by hand
while the judges cannot be scored; reconcile detects it and restores it; the champion is rolled back and forward.
Messages go to a webhook and a mail server. Ada triggers; the candidates' weights are fakes with a stored evaluation.
"""

import html
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from embedded_world import (
    MARKS,
    ROOT,
    UNFINISHED,
    Airflow,
    Json,
    World,
    publish_evaluated_candidate,
    running_world,
    shapes_project,
    wait_for,
)
from sinks import mailbox, webhook

from pipelines.platform import services
from pipelines.platform.airflow_setup import setup_airflow
from pipelines.platform.dag_states import check_pool, read_dag_states
from pipelines.project.file import load_project
from pipelines.release.gate import decision_log
from pipelines.settings import load_settings
from pipelines.stages import candidates, champion, jobs, judges
from pipelines.stages import pairs as pair_stages
from pipelines.tracking import pages, registry
from pipelines.workspace import Workspace

pytestmark = [*MARKS, pytest.mark.timeout(1500)]

PAIRS = sorted((ROOT / "examples/shapes/pairs").glob("*.parquet"))
NUM_FRESH = 100
ALARMED_BY = "Alias `champion` of model 'shapes' names version 1, but the ledger ends with version 2"
RULES = """
[monitor]
minimum_fresh_pairs = 20

[schedule]
reconcile = "* * * * *"

[notify]
webhook = { connection = "chat", endpoint = "room" }
mail = { connection = "post", to = ["models@example.org"] }
"""


@dataclass
class LivePlatform:
    """The platform, its user, and the messages that the sinks received."""

    world: World
    folder: Path
    ada: Airflow
    posted: list[Json]
    mailed: list[dict[str, str]]

    @property
    def path(self) -> str:
        """The project file."""
        return self.world.path

    def change_project(self, old: str, new: str) -> None:
        """Edit the project file, as a user does while the platform runs."""
        path = Path(self.path)
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    def first_run(self, dag_id: str, kind: str, known: set[str] | None = None) -> str:
        """Wait for a new run of this kind (asset_triggered, scheduled) and return it."""

        def found() -> str | None:
            runs = [run for run in self.ada.runs(dag_id) if run["run_type"] == kind]
            return next((run["dag_run_id"] for run in runs if run["dag_run_id"] not in (known or set())), None)

        return str(wait_for(f"{kind} run of {dag_id}", found))

    def notifications(self, event: str) -> list[Json]:
        """Messages posted about this event."""
        return [message for message in self.posted if message["event"] == event]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LivePlatform]:
    folder = tmp_path_factory.mktemp("live")
    (folder / "pairs").mkdir()
    for shard in PAIRS[:2]:
        shutil.copy(shard, folder / "pairs")
    shutil.copytree(ROOT / "examples/shapes/judges/taste_a", folder / "taste_a")
    with webhook() as (chat, posted), mailbox() as (post, mailed):
        env = {"AIRFLOW_CONN_CHAT": chat, "AIRFLOW_CONN_POST": post}
        with running_world(folder, project_text(folder), users={"admin": "admin", "ada": "op"}, env=env) as world:
            yield LivePlatform(world, folder, world.login("ada"), posted, mailed)


def project_text(folder: Path) -> str:
    """The shapes project on this folder's pairs and judge, small, monitored, with notifications to both sinks."""
    text = shapes_project()
    changes = {
        f"{ROOT}/examples/shapes/pairs": str(folder / "pairs"),
        f"{ROOT}/examples/shapes/judges/taste_a": str(folder / "taste_a"),
        "calibration_share = 0.3": "calibration_share = 0.4\nminimum_new_pairs = 100000",
        "steps = 400": "steps = 20",
        "num_processes = 2\nmicro_batch = 64": "num_processes = 1\nmicro_batch = 64",
        "minimum_calibration_pairs = 100": "minimum_calibration_pairs = 40",
        "maximum_calibration_age_days = 0": "maximum_calibration_age_days = 100000",
    }
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return text + RULES


def add_fresh_pairs(folder: Path) -> None:
    """Add a third shard, whose prompts are longer than any before."""
    table = pq.read_table(PAIRS[2]).slice(0, NUM_FRESH)
    prompts = [
        f"{prompt}, drawn in chalk by a careful hand on a very old wall" for prompt in table["caption"].to_pylist()
    ]
    at = table.schema.get_field_index("caption")
    pq.write_table(table.set_column(at, "caption", pa.array(prompts)), folder / "pairs" / PAIRS[2].name)


def judges_by_name(path: str) -> dict[str, Json]:
    """List the judges by name, as `plumbline judges` prints them."""
    return {judge["judge"]: judge for judge in judges.judges(path)}


def states(api: Airflow, dag_id: str, run_id: str) -> dict[str, str]:
    return {task["task_id"]: str(task["state"]) for task in api.tasks(dag_id, run_id)}


def test_every_dag_file_parses(live: LivePlatform) -> None:
    platform = services.read_platform(live.world.settings)
    assert platform is not None
    env = services._airflow_environment(live.world.settings, [0, 0, 0, 0], mlflow_url=platform.mlflow.url)
    command = [sys.executable, "-m", "airflow", "dags", "list-import-errors", "--output", "json"]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    names = ("ingest", "reward", "calibrate", "train", "promote", "monitor", "reconcile", "rollback")
    assert set(live.ada.dag_ids()) == {f"shapes.{name}" for name in names}


def test_the_dags_that_watch_the_champion_are_created_unpaused(live: LivePlatform) -> None:
    states = read_dag_states(Workspace(load_project(Path(live.path)), load_settings()))
    assert (states.reachable, states.missing_dags) == (True, ())
    assert states.paused_dags == tuple(
        f"shapes.{name}" for name in ("calibrate", "ingest", "promote", "reward", "train")
    )
    for name in ("monitor", "reconcile"):  # The tests below run in order.
        live.ada.pause(f"shapes.{name}")


def test_the_setup_of_airflow_repairs_a_small_pool_and_a_repeated_one_changes_nothing(live: LivePlatform) -> None:
    settings = load_settings()
    workspace = Workspace(load_project(Path(live.path)), settings)
    admin = live.world.login("admin")
    assert setup_airflow(settings).pool == "gpu has 2 slots, as before"
    admin.ensure_pool("gpu", slots=1)
    with pytest.raises(ValueError, match=r"has 1 slot, but placement.train of 'shapes' has num_processes = 2"):
        check_pool(workspace)
    found = setup_airflow(settings)
    assert found.pool == "gpu now has 2 slots, and deferred tasks keep theirs; it had 1 slot"
    assert {own.state for own in found.connections} == {"still a placeholder"}
    check_pool(workspace)


def test_a_broken_project_is_an_import_error_and_breaks_no_other_dag(live: LivePlatform) -> None:
    known = set(live.ada.dag_ids())
    broken = Path(live.path).with_name("broken.toml")
    broken.write_text(f'extends = ["{live.path}"]\nname = "broken"\n[gate]\nminimum_promps = 7\n')
    [error] = wait_for("import error", live.ada.import_errors)
    assert str(broken) in error
    assert "Unknown field 'gate.minimum_promps'" in error
    assert set(live.ada.dag_ids()) == known
    broken.unlink()
    wait_for("end of the import error", lambda: not live.ada.import_errors())


def test_the_clock_starts_a_training_without_new_pairs(live: LivePlatform) -> None:
    clock = Path(live.path).with_name("clock.toml")
    clock.write_text(
        f'extends = ["{live.path}"]\nname = "clock"\n[schedule]\ntrain = "* * * * *"\nreconcile = "@yearly"\n'
    )
    wait_for("project", lambda: "clock.train" in live.ada.dag_ids())
    live.ada.unpause("clock.train")
    run_id = live.first_run("clock.train", "scheduled")
    live.ada.pause("clock.train")
    live.ada.mark_failed("clock.train", run_id)
    assert live.ada.causes("clock.train", run_id) == []
    clock.unlink()


def test_new_pairs_train_the_reward_and_calibrate_the_judges(live: LivePlatform) -> None:
    before = judges_by_name(live.path)
    assert [judge["may_vote"] for judge in before.values()] == [False, False]
    assert "was never calibrated" in before["taste_a"]["reasons"][0]
    for name in ("ingest", "reward", "calibrate"):
        live.ada.unpause(f"shapes.{name}")

    ingest = live.ada.succeed("shapes.ingest", live.ada.trigger("shapes.ingest"))
    pairs = live.ada.xcom("shapes.ingest", ingest, "announce_pairs")
    assert (pairs["batches"], pairs["pairs_in"]) == (2, 408)
    calibrate = live.ada.succeed("shapes.calibrate", live.first_run("shapes.calibrate", "asset_triggered"))
    [cause] = live.ada.causes("shapes.calibrate", calibrate)
    assert (cause["name"], cause["extra"]) == ("shapes.pairs", pairs)
    records = live.ada.xcom("shapes.calibrate", calibrate, "record")
    assert [(r["calibration"]["judge"]["name"], r["number"]) for r in records] == [("taste_a", 1), ("taste_b", 1)]
    assert [judge["may_vote"] for judge in judges_by_name(live.path).values()] == [True, True]

    reward = live.ada.succeed("shapes.reward", live.first_run("shapes.reward", "asset_triggered"))
    again = live.ada.succeed("shapes.calibrate", live.first_run("shapes.calibrate", "asset_triggered", {calibrate}))
    [cause] = live.ada.causes("shapes.calibrate", again)
    assert (cause["name"], cause["source_run_id"]) == ("shapes.judges", reward)
    same = live.ada.xcom("shapes.calibrate", again, "record")
    assert same == records, "the same pairs give the same result again"


def test_a_promotion_is_notified_with_the_report(live: LivePlatform) -> None:
    for name in ("reward", "calibrate"):
        live.ada.pause(f"shapes.{name}")
    snapshot = pair_stages.snapshot(live.path)
    for number in (1, 2):
        settings = load_settings()
        candidate = publish_evaluated_candidate(
            live.path, settings, live.folder, snapshot=snapshot, trained_by="", number=number
        )
        if number == 1:
            report = jobs.run_job(live.path, "evaluate", {"candidate": candidate}, run_key="by hand")
            decision = candidates.gate(live.path, candidate, report, run_key="by hand")
            assert champion.promote(live.path, decision, actor="grace")["outcome"] == "promoted"

    live.ada.unpause("shapes.promote")
    run_id = live.ada.succeed("shapes.promote", live.ada.trigger("shapes.promote"))
    promotion = live.ada.xcom("shapes.promote", run_id, "promote")
    assert (promotion["outcome"], promotion["from_version"], promotion["to_version"]) == ("promoted", 1, 2)
    assert registry.aliases(load_settings(), "shapes") == {"candidate": 2, "champion": 2, "previous_champion": 1}
    [message] = wait_for("message", lambda: live.notifications("promoted"))
    assert message["path"] == "/room"
    page = pages.report_page(load_settings(), "shapes", 2)
    assert page.partition("?")[0].endswith("/artifacts/gate/report.html")
    assert message["report_uri"] == page
    assert promotion["message"] in message["text"]
    assert message["run"].endswith(f"/dags/shapes.promote/runs/{run_id}")
    [mail] = wait_for("mail", lambda: live.mailed)
    assert (mail["subject"], mail["to"]) == ("Plumbline shapes: promoted", "models@example.org")
    assert html.escape(page) in mail["text"]


def monitor(live: LivePlatform, end: str) -> tuple[str, Json]:
    """Wait for a monitor run that ends in this state; return its report."""
    live.ada.unpause("shapes.monitor")
    run_id = live.ada.trigger("shapes.monitor")
    assert live.ada.end_of("shapes.monitor", run_id) == end, live.ada.failures("shapes.monitor", run_id)
    report: Json = live.ada.xcom("shapes.monitor", run_id, "monitor")
    return run_id, report


def test_the_monitor_finds_nothing_without_new_pairs(live: LivePlatform) -> None:
    run_id, report = monitor(live, "success")
    assert (report["outcome"], report["champion_version"], report["num_fresh_pairs"]) == ("ok", 2, 0)
    assert states(live.ada, "shapes.monitor", run_id)["announce_retraining"] == "skipped"


def test_drift_triggers_the_training(live: LivePlatform) -> None:
    accepted = live.ada.xcom("shapes.ingest", str(live.ada.runs("shapes.ingest")[0]["dag_run_id"]), "announce_pairs")
    add_fresh_pairs(live.folder)
    ingest = live.ada.succeed("shapes.ingest", live.ada.trigger("shapes.ingest"))
    fresh = live.ada.xcom("shapes.ingest", ingest, "announce_pairs")["accepted"] - accepted["accepted"]
    live.ada.unpause("shapes.train")
    run_id, report = monitor(live, "success")
    train = live.first_run("shapes.train", "asset_triggered")
    task = ("shapes.train", train, "enough_new_pairs")
    wait_for("decision to train", lambda: live.ada.state_of(*task) == "success")
    live.ada.pause("shapes.train")
    live.ada.mark_failed("shapes.train", train)

    assert (report["outcome"], report["retrain"]) == ("retrain", "due")
    assert report["num_fresh_pairs"] == fresh > 90
    drifted = {finding["name"] for finding in report["findings"] if finding["status"] == "retrain"}
    assert "drift:prompt_words" in drifted
    assert live.ada.xcom("shapes.monitor", run_id, "announce_retraining") == report["uri"]
    wanted = [cause for cause in live.ada.causes("shapes.train", train) if cause["name"] == "shapes.retrain"]
    assert [(cause["source_run_id"], cause["extra"]) for cause in wanted] == [(run_id, {"report_uri": report["uri"]})]
    assert live.ada.xcom(*task) is True, "the minimum of new pairs is far away"


def notified_dags(live: LivePlatform, event: str) -> set[str]:
    """DAGs named in notifications of an event."""
    return {message["run"].split("/dags/")[1].split("/")[0] for message in live.notifications(event)}


def reconciled(live: LivePlatform, state: str) -> str:
    """Wait for a scheduled run of reconcile that found this; return after it has ended."""

    def found() -> str | None:
        ended = [run["dag_run_id"] for run in live.ada.runs("shapes.reconcile") if run["state"] not in UNFINISHED]
        finished = [run for run in ended if live.ada.state_of("shapes.reconcile", run, "reconcile") == "success"]
        return next((r for r in finished if live.ada.xcom("shapes.reconcile", r, "reconcile")["state"] == state), None)

    live.ada.unpause("shapes.reconcile")
    run_id = str(wait_for(f"reconcile to report {state}", found))
    live.ada.pause("shapes.reconcile")
    # A run that a paused DAG had begun would never end.
    for run in live.ada.runs("shapes.reconcile"):
        if run["state"] in UNFINISHED:
            live.ada.mark_failed("shapes.reconcile", str(run["dag_run_id"]))
    assert live.ada.run("shapes.reconcile", run_id)["run_type"] == "scheduled"
    return run_id


def test_a_manually_moved_alias_is_found_even_when_no_judge_can_be_scored(live: LivePlatform) -> None:
    from mlflow import MlflowClient

    MlflowClient(load_settings().tracking_uri).set_registered_model_alias("shapes", "champion", "1")
    weights = live.folder / "taste_a" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])

    run_id, report = monitor(live, "failed")
    ended = states(live.ada, "shapes.monitor", run_id)
    assert (ended["calibrate"], ended["monitor"], ended["alarm"]) == ("failed", "success", "failed")
    found = {finding["name"]: finding for finding in report["findings"]}
    assert (report["outcome"], found["registry"]["status"]) == ("alarm", "alarm")
    assert ALARMED_BY in found["registry"]["explanation"]
    assert found["agreement"]["measured"] is None
    assert ended["announce_retraining"] == "skipped"
    assert ALARMED_BY in live.ada.failures("shapes.monitor", run_id)

    alarmed = reconciled(live, "alarm")
    assert live.ada.run("shapes.reconcile", alarmed)["state"] == "failed"
    assert ALARMED_BY in live.ada.failures("shapes.reconcile", alarmed)
    assert notified_dags(live, "alarm") == {"shapes.monitor", "shapes.reconcile"}
    assert all(ALARMED_BY in message["text"] for message in live.notifications("alarm"))
    by_monitor = [message["report_uri"] for message in live.notifications("alarm") if message["run"].endswith(run_id)]
    assert by_monitor == [report["uri"]]
    assert notified_dags(live, "failed") == {"shapes.monitor"}, (
        "its calibration; an alarm is reported once, as an alarm"
    )
    assert registry.get_alias(load_settings(), "shapes", "champion") == 1, "an alarm moves nothing"
    weights.write_bytes(whole)


def test_the_alias_is_restored_where_the_project_enables_it(live: LivePlatform) -> None:
    live.change_project("\n[monitor]\n", '\n[reconcile]\non_mismatch = "restore"\n\n[monitor]\n')
    restored = reconciled(live, "restored")
    assert live.ada.run("shapes.reconcile", restored)["state"] == "success"
    assert registry.get_alias(load_settings(), "shapes", "champion") == 2
    [message] = wait_for("message", lambda: live.notifications("restored"))
    assert "version 2" in message["text"]


def test_a_rollback_and_a_roll_forward_are_recorded_as_history(live: LivePlatform) -> None:
    live.ada.unpause("shapes.rollback")
    back = {"reason": "too many black images", "from_version": 2}
    forward = {"reason": "they were the viewer's fault", "forward": True}
    to_base = {"reason": "all of them are black", "to_base": True}
    for given, to_version in ((back, 1), (back, 1), (forward, 2), (to_base, None), (forward, 2)):
        run_id = live.ada.succeed("shapes.rollback", live.ada.trigger("shapes.rollback", given))
        assert live.ada.xcom("shapes.rollback", run_id, "rollback")["to_version"] == to_version
        assert registry.get_alias(load_settings(), "shapes", "champion") == to_version
    with pytest.raises(RuntimeError, match="reason"):
        live.ada.trigger("shapes.rollback", {"reason": ""})

    entries = champion.history(live.path)
    recorded = [(entry["actor"], entry["from_version"], entry["to_version"]) for entry in entries]
    by_ada = [("ada", 2, 1), ("ada", 1, 2), ("ada", 2, None), ("ada", None, 2)]
    assert recorded == [("grace", None, 1), ("ada", 1, 2), ("airflow", 2, 2), *by_ada]
    assert entries[2]["reason"] == "reconcile found the alias at version 1"
    table = champion.history_table(live.path)
    assert all(reason in table for reason in ("too many black images", "all of them are black"))
    assert champion.reconcile(live.path, actor="tester")["state"] == "agrees"
    for event in ("rolled_back", "rolled_forward"):
        assert len(wait_for("messages", partial(live.notifications, event))) == 2, (
            "the run that moved nothing sends no message"
        )


FIFTY = tuple(range(3, 53))
FIFTY_SECONDS = 1500


def test_fifty_versions_registered_in_one_tick_are_each_judged_once(live: LivePlatform) -> None:
    live.change_project("[gate]\n", '[gate]\nmode = "dry_run"\n')
    snapshot = pair_stages.snapshot(live.path)
    workspace = Workspace(load_project(Path(live.path)), load_settings())
    before = len(decision_log.verdicts_after(0, workspace))
    for number in FIFTY:
        publish_evaluated_candidate(
            live.path, load_settings(), live.folder, snapshot=snapshot, trained_by="", number=number
        )
    for number in FIFTY:
        live.ada.announce("shapes.candidate", {"version": number})

    def all_judged() -> bool:
        return {version for version, _ in decision_log.judged_versions(workspace)} == {1, 2, *FIFTY}

    wait_for("decision on each version", all_judged, seconds=FIFTY_SECONDS)
    wait_for(
        "end of the runs", lambda: not [run for run in live.ada.runs("shapes.promote") if run["state"] in UNFINISHED]
    )
    assert len(decision_log.verdicts_after(0, workspace)) == before + len(FIFTY), "none is judged twice"
    chain = [run for run in live.ada.runs("shapes.promote") if str(run["dag_run_id"]).startswith("after_version_")]
    picked = [live.ada.xcom("shapes.promote", str(run["dag_run_id"]), "pick_candidate")["version"] for run in chain]
    assert sorted(picked) == sorted(set(picked)), "a run for each version"
    assert {run["state"] for run in chain} == {"success"}
    assert registry.get_alias(load_settings(), "shapes", "champion") == 2


def test_a_broken_shard_fails_alone_and_is_read_after_its_repair(live: LivePlatform) -> None:
    broken, before = (
        live.folder / "pairs" / "train-00003-of-00003.parquet",
        len(list((live.folder / "pairs").iterdir())),
    )
    broken.write_bytes(b"PAR1 and then nothing that a table has")
    run_id = live.ada.trigger("shapes.ingest")
    assert live.ada.end_of("shapes.ingest", run_id) == "failed"
    found = {task["rendered_map_index"]: task["state"] for task in mapped(live.ada, run_id)}
    assert {name for name, state in found.items() if state != "success"} == {"train-00003-of-00003.parquet"}
    assert len(found) == before + 1
    announced = live.ada.xcom("shapes.ingest", run_id, "announce_pairs")
    assert (announced["batches"], announced["shards"], announced["failed_shards"]) == (before, before + 1, 1)
    assert "train-00003-of-00003.parquet" in live.ada.failures("shapes.ingest", run_id)

    shutil.copy(PAIRS[2], broken)
    repaired = live.ada.succeed("shapes.ingest", live.ada.trigger("shapes.ingest"))
    again = live.ada.xcom("shapes.ingest", repaired, "announce_pairs")
    assert (again["batches"], again["failed_shards"]) == (before + 1, 0)
    assert again["accepted"] > announced["accepted"]


def mapped(airflow: Airflow, run_id: str) -> list[Json]:
    """The tasks that read a shard in this run."""
    return [task for task in airflow.tasks("shapes.ingest", run_id) if task["task_id"] == "ingest_shard"]
