"""The operator's files, read once for the tests."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DASHBOARDS = sorted((ROOT / "ops/grafana/dashboards").glob("*.json"))
RULES = sorted((ROOT / "ops/prometheus/rules").glob("*.yml"))

_NAME = re.compile(r"(?<![\w:])(?:up|scrape_\w+|(?:\w+:)?expunge[:_][\w:]+|(?:http|pg|redis)_\w+|DCGM_\w+)(?![\w:=~(])")

GPU_FIELDS = [
    line.split(",")[0]
    for line in (ROOT / "ops/prometheus/gpu.csv").read_text().splitlines()
    if not line.startswith("#")
]
"""What dcgm-exporter is given to collect."""

EXPORTED_BY: dict[str, frozenset[str]] = {
    # https://github.com/prometheus-community/postgres_exporter
    "postgres": frozenset(
        {
            "pg_database_size_bytes",
            "pg_settings_max_connections",
            "pg_stat_activity_count",
            "pg_stat_database_blks_hit",
            "pg_stat_database_blks_read",
            "pg_stat_database_xact_commit",
            "pg_stat_database_xact_rollback",
        }
    ),
    # https://github.com/oliver006/redis_exporter
    "redis": frozenset(
        {
            "redis_commands_processed_total",
            "redis_connected_clients",
            "redis_key_size",
            "redis_memory_used_bytes",
            "redis_up",
        }
    ),
    # https://github.com/NVIDIA/dcgm-exporter tells what it is given to collect; the fields are DCGM's
    "gpu": frozenset(GPU_FIELDS),
    "prometheus": frozenset({"up", "scrape_duration_seconds"}),
}
"""What others export, by the job that scrapes it: the names are theirs, and a panel may use no other."""


def read_yaml(path: str | Path) -> Any:
    """The content of a YAML file, by its path from the root."""
    return yaml.safe_load((ROOT / path).read_text())


def compose() -> dict[str, Any]:
    """docker-compose.yml."""
    found: dict[str, Any] = read_yaml("docker-compose.yml")
    return found


def queries(dashboard: Path) -> dict[str, str]:
    """Every query of a dashboard by its panel's title and its letter, and those of its annotations by their names."""
    content = json.loads(dashboard.read_text())
    panels = {
        f"{panel['title']} {t['refId']}": t["expr"] for panel in content["panels"] for t in panel.get("targets", ())
    }
    return panels | {annotation["name"]: annotation["expr"] for annotation in content["annotations"]["list"]}


def rules(kind: str) -> dict[str, dict[str, Any]]:
    """All rules by name; kind: "alert" or "record"."""
    groups = [group for path in RULES for group in read_yaml(path)["groups"]]
    return {rule[kind]: rule for group in groups for rule in group["rules"] if kind in rule}


def metrics_of(query: str) -> set[str]:
    """The names of the metrics in a PromQL query."""
    return set(_NAME.findall(re.sub(r'"[^"]*"|by \([^)]*\)', "", query)))


def jobs_of(query: str) -> set[str]:
    """The scrape jobs that a query needs beyond the API's."""
    asked = metrics_of(query)
    return {job for job, names in EXPORTED_BY.items() if asked & names}


def filled(query: str, *, window: str) -> str:
    """A panel's query as Grafana sends it, with everything chosen."""
    for name, value in {
        "$window": window,
        "$__range": window,
        "$tenant": ".*",
        "$model": ".*",
        "$method": ".*",
    }.items():
        query = query.replace(name, value)
    assert "$" not in query, query
    return query
