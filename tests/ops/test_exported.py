"""Dashboards and rules ask only for what the service exports; asked of the service itself, after a job."""

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.orm import Session, sessionmaker

from tests.ops.files import DASHBOARDS, EXPORTED_BY, metrics_of, queries, rules
from tests.service.conftest import Serve, Site, begin_job, publish_job

ASKED = {"dataset": "scans", "sample_ids": ["sample-1"], "expedite": True}


@pytest.fixture
def exported(serve: Serve, site: Site, sessions: sessionmaker[Session]) -> set[str]:
    """The names of all metrics, and of all time series after one job was published and another job runs."""
    client = serve(key=site.admin)
    publish_job(sessions, client.post("/unlearn-requests", json=ASKED).json()["targets"][0]["job"]["id"])
    begin_job(
        sessions,
        client.post("/unlearn-requests", json=ASKED | {"sample_ids": ["sample-2"]}).json()["targets"][0]["job"]["id"],
    )
    text = client.get("/metrics").text
    families = [*text_string_to_metric_families(text)]
    # A gauge of what waits has no series while nothing does, nor has a counter by connector where there is none.
    counters = {f"{family.name}_total" for family in families if family.type == "counter"}
    names = {family.name for family in families} | counters
    return names | {sample.name for family in families for sample in family.samples}


def test_dashboards_and_rules_ask_only_for_what_is_exported(exported: set[str]) -> None:
    asked = {name: query for path in DASHBOARDS for name, query in queries(path).items()}
    asked |= {name: rule["expr"] for kind in ("alert", "record") for name, rule in rules(kind).items()}
    known = exported.union(rules("record"), *EXPORTED_BY.values())

    unknown = {name: metrics_of(query) - known for name, query in asked.items() if metrics_of(query) - known}

    assert unknown == {}
    assert all(metrics_of(query) for query in asked.values())


def test_what_the_dashboard_watches_first_is_on_it() -> None:
    asked = set().union(*(metrics_of(query) for path in DASHBOARDS for query in queries(path).values()))

    assert {
        "expunge_unlearning_seconds_sum",
        "expunge_stage_duration_seconds_sum",
        "expunge_requests",
        "expunge_requests_unserved",
        "expunge_earliest_deadline_timestamp_seconds",
        "expunge_audit_membership_auc_ratio",
        "expunge_audit_relearn_delay_ratio",
        "expunge_audit_utility_delta_ratio",
        "expunge_audit_verdicts_total",
    } <= asked


def test_a_metrics_name_is_read_out_of_a_query() -> None:
    query = 'sum by (expunge_no) (rate(expunge_a_total{b="expunge_c"}[5m])) / up and x:expunge_d:mean > 1'

    assert metrics_of(query) == {"expunge_a_total", "up", "x:expunge_d:mean"}
