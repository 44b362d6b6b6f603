from typing import Any

import pytest
from sqlalchemy.orm import Session, sessionmaker

from ledger.jobs.claims import lock_claimed_job
from ledger.jobs.results import fail
from ledger.states import Reason
from tests.service.conftest import Serve, Site, begin_job, fail_job, masked, publish_job, set_up

ASKED = {"dataset": "scans", "sample_ids": ["sample-1", "sample-2"], "expedite": True}


def test_a_running_job_tells_how_far_it_is(serve: Serve, site: Site, sessions: sessionmaker[Session]) -> None:
    client = serve(key=site.admin)
    job_id = client.post("/unlearn-requests", json=ASKED).json()["targets"][0]["job"]["id"]
    begin_job(sessions, job_id)

    answer = client.get(f"/jobs/{job_id}")

    job = answer.json()
    assert (job["state"], job["phase"], job["progress"], job["step"], job["total"]) == (
        "running",
        "unlearn",
        0.5,
        12,
        24,
    )
    assert (job["eta_seconds"], job["metrics"]) == (3.5, {"forget_loss": 1.25})
    assert (job["attempt"], job["method"]["kind"], job["timings"]["unlearn"]) == (1, "ieu", 3.0)
    assert (job["requests"], job["samples"], job["base_version"]) == (1, 2, 1)
    assert int(answer.headers["retry-after"]) > 0


def test_polling_with_the_etag_costs_no_body_until_something_changes(
    serve: Serve, site: Site, sessions: sessionmaker[Session]
) -> None:
    client = serve(key=site.admin)
    path = "/jobs/" + client.post("/unlearn-requests", json=ASKED).json()["targets"][0]["job"]["id"]
    tag = client.get(path).headers["etag"]

    unchanged = client.get(path, headers={"If-None-Match": tag})
    begin_job(sessions, path.removeprefix("/jobs/"))
    changed = client.get(path, headers={"If-None-Match": tag})

    assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", tag)
    assert int(unchanged.headers["retry-after"]) > 0
    assert changed.status_code == 200
    assert changed.headers["etag"] != tag


def test_a_finished_job_names_its_report_and_need_not_be_asked_again(
    serve: Serve, site: Site, sessions: sessionmaker[Session]
) -> None:
    client = serve(key=site.admin)
    job_id = client.post("/unlearn-requests", json=ASKED).json()["targets"][0]["job"]["id"]
    report_id = publish_job(sessions, job_id)

    answer = client.get(f"/jobs/{job_id}")

    job = answer.json()
    assert (job["state"], job["phase"], job["progress"]) == ("completed", "done", 1.0)
    assert (job["report_id"], job["version"], job["verdict"]) == (str(report_id), 2, "verified")
    assert "retry-after" not in answer.headers
    (attempt,) = client.get(f"/jobs/{job_id}/attempts").json()["items"]
    assert (attempt["number"], attempt["outcome"]) == (1, "published")


def test_the_timeline_can_be_read_on_from_an_event(serve: Serve, site: Site, sessions: sessionmaker[Session]) -> None:
    client = serve(key=site.admin)
    job_id = client.post("/unlearn-requests", json=ASKED).json()["targets"][0]["job"]["id"]
    first = client.get(f"/jobs/{job_id}/events").json()["items"]
    publish_job(sessions, job_id)

    rest = client.get(f"/jobs/{job_id}/events", params={"after": first[-1]["id"]}).json()["items"]

    assert [event["kind"] for event in first] == ["job.opened", "job.joined"]
    assert [event["kind"] for event in rest][-1] == "job.completed"
    assert all(event["text"] for event in rest)


def test_jobs_are_listed_with_filters(serve: Serve, site: Site, sessions: sessionmaker[Session]) -> None:
    client = serve(key=site.admin)
    job_id = client.post("/unlearn-requests", json=ASKED).json()["targets"][0]["job"]["id"]
    publish_job(sessions, job_id)
    client.post("/unlearn-requests", json=ASKED | {"sample_ids": ["sample-3"]})

    assert len(client.get("/jobs").json()["items"]) == 2
    assert [job["id"] for job in client.get("/jobs", params={"state": "completed"}).json()["items"]] == [job_id]
    assert len(client.get("/jobs", params={"model": "triage"}).json()["items"]) == 2
    assert client.get("/jobs", params={"limit": 1}).json()["next_cursor"]


