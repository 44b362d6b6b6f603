"""A person's e-mail arrives by OpenDSR: it is unlearned from two models of two data sets, and nothing keeps it."""

from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from expunge import client
from expunge.errors import Refused
from expunge.operator.deployment import find_deployment, open_database
from expunge.operator.registration import register_workload
from expunge.operator.subjects import import_subjects, read_csv
from expunge.operator.training import Trained
from expunge.stack.stack import Stack
from tests.end_to_end.conftest import REFERENCE, SAMPLES
from tests.fixtures.opendsr import controller, verify
from tests.fixtures.postgresql import stored_rows
from tests.fixtures.registration import RETRAINED
from tests.fixtures.waiting import await_that
from verifier.checking import verify_files

pytestmark = pytest.mark.end_to_end

PERSON, STRANGER = "eve@example.org", "stranger@example.org"
"""Nobody else's tests have samples of this person: a request by OpenDSR is for all data sets of the tenant."""

MODELS = ("faces", "voices")


def test_a_person_is_unlearned_from_two_models(
    running: Stack, http: httpx.Client, trained: Trained, tmp_path: Path
) -> None:
    where = find_deployment(running.folder.root)
    table = ["user_id,sample_id", *(f"{PERSON},{sample}" for sample in SAMPLES)]
    for name in MODELS:
        register_workload(
            where,
            name=name,
            reference=REFERENCE,
            weights=trained.path,
            dataset=name,
            **RETRAINED,
        )
        assert import_subjects(where, dataset=name, rows=read_csv(table)).unmatched < len(SAMPLES)

    asked = {
        "regulation": "gdpr",
        "subject_request_id": str(uuid4()),
        "subject_request_type": "erasure",
        "submitted_time": "2026-01-31T15:00:00Z",
        "subject_identities": [
            {"identity_type": "email", "identity_value": name, "identity_format": "raw"} for name in (PERSON, STRANGER)
        ],
    }
    with controller() as seen:
        answer = http.post("/opendsr/v2/requests", json={**asked, "status_callback_urls": [seen.url]})
        assert answer.status_code == 201, answer.text
        await_that(lambda: seen.statuses[-1:] == ["completed"], "the last callback")
    certificates = http.get("/opendsr/v2/certificate.pem").text
    for headers, body in seen.calls:
        verify(certificates, headers["X-OpenDSR-Signature"], body)

    request = next(one for one in client.list_requests(http) if one.external_id == asked["subject_request_id"])
    assert request.subjects is not None
    assert (request.subjects.given, request.subjects.matched) == (2, 1)
    assert request.datasets == MODELS
    for job_id in client.job_ids(request):
        job = client.get_job(http, job_id)
        assert job.state == "completed", job
        assert job.report_id is not None
        report = client.get_report(http, job.report_id)
        assert report.asked.subjects == 1
        assert report.asked.samples == job.samples
        files = {name: tmp_path / name for name in ("statement", "keys", "person")}
        files["statement"].write_bytes(http.get(f"/reports/{job.report_id}/statement").content)
        files["keys"].write_bytes(http.get("/keys").content)
        files["person"].write_bytes(client.get_inclusion(http, job.report_id, subject=PERSON))
        outcome = verify_files(files["statement"], keys=[files["keys"]], subject=files["person"])
        assert outcome.refused is None
        with pytest.raises(Refused, match="not among those"):
            client.get_inclusion(http, job.report_id, subject=STRANGER)

    done = client.get_request(http, request.id)
    assert [(target.model, target.version) for target in done.targets] == [(name, 2) for name in MODELS]
    assert not done.unserved
    for name in MODELS:
        with pytest.raises(Refused, match="still knows"):
            client.promote(http, name, 1)
    with open_database(running.settings.database_url) as sessions, sessions() as session:
        rows = stored_rows(session)
    logs = [path.read_text() for path in running.folder.logs.iterdir()]
    assert "@example.org" not in str([rows, logs, seen.calls, http.get("/metrics").text])
