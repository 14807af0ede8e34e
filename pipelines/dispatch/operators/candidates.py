"""The run that follows a run of the promote DAG, while versions are left to judge."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

FOLLOWING = re.compile(r"^after_version_\d+__")


def following_run(versions: Sequence[int], params: Mapping[str, Any] | None, run_id: str) -> list[dict[str, Any]]:
    """Arguments of the TriggerDagRunOperator that starts the next run; empty when this run judges the last version.

    `versions` are what is left to judge, the first of them by this run. The id is made of that version and the id of
    the first run of the series: a retry starts nothing twice, and another event starts a series with ids of its own, so
    that a version whose run failed is tried again. Airflow reserves ids that begin with `asset_triggered__`.
    """
    if len(versions) < 2:
        return []
    tried = [*((params or {}).get("tried") or ()), versions[0]]
    return [{"conf": {"tried": tried}, "trigger_run_id": f"after_version_{versions[0]}__{FOLLOWING.sub('', run_id)}"}]
