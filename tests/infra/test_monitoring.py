"""Prometheus rules and Grafana dashboard: every metric and label they name is exported, and every alert is tested.

`promtool` runs rules_test.yml by hand (docs/log.md); this keeps names from drifting apart between its runs.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.platform.exporter.catalogue import SOURCES
from pipelines.platform.exporter.server import METRICS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra" / "monitoring"
RULES = [rule for group in yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"] for rule in group["rules"]]
TESTS = yaml.safe_load((FOLDER / "rules_test.yml").read_text())["tests"]
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
LABELS = {m.name: set(m.labels) for m in (*METRICS, *(m for source in SOURCES for m in source.metrics))}
UP = {"up": {"job", "instance"}}
SELECTOR = re.compile(r"\b(up|plumbline_\w+)\b(?:\{([^}]*)\})?")


def unknown(expression: str) -> list[str]:
    """List metrics that are not exported, and labels that a metric does not have."""
    known = LABELS | UP
    found = []
    for name, matchers in SELECTOR.findall(expression):
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
        found += [name] if name not in known else [f"{name}{{{label}}}" for label in sorted(labels - known[name])]
    grouped = {label for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression) for label in group.split(", ")}
    used = {label for name, _ in SELECTOR.findall(expression) for label in known.get(name, ())}
    return found + sorted(grouped - used)


def test_what_is_not_exported_is_found() -> None:
    assert unknown("plumbline_ledger_agree == 0") == ["plumbline_ledger_agree"]
    assert unknown('sum by (team) (plumbline_ledger_agrees{model="a"})') == ["plumbline_ledger_agrees{model}", "team"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_rules_name_what_is_exported(rule: dict[str, Any]) -> None:
    assert unknown(rule["expr"]) == []
    shown = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    assert shown <= {label for name, _ in SELECTOR.findall(rule["expr"]) for label in (LABELS | UP)[name]}
    assert rule["labels"]["severity"] in {"critical", "warning"}


def test_every_alert_is_raised_in_a_test_and_silent_in_a_healthy_installation() -> None:
    names = {rule["alert"] for rule in RULES}
    healthy, *faults = TESTS
    assert {case["alertname"] for case in healthy["alert_rule_test"]} == names
    assert all("exp_alerts" not in case for case in healthy["alert_rule_test"])
    raised = {case["alertname"] for test in faults for case in test["alert_rule_test"] if "exp_alerts" in case}
    assert raised == names
    series = {SELECTOR.match(entry["series"]) for test in TESTS for entry in test["input_series"]}
    assert all(found and unknown(found.group()) == [] for found in series)


def test_every_alert_is_explained() -> None:
    page = (ROOT / "docs" / "observability.md").read_text()
    assert [rule["alert"] for rule in RULES if f"`{rule['alert']}`" not in page] == []
    assert [name for name in LABELS if f"`{name}`" not in page] == []


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_panels_ask_for_what_is_exported(panel: dict[str, Any]) -> None:
    assert panel["targets"]
    for target in panel["targets"]:
        assert unknown(target["expr"]) == []
        shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        assert shown <= {label for name, _ in SELECTOR.findall(target["expr"]) for label in LABELS[name]}
        assert target["datasource"]["uid"] == "${datasource}"


def test_the_dashboard_can_be_imported() -> None:
    """Grafana needs these fields; a panel without an id or a place is drawn over others."""
    assert DASHBOARD["schemaVersion"] >= 39
    assert DASHBOARD["uid"] == "plumbline"
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(cells) == len(set(cells)), "two panels share a place"
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["query"] == "prometheus"
    metric, label = re.findall(r"label_values\((\w+), (\w+)\)", variables["project"]["definition"])[0]
    assert label in LABELS[metric]


def test_the_port_is_the_same_everywhere() -> None:
    scraped = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"][0]
    (target,) = scraped["static_configs"][0]["targets"]
    assert f'job="{scraped["job_name"]}"' in RULES[0]["expr"]
    manifest = (ROOT / "infra" / "kubernetes" / "exporter.yaml").read_text()
    (default,) = re.findall(r"= (\d+),\n\) -> int:\n    \"\"\"Serve metrics", _command_source())
    assert target == f"127.0.0.1:{default}"
    assert f'"--port", "{default}"' in manifest.replace("--port, ", '"--port", ')
    assert f"containerPort: {default}" in manifest


def _command_source() -> str:
    return (ROOT / "pipelines" / "commands" / "platform.py").read_text()