@pytest.mark.parametrize("path", ["/jobs", "/unlearn-requests"])
def test_a_list_for_an_unknown_model_is_refused(
    serve: Serve, site: Site, sessions: sessionmaker[Session], path: str
) -> None:
    client = serve(key=site.admin)
    client.post("/unlearn-requests", json=ASKED)
    with sessions.begin() as session:
        other = set_up(session, "bank")

    assert client.get(path, params={"model": "triage"}).json()["items"]
    assert serve(key=other.admin).get(path, params={"model": "triage"}).json()["items"] == []
    for answer in (client.get(path, params={"model": "nope"}), client.get(path, params={"model": "nope", "limit": 1})):
        assert (answer.status_code, answer.json()["type"].rpartition("/")[2]) == (404, "unknown-model")
        assert "'nope'" in answer.json()["detail"]


def test_a_cursor_is_good_for_its_own_list_alone(serve: Serve, site: Site, sessions: sessionmaker[Session]) -> None:
    client = serve(key=site.admin)
    for name in ("sample-1", "sample-2"):
        request = client.post("/unlearn-requests", json=ASKED | {"sample_ids": [name]}).json()
        fail_job(sessions, request["targets"][0]["job"]["id"])
    cursors = {
        path: client.get(path, params={"limit": 1}).json()["next_cursor"] for path in ("/jobs", "/unlearn-requests")
    }

    for path, cursor in cursors.items():
        for other in cursors:
            answer = client.get(other, params={"cursor": cursor})
            assert answer.status_code == (200 if other == path else 422), (path, other)
            assert other == path or answer.json()["type"].endswith("/invalid-cursor")


def test_a_waiting_job_is_cancelled_at_once(serve: Serve, site: Site) -> None:
    client = serve(key=site.admin)
    job_id = client.post("/unlearn-requests", json=ASKED).json()["targets"][0]["job"]["id"]

    answer = client.post(f"/jobs/{job_id}:cancel")

    assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")


def test_a_running_job_is_asked_to_stop(serve: Serve, site: Site, sessions: sessionmaker[Session]) -> None:
    client = serve(key=site.admin)
    job_id = client.post("/unlearn-requests", json=ASKED).json()["targets"][0]["job"]["id"]
    begin_job(sessions, job_id)

    answer = client.post(f"/jobs/{job_id}:cancel")

    assert (answer.status_code, answer.json()["state"], answer.json()["cancel_requested"]) == (200, "running", True)


@pytest.mark.parametrize("verb", ["cancel", "retry"])
def test_a_completed_job_can_be_neither_cancelled_nor_retried(
    serve: Serve, site: Site, sessions: sessionmaker[Session], verb: str
) -> None:
    client = serve(key=site.admin)
    job_id = client.post("/unlearn-requests", json=ASKED).json()["targets"][0]["job"]["id"]
    publish_job(sessions, job_id)

    answer = client.post(f"/jobs/{job_id}:{verb}")

    assert answer.status_code == 409
    assert "completed" in answer.json()["detail"]


def test_a_failed_job_says_why_and_can_be_retried(serve: Serve, site: Site, sessions: sessionmaker[Session]) -> None:
    client = serve(key=site.admin)
    job_id = client.post("/unlearn-requests", json=ASKED).json()["targets"][0]["job"]["id"]
    claimed = begin_job(sessions, job_id)
    with sessions.begin() as session:
        job = lock_claimed_job(session, claimed)
        fail(session, job, reason=Reason.WEIGHTS_DAMAGED, detail="The digest does not fit.")

    failed = client.get(f"/jobs/{job_id}").json()
    retried = client.post(f"/jobs/{job_id}:retry")

    assert (failed["state"], failed["reason"], failed["detail"]) == (
        "failed",
        "weights_damaged",
        "The digest does not fit.",
    )
    assert (retried.status_code, retried.json()["state"], retried.json()["attempt"]) == (200, "queued", 2)


def test_another_tenant_can_neither_see_nor_stop_it(serve: Serve, site: Site, sessions: sessionmaker[Session]) -> None:
    path = "/jobs/" + serve(key=site.admin).post("/unlearn-requests", json=ASKED).json()["targets"][0]["job"]["id"]
    with sessions.begin() as session:
        other = set_up(session, "bank")
    client = serve(key=other.admin)

    answers = [client.get(path), client.get(path + "/events"), client.get(path + "/attempts")]
    answers += [client.post(path + ":cancel"), client.post(path + ":retry")]

    assert {answer.status_code for answer in answers} == {404}
    assert client.get("/jobs").json()["items"] == []


def test_reading_is_not_enough_to_stop_a_job(serve: Serve, site: Site) -> None:
    path = "/jobs/" + serve(key=site.admin).post("/unlearn-requests", json=ASKED).json()["targets"][0]["job"]["id"]

    assert serve(key=site.reader).post(path + ":cancel").status_code == 403


