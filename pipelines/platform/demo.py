"""`make demo`: run the complete loop once on the embedded platform, print a summary, stop everything."""

import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipelines.platform import follow, services, supervision
from pipelines.platform.preparation import prepare_airflow
from pipelines.platform.rest import AirflowApi
from pipelines.platform.summary import Outcome, summarise
from pipelines.project.file import load_project
from pipelines.release import status
from pipelines.settings import load_settings
from pipelines.store.storage import Store
from pipelines.workspace import Workspace

DONE, FAILED, GATE_SAID_NO, INTERRUPTED = 0, 1, 3, 130


def run(project_path: str) -> int:
    """Run the loop; 0 when the candidate is (or already was) the champion, 3 when the gate refused it, 1 on failure.

    Airflow creates the DAGs of the projects in this project's folder.
    Ctrl-C and SIGTERM stop the servers and the jobs; finished work is kept and the next run continues from there.
    """
    project = load_project(Path(project_path))
    settings = load_settings().model_copy(update={"projects_dir": project.path.parent})
    signal.signal(signal.SIGTERM, _interrupt)
    began = time.monotonic()
    try:
        with follow.View(settings).shown() as view:
            view.begin("platform")
            services_up = services.start(settings, news=view.platform_news)
            view.platform_news("reading the DAGs")
            api = prepare_airflow(settings, services_up)
            view.platform_ready(f"Airflow {services_up.airflow.url}   MLflow {services_up.mlflow.url}")
            workspace = Workspace(project, services.service_settings(settings, services_up))
            with supervision.running(settings):
                outcome = _follow_chain(api, workspace, view)
        _say(summarise(outcome, Workspace(project, settings), seconds=time.monotonic() - began))
        return DONE if outcome.is_champion else GATE_SAID_NO
    except KeyboardInterrupt:
        _say("Interrupted. Stopping everything; the next `make demo` continues from here.")
        return INTERRUPTED
    except (RuntimeError, TimeoutError) as error:
        _say(f"The demo failed: {error}")
        return FAILED
    finally:
        with suppress(KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            services.stop(settings)


def _follow_chain(api: AirflowApi, workspace: Workspace, view: follow.View) -> Outcome:
    """Trigger ingest and follow the assets: pairs -> train -> candidate -> promote."""
    name, trained_before = workspace.project.name, _finished_models(workspace.store)
    before = status.status(workspace)
    runs: dict[str, str] = {}
    for stage in ("ingest", "train", "promote"):
        api.unpause(f"{name}.{stage}")
    for stage in ("ingest", "train", "promote"):
        view.begin(stage)
        dag_id = f"{name}.{stage}"
        if stage == "ingest":
            follow.finish_earlier(api, dag_id, follow.now(), view)
            since = follow.now()
            runs[stage] = api.trigger(dag_id)
        else:
            runs[stage] = follow.next_run(api, dag_id, since, view)
            since = follow.now()
        follow.follow_run(api, dag_id, runs[stage], view)
        if stage == "train" and not _succeeded(api, dag_id, runs[stage], "register"):
            break
    return Outcome(
        pairs=api.xcom(f"{name}.ingest", runs["ingest"], "announce_pairs"),
        newly_trained=len(_finished_models(workspace.store) - trained_before),
        judged=(after := status.status(workspace))["last_decision"] != before["last_decision"],
        status=after,
        new_ledger_entries=after["ledger"]["entries"] - before["ledger"]["entries"],
    )


def _succeeded(api: AirflowApi, dag_id: str, run_id: str, task_id: str) -> bool:
    return any(t["task_id"] == task_id and t["state"] == "success" for t in api.tasks(dag_id, run_id))


def _finished_models(store: Store) -> set[str]:
    return {uri for uri in store.list_uris(store.uri("models")) if uri.endswith("/manifest.json")}


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
