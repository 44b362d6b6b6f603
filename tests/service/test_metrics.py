from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.orm import Session, sessionmaker

from ledger.jobs.claims import enter_verifying, lock_claimed_job
from ledger.jobs.results import escalate
from ledger.jobs.workers import STORAGE, record_heartbeat
from ledger.transparency.log import sign_checkpoint
from ledger.transparency.signing_keys import register_signing_key
from service import metrics
from tests.service.conftest import Serve, Site, begin_job, publish_job, set_up
from tests.verifier.conftest import make_signer

ASKED = {"dataset": "scans", "sample_ids": ["sample-1", "sample-2"], "expedite": True}


def scraped(text: str) -> dict[str, float]:
    return {
        f"{sample.name}{dict(sorted(sample.labels.items())) or ''}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_known_label_set_is_there_from_the_start(serve: Serve, site: Site) -> None:
    found = scraped(serve(alone=True).get("/metrics").text)

    assert found["expunge_jobs{'state': 'running'}"] == 0
    assert found["expunge_requests{'state': 'rejected'}"] == 0
    assert found["expunge_requests_finished_total{'outcome': 'completed'}"] == 0
    assert found["expunge_unlearning_seconds_count{'method': 'ieu', 'model': 'triage', 'tenant': 'clinic'}"] == 0
    assert found["expunge_stage_duration_seconds_count{'method': 'retrain', 'stage': 'audit_relearn'}"] == 0
    assert found["expunge_audit_verdicts_total{'model': 'triage', 'tenant': 'clinic', 'verdict': 'failed'}"] == 0
    assert found["expunge_samples_erased_total{'model': 'triage', 'tenant': 'clinic'}"] == 0
    assert found["expunge_wakeups_total{'outcome': 'lost'}"] == 0
    assert found["expunge_requests_overdue"] == 0
    for state in ("open", "failed"):
        for due in ("overdue", "within_72h", "within_7d", "later"):
            assert found[f"expunge_requests_unserved{{'due': '{due}', 'state': '{state}', 'tenant': 'clinic'}}"] == 0
    assert found["expunge_job_failures_total{'model': 'triage', 'tenant': 'clinic'}"] == 0
    assert found["expunge_jobs_unserved{'model': 'triage', 'tenant': 'clinic'}"] == 0


def test_a_published_job_is_counted_and_timed(serve: Serve, site: Site, sessions: sessionmaker[Session]) -> None:
    client = serve(key=site.admin)
    publish_job(sessions, client.post("/unlearn-requests", json=ASKED).json()["targets"][0]["job"]["id"])

    found = scraped(client.get("/metrics").text)

    assert found["expunge_jobs{'state': 'completed'}"] == 1
    assert found["expunge_requests_received_total"] == 1
    assert found["expunge_requests_finished_total{'outcome': 'completed'}"] == 1
    assert found["expunge_requests_finished_late_total{'outcome': 'completed'}"] == 0
    assert found["expunge_samples_erased_total{'model': 'triage', 'tenant': 'clinic'}"] == 2
    assert found["expunge_audit_verdicts_total{'model': 'triage', 'tenant': 'clinic', 'verdict': 'verified'}"] == 1
    ieu = "'method': 'ieu', 'model': 'triage', 'tenant': 'clinic'"
    assert found[f"expunge_unlearning_seconds_sum{{{ieu}}}"] == 4.0
    assert found[f"expunge_data_wait_seconds_total{{{ieu}}}"] == 1.0
    assert found[f"expunge_unlearning_seconds_bucket{{'le': '2.0', {ieu}}}"] == 0
    assert found[f"expunge_unlearning_seconds_bucket{{'le': '5.0', {ieu}}}"] == 1
    assert found[f"expunge_unlearning_seconds_bucket{{'le': '+Inf', {ieu}}}"] == 1
    assert found["expunge_stage_duration_seconds_sum{'method': 'ieu', 'stage': 'audit_membership'}"] == 2.0
    assert found["expunge_request_completion_seconds_bucket{'le': '60.0'}"] == 1
    assert found["expunge_queue_wait_seconds_count"] == 1
    assert found["expunge_job_requests_sum"] == 1
    assert -1 <= found["expunge_audit_utility_delta_ratio{'model': 'triage', 'tenant': 'clinic'}"] <= 1
    assert 0 <= found["expunge_audit_membership_auc_ratio{'model': 'triage', 'tenant': 'clinic'}"] <= 1
    assert found["expunge_audit_relearn_delay_ratio{'model': 'triage', 'tenant': 'clinic'}"] > 0
    assert found["expunge_exporter_up"] == 1


def test_a_value_on_a_bound_counts_below_it(serve: Serve, site: Site, sessions: sessionmaker[Session]) -> None:
    client = serve(key=site.admin)
    publish_job(sessions, client.post("/unlearn-requests", json=ASKED).json()["targets"][0]["job"]["id"])

    found = scraped(client.get("/metrics").text)

    audit = "'method': 'ieu', 'stage': 'audit_membership'"  # two seconds
    assert found[f"expunge_stage_duration_seconds_bucket{{'le': '2.0', {audit}}}"] == 1
    assert found[f"expunge_stage_duration_seconds_bucket{{'le': '1.0', {audit}}}"] == 0


def test_an_attempt_that_the_audit_did_not_verify_is_timed_under_its_own_method(
    serve: Serve, site: Site, sessions: sessionmaker[Session]
) -> None:
    client = serve(key=site.admin)
    claimed = begin_job(sessions, client.post("/unlearn-requests", json=ASKED).json()["targets"][0]["job"]["id"])
    with sessions.begin() as session:
        job = lock_claimed_job(session, claimed)
        enter_verifying(session, job)
        escalate(session, job, claimed, finding={"verdict": "inconclusive"}, why="Not verified.")

    found = scraped(client.get("/metrics").text)

    assert found["expunge_unlearning_seconds_sum{'method': 'ieu', 'model': 'triage', 'tenant': 'clinic'}"] == 3.0
    assert found["expunge_unlearning_seconds_count{'method': 'retrain', 'model': 'triage', 'tenant': 'clinic'}"] == 0
    assert found["expunge_earliest_deadline_timestamp_seconds"] > 0


def test_no_id_and_no_sample_is_in_a_label(serve: Serve, site: Site) -> None:
    client = serve(key=site.admin)
    body = client.post("/unlearn-requests", json=ASKED).json()
    client.get(f"/unlearn-requests/{body['id']}")
    client.get("/nowhere/sample-1")

    text = client.get("/metrics").text

    assert body["id"] not in text
    assert "sample-1" not in text
    assert 'handler="/unlearn-requests/{request_id' in text


def test_versions_storage_and_log_are_measured(serve: Serve, site: Site, sessions: sessionmaker[Session]) -> None:
    client = serve(key=site.admin)
    found = scraped(client.get("/metrics").text)
    of_model = "{'model': 'triage', 'tenant': 'clinic'}"
    assert (found[f"expunge_served_version{of_model}"], found[f"expunge_versions_knowing_erased{of_model}"]) == (1, 0)
    assert not [name for name in found if name.startswith(("expunge_storage_", "expunge_log_"))]

    signer = make_signer()
    publish_job(sessions, client.post("/unlearn-requests", json=ASKED).json()["targets"][0]["job"]["id"])
    with sessions.begin() as session:
        register_signing_key(session, key_id=signer.key_id, public_key="PEM")
        record_heartbeat(session, STORAGE, {"free": 30, "size": 100})
    found = scraped(client.get("/metrics").text)
    assert (found[f"expunge_served_version{of_model}"], found[f"expunge_versions_knowing_erased{of_model}"]) == (2, 1)
    assert (found["expunge_storage_free_bytes"], found["expunge_storage_size_bytes"]) == (30, 100)
    waiting_since = found["expunge_log_unsigned_oldest_timestamp_seconds"]
    with sessions.begin() as session:
        sign_checkpoint(session, signer.checkpoint)
    found = scraped(client.get("/metrics").text)
    assert found["expunge_log_checkpoint_timestamp_seconds"] > waiting_since
    assert "expunge_log_unsigned_oldest_timestamp_seconds" not in found


def test_invented_methods_and_paths_add_no_series(serve: Serve, site: Site) -> None:
    client = serve(alone=True)
    for method in ("BREW", "PROPFIND"):
        client.request(method, "/keys")
        client.request(method, "/nowhere")

    def count() -> int:
        return sum(name.startswith("http_") for name in scraped(client.get("/metrics").text))

    before = count()
    for number in range(20):
        client.request(f"BREW{number}", "/keys")
        client.request(f"BREW{number}", f"/nowhere/{number}")
    assert count() == before
    assert "BREW" not in client.get("/metrics").text


def test_many_scrapers_read_the_ledger_once(
    serve: Serve, site: Site, sessions: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "MAX_AGE", 3600.0)
    client = serve(alone=True)
    with ThreadPoolExecutor(8) as pool:
        texts = {answer.text for answer in pool.map(lambda _: client.get("/metrics"), range(16))}
    assert len(texts) == 1
    with sessions.begin() as session:
        set_up(session, "newcomer")
    assert "newcomer" not in client.get("/metrics").text


def test_two_tenants_with_one_models_name_have_series_of_their_own(
    serve: Serve, site: Site, sessions: sessionmaker[Session]
) -> None:
    with sessions.begin() as session:
        other = set_up(session, "bank")
    client = serve(key=site.admin)
    publish_job(sessions, client.post("/unlearn-requests", json=ASKED).json()["targets"][0]["job"]["id"])
    for key in (site.admin, other.admin):
        headers = {"Authorization": f"Bearer {key}"}
        asked = client.post("/unlearn-requests", json=ASKED | {"sample_ids": ["sample-9"]}, headers=headers).json()
        begin_job(sessions, asked["targets"][0]["job"]["id"])

    series = [
        (sample.name, *sorted(sample.labels.items()))
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
    ]

    assert len(series) == len(set(series))
    owners = {dict(labels).get("tenant") for _, *labels in series if dict(labels).get("model") == "triage"}
    assert owners == {"clinic", "bank"}


def test_beyond_the_limit_of_series_counts_are_added_up_and_ratios_left_out(
    serve: Serve, site: Site, sessions: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "MAX_OWNERS", 1)
    with sessions.begin() as session:
        set_up(session, "a bank")
    client = serve(key=site.admin)
    publish_job(sessions, client.post("/unlearn-requests", json=ASKED).json()["targets"][0]["job"]["id"])

    found = scraped(client.get("/metrics").text)

    assert found["expunge_samples_erased_total{'model': 'triage', 'tenant': 'a bank'}"] == 0
    assert found["expunge_samples_erased_total{'model': '_other', 'tenant': '_other'}"] == 2
    assert found["expunge_unlearning_seconds_sum{'method': 'ieu', 'model': '_other', 'tenant': '_other'}"] == 4.0
    assert found["expunge_training_seconds{'model': 'triage', 'tenant': 'a bank'}"] == 60
    assert not [name for name in found if "_ratio" in name and "_other" in name]
