"""Reports of the monitor in the store: monitor/PROJECT/TIME-DIGEST.json."""

import re

from pipelines.contracts.monitor import MonitorReport
from pipelines.store.storage import Store

_NAME = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]+\.json")
_DIGEST_DIGITS = 12


def save_report(store: Store, report: MonitorReport) -> MonitorReport:
    """Store a report and return it with its URI."""
    name = f"{report.at:%Y%m%dT%H%M%SZ}-{report.digest[:_DIGEST_DIGITS]}.json"
    report = report.model_copy(update={"uri": f"{_folder(store, report.project)}/{name}"})
    store.write_bytes(report.uri, report.model_dump_json(indent=1).encode())
    return report


def last_report(store: Store, project: str) -> MonitorReport | None:
    """Read the newest report of a project; None when there is none."""
    folder = _folder(store, project)
    names = (uri.removeprefix(f"{folder}/") for uri in store.list_uris(folder))
    newest = max(filter(_NAME.fullmatch, names), default=None)
    return MonitorReport.model_validate_json(store.read_bytes(f"{folder}/{newest}")) if newest else None


def _folder(store: Store, project: str) -> str:
    return store.uri("monitor", project)
