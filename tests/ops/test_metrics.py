"""What /metrics exports, held against the table that dashboards, alerts and other people's rules build on."""

import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from sqlalchemy.orm import Session, sessionmaker

from ledger.metrics import Due
from ledger.states import TERMINAL, JobState, RequestState, TryOutcome, Verdict
from tests.service.conftest import Serve, Site, begin_job, publish_job
from unlearning.specs import PRODUCTION

ASKED = {"dataset": "scans", "sample_ids": ["sample-1"], "expedite": True}
DAY = 86400.0
STAGES = {"load", "unlearn", "audit_membership", "audit_relearn", "report", "publish"}

CONTRACT: dict[str, tuple[str, dict[str, set[str] | None]]] = {
    # name: type, label → its values from the start (None: whatever is registered)
    "expunge_requests_received_total": ("counter", {}),
    "expunge_requests_finished_total": ("counter", {"outcome": {s for s in RequestState if s in TERMINAL}}),
    "expunge_requests_finished_late_total": ("counter", {"outcome": {s for s in RequestState if s in TERMINAL}}),
    "expunge_requests": ("gauge", {"state": set(RequestState)}),
    "expunge_jobs": ("gauge", {"state": set(JobState)}),
    "expunge_request_completion_seconds": ("histogram", {}),
    "expunge_unlearning_seconds": ("histogram", {"tenant": None, "model": None, "method": set(PRODUCTION)}),
    "expunge_data_wait_seconds_total": ("counter", {"tenant": None, "model": None, "method": None}),
    "expunge_stage_duration_seconds": ("histogram", {"stage": STAGES, "method": set(PRODUCTION)}),
    "expunge_queue_wait_seconds": ("histogram", {}),
    "expunge_job_requests": ("histogram", {}),
    "expunge_earliest_deadline_timestamp_seconds": ("gauge", {}),
    "expunge_requests_overdue": ("gauge", {}),
    "expunge_audit_membership_auc_ratio": ("gauge", {"tenant": None, "model": None}),
    "expunge_audit_relearn_delay_ratio": ("gauge", {"tenant": None, "model": None}),
    "expunge_audit_utility_delta_ratio": ("gauge", {"tenant": None, "model": None}),
    "expunge_audit_verdicts_total": ("counter", {"tenant": None, "model": None, "verdict": set(Verdict)}),
    "expunge_samples_erased_total": ("counter", {"tenant": None, "model": None}),
    "expunge_lease_expired_total": ("counter", {}),
    "expunge_stale_writes_rejected_total": ("counter", {}),
    "expunge_wakeups_total": ("counter", {"outcome": {"sent", "lost"}}),
    "expunge_webhook_deliveries_total": ("counter", {"outcome": set(TryOutcome)}),
    "expunge_build_info": ("gauge", {"version": None}),
    # beyond the contract
    "expunge_requests_unserved": ("gauge", {"tenant": None, "state": {"open", "failed"}, "due": set(Due)}),
    "expunge_job_failures_total": ("counter", {"tenant": None, "model": None}),
    "expunge_jobs_unserved": ("gauge", {"tenant": None, "model": None}),
    "expunge_served_version": ("gauge", {"tenant": None, "model": None}),
    "expunge_versions_knowing_erased": ("gauge", {"tenant": None, "model": None}),
    "expunge_storage_free_bytes": ("gauge", {}),
    "expunge_storage_size_bytes": ("gauge", {}),
    "expunge_log_checkpoint_timestamp_seconds": ("gauge", {}),
    "expunge_log_unsigned_oldest_timestamp_seconds": ("gauge", {}),
    "expunge_exporter_up": ("gauge", {}),
    "expunge_jobs_awaiting_approval": ("gauge", {"what": {"run", "version"}}),
    "expunge_worker_seen_timestamp_seconds": ("gauge", {}),
    "expunge_job_progress_ratio": ("gauge", {"tenant": None, "model": None, "stage": None}),
    "expunge_training_seconds": ("gauge", {"tenant": None, "model": None}),
    "expunge_outbox_waiting": ("gauge", {}),
    "expunge_outbox_oldest_timestamp_seconds": ("gauge", {}),
    "expunge_webhook_waiting": ("gauge", {}),
    "expunge_webhook_oldest_timestamp_seconds": ("gauge", {}),
    "expunge_hand_overs_missed_total": ("counter", {"connector": None}),
    "expunge_hand_overs_waiting": ("gauge", {"connector": None}),
    "expunge_hand_overs_oldest_timestamp_seconds": ("gauge", {"connector": None}),
}
ABSENT_WHERE_NOTHING_WAITS = {
    # No connector.
    "expunge_hand_overs_missed_total",
    "expunge_hand_overs_waiting",
    "expunge_hand_overs_oldest_timestamp_seconds",
    "expunge_webhook_oldest_timestamp_seconds",
    # No worker, no signing key.
    "expunge_storage_free_bytes",
    "expunge_storage_size_bytes",
    "expunge_log_checkpoint_timestamp_seconds",
    "expunge_log_unsigned_oldest_timestamp_seconds",
}
BOUNDS = {
    "expunge_request_completion_seconds": {28 * DAY, 30 * DAY, 31 * DAY, 92 * DAY},
    "expunge_stage_duration_seconds": {1.0, 8 * 3600.0},
}


