from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from expunge.cli.caller import do_not_train
from expunge.errors import Refused
from ledger.jobs.approvals import set_approvals
from ledger.registry.access import issue_key
from tests.fixtures.waiting import PATIENCE, await_that
from tests.service.conftest import SAMPLE_KEY, Serve, Site, publish_job, set_up


def test_a_model_is_shown_with_its_newest_version_and_policy(serve: Serve, site: Site) -> None:
    (model,) = serve(key=site.reader).get("/models").json()["items"]

    assert (model["name"], model["dataset"], model["training_samples"], model["erased_samples"]) == (
        "triage",
        "scans",
        50,
        0,
    )
    assert [spec["kind"] for spec in model["policy"]] == ["ieu", "retrain"]
    assert model["version"]["number"] == 1
    assert model["version"]["weights_sha256"] == "0" * 64


def test_where_the_weights_lie_is_not_shown(serve: Serve, site: Site) -> None:
    client = serve(key=site.reader)

    assert "/nowhere" not in client.get("/models/triage").text + client.get("/models/triage/versions").text


def test_versions_come_newest_first(serve: Serve, site: Site) -> None:
    assert [version["number"] for version in serve(key=site.reader).get("/models/triage/versions").json()["items"]] == [
        1
    ]


def test_an_unknown_model_is_a_problem_with_its_name(serve: Serve, site: Site) -> None:
    for path in ("/models/triagee", "/models/triagee/versions"):
        answer = serve(key=site.reader).get(path)

        assert answer.status_code == 404
        assert answer.json()["type"].endswith("/unknown-model")
        assert "triagee" in answer.json()["detail"]


def test_a_name_with_a_control_character_is_the_callers_fault(serve: Serve, site: Site) -> None:
    answer = serve(key=site.reader).get("/models/%00")

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["in"] == "path"


def test_another_tenant_sees_nothing_of_it(serve: Serve, site: Site, sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        other = set_up(session, "bank")
    ours, theirs = (serve(key=key).get("/models").json()["items"] for key in (site.reader, other.reader))

    assert ours[0]["id"] != theirs[0]["id"]
    assert len(ours) == len(theirs) == 1


def test_the_served_version_is_shown_and_one_from_before_an_erasure_is_refused(
    serve: Serve, site: Site, sessions: sessionmaker[Session]
) -> None:
    client = serve(key=site.admin)
    asked = {"dataset": "scans", "sample_ids": ["sample-1"], "expedite": True}
    publish_job(sessions, client.post("/unlearn-requests", json=asked).json()["targets"][0]["job"]["id"])
    versions = client.get("/models/triage/versions").json()["items"]
    assert [(version["number"], version["served"]) for version in versions] == [(2, True), (1, False)]
    assert client.get("/models/triage").json()["version"]["number"] == 2

    refused = client.post("/models/triage/versions/1:promote")
    assert (refused.status_code, refused.json()["type"].rpartition("/")[2]) == (409, "samples-erased")
    assert "1 sample " in refused.json()["detail"]
    assert client.post("/models/triage/versions/2:promote").json()["served"] is True
    assert client.post("/models/triage/versions/7:promote").status_code == 404
    assert client.get("/models/triage/events").json() == {"items": []}


def test_an_admin_says_how_much_accuracy_a_version_may_lose(serve: Serve, site: Site) -> None:
    client = serve(key=site.admin)
    assert client.get("/models/triage").json()["approve_utility_drop"] == 2.0
    changed = client.patch("/models/triage", json={"approve_utility_drop": 5})
    assert (changed.status_code, changed.json()["approve_utility_drop"]) == (200, 5.0)
    for wrong in (-1, 101, "much", True):
        assert client.patch("/models/triage", json={"approve_utility_drop": wrong}).status_code == 422
    assert client.get("/models/triage").json()["approve_utility_drop"] == 5.0


def test_promoting_needs_its_own_scope(serve: Serve, site: Site, sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        key = issue_key(session, tenant_id=site.tenant_id, name="release", scopes=["models:write"]).secret
    assert serve(key=key).post("/models/triage/versions/1:promote").status_code == 200
    assert serve(key=site.writer).post("/models/triage/versions/1:promote").status_code == 403


def test_whoever_promotes_while_an_admin_asks_for_approvals_comes_before_or_after_it(
    serve: Serve, site: Site, sessions: sessionmaker[Session]
) -> None:
    with sessions.begin() as session:
        key = issue_key(session, tenant_id=site.tenant_id, name="release", scopes=["models:write"]).secret
    blocked = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )

    def waits() -> bool:
        with sessions() as session:
            return bool(session.scalar(blocked))

    with ThreadPoolExecutor(1) as other, sessions.begin() as session:
        set_approvals(session, tenant_id=site.tenant_id, model="triage", versions=True, by="admin")
        promoted = other.submit(serve(key=key).post, "/models/triage/versions/1:promote")
        await_that(waits, "the promotion to wait")
        session.commit()
        assert promoted.result(PATIENCE).status_code == 403


def test_the_sample_key_tells_what_not_to_train_on(
    serve: Serve, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    client = serve(key=site.admin)
    client.post("/unlearn-requests", json={"dataset": "scans", "sample_ids": ["sample-1", "sample-7", "sample-70"]})

    def listed(dataset: str = "scans", **more: Any) -> list[str]:
        ids = StringIO("".join(f"sample-{number}\n" for number in range(10)))
        do_not_train(dataset, site.admin, ids=ids, sample_key=SAMPLE_KEY, url=str(client.base_url), **more)  # type: ignore[arg-type]  # lines
        return capsys.readouterr().out.split()

    for model in ("triage", None):
        assert listed(model=model, left_out=True) == ["sample-1", "sample-7"]
        assert len(listed(model=model)) == 8
    with pytest.raises(Refused, match="no dataset named"):
        listed("nowhere")


def test_an_admin_sets_when_a_model_s_jobs_escalate(serve: Serve, site: Site) -> None:
    admin = serve(key=site.admin)
    given = {"escalate": "always", "batch_until_samples": 10}

    model = admin.patch("/models/triage", json=given).json()

    assert {name: model[name] for name in given} == given
    assert admin.patch("/models/triage", json={"approve_jobs": True}).json()["escalate"] == "always"
    assert admin.patch("/models/triage", json={"batch_until_samples": 0}).json()["batch_until_samples"] is None
    assert admin.patch("/models/triage", json={"escalate": "sometimes"}).status_code == 422
    events = admin.get("/models/triage/events").json()["items"]
    assert [event["kind"] for event in events] == ["model.escalation", "model.approvals", "model.escalation"]
    assert all("None" not in event["text"] for event in events)
    assert serve(key=site.reader).patch("/models/triage", json=given).status_code == 403
