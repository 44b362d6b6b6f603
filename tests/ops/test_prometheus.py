import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ops.prometheus import local
from tests.ops.files import DASHBOARDS, ROOT, filled, queries, read_yaml, rules

FOLDER = ROOT / "ops/prometheus"


def check(*command: str) -> None:
    """Run a checker that must be content."""
    found = subprocess.run(command, capture_output=True, text=True, cwd=FOLDER)
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_configuration_and_its_rules_are_valid(promtool: str) -> None:
    check(promtool, "check", "config", "prometheus.yml")


def test_the_alerts_fire_when_they_should_and_only_then(promtool: str) -> None:
    check(promtool, "test", "rules", "tests/alerts.yml")


def test_the_dashboards_queries_are_valid(promtool: str, tmp_path: Path) -> None:
    asked = [filled(query, window="1d") for path in DASHBOARDS for query in queries(path).values()]
    found = [{"record": f"checked:query_{number}", "expr": query} for number, query in enumerate(asked)]
    (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": found}]}))

    check(promtool, "check", "rules", str(tmp_path / "queries.yml"))


def test_every_alert_is_tested() -> None:
    tested = {
        test["alertname"]
        for group in read_yaml(FOLDER / "tests/alerts.yml")["tests"]
        for test in group.get("alert_rule_test", ())
    }

    assert set(rules("alert")) == tested


def test_every_alert_has_its_entry_in_the_runbook() -> None:
    headings = set(re.findall(r"^#+ (.+)$", (ROOT / "docs/runbook.md").read_text(), flags=re.MULTILINE))

    assert set(rules("alert")) <= headings
    for name, rule in rules("alert").items():
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{name.lower()}"
        assert rule["labels"]["severity"] in {"warning", "critical"}


def test_the_local_prometheus_finds_the_stack_as_the_commands_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(local, "read_stack_settings", asked.append)
    monkeypatch.setattr(sys, "argv", ["local"])
    monkeypatch.setenv("EXPUNGE_DATA", str(tmp_path))
    with pytest.raises(SystemExit, match="No stack runs there"):
        local.main()
    assert asked == [tmp_path]
