"""The run that follows a run of the promote DAG, while versions are left to judge."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

FOLLOWING = re.compile(r"^after_version_\d+__")


def following_run(versions: Sequence[int], params: Mapping[str, Any] | None, run_id: str) -> list[dict[str, Any]]:
    """Return arguments of the TriggerDagRunOperator that starts the next run; empty when this is the last version's
    run.

    `versions` are those left to judge, the first of them by this run. The id is made of that version and the id of the
    first run of the series. A retry therefore starts nothing twice, while another event starts a series with different
    ids, so that a version whose run failed is judged again. Airflow reserves ids that begin with `asset_triggered__`.
    """
    if len(versions) < 2:
        return []
    tried = [*((params or {}).get("tried") or ()), versions[0]]
    return [{"conf": {"tried": tried}, "trigger_run_id": f"after_version_{versions[0]}__{FOLLOWING.sub('', run_id)}"}]
