"""The run that follows a run of the promote DAG, while versions are left to judge."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

FOLLOWING = re.compile(r"^after_version_\d+__")


def is_anonymous(context: Mapping[str, Any]) -> bool:
    """Return True if a person started this run, or the series that it belongs to, by posting an asset event: Airflow
    tells a run neither name nor address of that person."""
    if context["dag_run"].triggering_user_name:
        return False
    events = (context.get("triggering_asset_events") or {}).values()
    posted = any(bool(event.extra.get("from_rest_api")) for found in events for event in found)
    return posted or bool((context.get("params") or {}).get("anonymous"))


def following_run(versions: Sequence[int], context: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return arguments of the TriggerDagRunOperator that starts the next run; empty when this is the last version's
    run.

    `versions` are those left to judge, the first of them by this run. The id is made of that version and the id of the
    first run of the series. A retry therefore starts nothing twice, while another event starts a series with different
    ids, so that a version whose run failed is judged again. Airflow reserves ids that begin with `asset_triggered__`.
    """
    if len(versions) < 2:
        return []
    tried = [*((context.get("params") or {}).get("tried") or ()), versions[0]]
    conf = {"tried": tried} | ({"anonymous": True} if is_anonymous(context) else {})
    first = FOLLOWING.sub("", context["dag_run"].run_id)
    return [{"conf": conf, "trigger_run_id": f"after_version_{versions[0]}__{first}"}]
