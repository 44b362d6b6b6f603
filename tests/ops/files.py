"""The operator's files, read once for the tests."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DASHBOARDS = sorted((ROOT / "ops/grafana/dashboards").glob("*.json"))
RULES = sorted((ROOT / "ops/prometheus/rules").glob("*.yml"))

_NAME = re.compile(r"(?<![\w:])(?:up|(?:\w+:)?expunge[:_][\w:]+|http_\w+)(?![\w:=~(])")


def read_yaml(path: str | Path) -> Any:
    """The content of a YAML file, by its path from the root."""
    return yaml.safe_load((ROOT / path).read_text())


def compose() -> dict[str, Any]:
    """docker-compose.yml."""
    found: dict[str, Any] = read_yaml("docker-compose.yml")
    return found


def queries(dashboard: Path) -> dict[str, str]:
    """Every query of a dashboard by its panel's title and its letter."""
    panels = json.loads(dashboard.read_text())["panels"]
    return {f"{panel['title']} {t['refId']}": t["expr"] for panel in panels for t in panel.get("targets", ())}


def rules(kind: str) -> dict[str, dict[str, Any]]:
    """All rules by name; kind: "alert" or "record"."""
    groups = [group for path in RULES for group in read_yaml(path)["groups"]]
    return {rule[kind]: rule for group in groups for rule in group["rules"] if kind in rule}


def metrics_of(query: str) -> set[str]:
    """The names of the metrics in a PromQL query."""
    return set(_NAME.findall(re.sub(r'"[^"]*"|by \([^)]*\)', "", query)))