def exported(text: str) -> dict[str, tuple[str, list[Sample]]]:
    """Type and samples of each metric; a counter goes by the name that its samples have."""
    return {
        family.name + ("_total" if family.type == "counter" else ""): (family.type, family.samples)
        for family in text_string_to_metric_families(text)
    }


@pytest.fixture
def text(serve: Serve, site: Site, sessions: sessionmaker[Session]) -> str:
    """The exposition after one job was published, while another runs and a third request waits."""
    browser = serve(key=site.admin)
    publish_job(sessions, browser.post("/unlearn-requests", json=ASKED).json()["targets"][0]["job"]["id"])
    asked = browser.post("/unlearn-requests", json=ASKED | {"sample_ids": ["sample-2"]}).json()
    begin_job(sessions, asked["targets"][0]["job"]["id"])
    return browser.get("/metrics").text


def test_every_metric_has_its_type_and_its_labels_and_there_is_no_other(text: str) -> None:
    found = exported(text)

    assert set(found) - {name for name in found if name.startswith("http_")} == set(CONTRACT)
    for name, (kind, labels) in CONTRACT.items():
        assert (name, found[name][0]) == (name, kind)
        assert found[name][1] or name in ABSENT_WHERE_NOTHING_WAITS, name
        for sample in found[name][1]:
            assert set(sample.labels) - {"le"} == set(labels), sample


def test_every_known_label_set_is_there_before_anything_has_happened(serve: Serve, site: Site) -> None:
    found = exported(serve().get("/metrics").text)

    for name, (_, labels) in CONTRACT.items():
        for label, values in labels.items():
            if values is not None:
                seen = {sample.labels[label] for sample in found[name][1]}
                assert seen == values, (name, label)
    assert found["expunge_requests_overdue"][1][0].value == 0
    assert {s.labels["model"] for s in found["expunge_unlearning_seconds"][1]} == {"triage"}


def test_the_legal_limits_are_bounds_of_buckets(text: str) -> None:
    for name, bounds in BOUNDS.items():
        found = {float(s.labels["le"]) for s in exported(text)[name][1] if "le" in s.labels}
        assert bounds <= found, name


def test_prometheus_own_checker_is_content(text: str, promtool: str) -> None:
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True)

    assert checked.returncode == 0, checked.stdout + checked.stderr
    complaints = [line for line in (checked.stdout + checked.stderr).splitlines() if line.startswith("expunge_")]
    assert complaints == []