def answers_to_a_writer(
    serve: Serve, sessions: sessionmaker[Session], site: Site, *, matching: int
) -> dict[str, dict[str, Any]]:
    """What a key with `requests:write` alone gets to know of four samples, of which so many are in the training set."""
    names = [f"sample-{place}" for place in (*range(matching), *range(50, 54 - matching))]
    client, reader, found = serve(key=site.writer), serve(key=site.reader), {}
    body = ASKED | {"sample_ids": names}

    def job_of(request: dict[str, Any]) -> str:
        joined: str = reader.get(f"/unlearn-requests/{request['id']}").json()["targets"][0]["job"]["id"]
        return joined

    found["submitted"] = client.post("/unlearn-requests", json=body).json()
    running = job_of(found["submitted"])
    claimed = begin_job(sessions, running)
    found["stopping"] = client.post(f"/jobs/{running}:cancel").json()
    with sessions.begin() as session:
        job = lock_claimed_job(session, claimed)
        fail(session, job, reason=Reason.CANCELLED_BY_CALLER, detail="Cancelled.")
    request = client.post("/unlearn-requests", json=body).json()
    failing = job_of(request)
    claimed = begin_job(sessions, failing)
    with sessions.begin() as session:
        detail = f"The audit of the {matching} samples failed."
        fail(session, lock_claimed_job(session, claimed), reason=Reason.AUDIT_FAILED, detail=detail)
    path = f"/unlearn-requests/{request['id']}"
    found["extended"] = client.post(f"{path}:extend", json={"reason": "It takes long."}).json()
    found["retried"] = client.post(f"/jobs/{failing}:retry").json()
    found["withdrawn"] = client.post(f"{path}:cancel").json()
    return found


def test_no_answer_tells_a_key_that_may_not_read_how_many_samples_match(
    serve: Serve, site: Site, sessions: sessionmaker[Session]
) -> None:
    with sessions.begin() as session:
        other = set_up(session, "bank")
    few, many = (answers_to_a_writer(serve, sessions, of, matching=count) for of, count in ((site, 1), (other, 3)))

    assert (few["stopping"]["cancel_requested"], few["retried"]["state"]) == (True, "queued")
    for answers in (few, many):
        for job in (answers["stopping"], answers["retried"]):
            assert [job[name] for name in ("samples", "requests", "verdict", "detail", "fallback")] == [None] * 5
            assert (job["metrics"], job["timings"], job["step"], job["total"]) == ({}, {}, 0, 0)
        for request in (answers["submitted"], answers["extended"], answers["withdrawn"]):
            assert (request["samples"], request["state"], request["targets"]) == (None, None, [])
    for name, answer in few.items():
        assert masked(answer) == masked(many[name]), name


def test_a_key_that_may_read_too_sees_what_it_stops(serve: Serve, site: Site, sessions: sessionmaker[Session]) -> None:
    client = serve(key=site.admin)
    job_id = client.post("/unlearn-requests", json=ASKED).json()["targets"][0]["job"]["id"]
    begin_job(sessions, job_id)

    job = client.post(f"/jobs/{job_id}:cancel").json()

    assert (job["samples"], job["requests"], job["metrics"], job["total"]) == (2, 1, {"forget_loss": 1.25}, 24)


def test_where_approval_is_needed_a_job_and_its_version_wait_for_an_admin(
    serve: Serve, site: Site, sessions: sessionmaker[Session]
) -> None:
    admin, writer = serve(key=site.admin), serve(key=site.writer)
    assert writer.patch("/models/triage", json={"approve_jobs": True}).status_code == 403
    model = admin.patch("/models/triage", json={"approve_jobs": True, "approve_versions": True}).json()
    assert (model["approve_jobs"], model["approve_versions"]) == (True, True)
    asked = {"dataset": "scans", "sample_ids": ["sample-1"], "expedite": True}
    path = f"/jobs/{admin.post('/unlearn-requests', json=asked).json()['targets'][0]['job']['id']}"

    assert writer.post(f"{path}:approve").status_code == 403
    approved = admin.post(f"{path}:approve").json()
    assert approved["approved_by"].startswith("key:")
    publish_job(sessions, approved["id"])
    waiting = admin.get(path).json()
    assert (waiting["state"], waiting["phase"], waiting["version"]) == ("awaiting_approval", "publish", 2)
    assert admin.get("/models/triage").json()["version"]["number"] == 1

    assert admin.post(f"{path}:approve").json()["state"] == "completed"
    assert admin.get("/models/triage").json()["version"]["number"] == 2
    assert admin.post(f"{path}:reject").status_code == 409
    kinds = [event["kind"] for event in admin.get(f"{path}/events").json()["items"]]
    assert kinds.count("job.approved") == 2
