import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from ledger.events.webhooks import Try, queue_callback, record_try, take_batch
from ledger.states import TryOutcome
from tests.service.conftest import Serve, Site

URL = "https://example.org/hooks"


@pytest.fixture
def admin(serve: Serve, site: Site) -> httpx.Client:
    return serve(key=site.admin)


def add(admin: httpx.Client, **more: object) -> dict[str, object]:
    answer = admin.post("/webhooks", json={"url": URL, **more})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def test_the_secret_is_shown_once_and_again_only_as_another(
    admin: httpx.Client, sessions: sessionmaker[Session]
) -> None:
    made = add(admin, types=["job.failed"], description="pager")
    assert str(made["secret"]).startswith("whsec_")
    assert "secret" not in admin.get(f"/webhooks/{made['id']}").json()
    assert "secret" not in admin.get("/webhooks").json()["items"][0]
    rotated = admin.post(f"/webhooks/{made['id']}:rotate-secret").json()
    assert rotated["secret"] != made["secret"]
    with sessions() as session:
        rows = str(session.execute(text("SELECT * FROM webhook_endpoints")).all())
    assert str(made["secret"])[6:] not in rows


def test_an_endpoint_is_changed_disabled_enabled_and_deleted(admin: httpx.Client) -> None:
    path = f"/webhooks/{add(admin)['id']}"
    changed = admin.patch(path, json={"types": ["job.completed"], "enabled": False}).json()
    assert (changed["types"], changed["enabled"], changed["disabled_reason"]) == (["job.completed"], False, "by_caller")
    assert admin.patch(path, json={"enabled": True}).json()["enabled"] is True
    assert admin.delete(path).status_code == 204
    assert admin.get(path).status_code == 404


def test_an_address_that_requests_named_is_only_disabled_and_described(
    admin: httpx.Client, site: Site, sessions: sessionmaker[Session]
) -> None:
    with sessions.begin() as session:
        for url in (URL, f"{URL}/other"):
            queue_callback(session, tenant_id=site.tenant_id, url=url, body="{}")
    before = admin.get("/webhooks").json()["items"]
    path = f"/webhooks/{before[0]['id']}"
    assert before[0]["protocol"] == "opendsr"

    refused = [admin.patch(path, json={"url": f"{URL}/other"}), admin.patch(path, json={"types": ["job.failed"]})]
    refused += [admin.patch(path, json={"url": f"{URL}/new", "enabled": False}), admin.post(f"{path}:rotate-secret")]

    for answer in refused:
        assert (answer.status_code, answer.json()["type"].rpartition("/")[2]) == (409, "conflict")
        assert "OpenDSR" in answer.json()["detail"]
    assert admin.get("/webhooks").json()["items"] == before
    changed = admin.patch(path, json={"enabled": False, "description": "the portal"}).json()
    assert (changed["enabled"], changed["description"]) == (False, "the portal")


@pytest.mark.parametrize(
    "url",
    [
        "", "example.org", "ftp://example.org/", "https://", "https://user:pass@example.org/", "https://example.org/#top",
        "https://exämple.org/", "https://example.org:99999/", "https://[::1/", "https://example.org/\r\nHost: other",
        "javascript:alert(1)", "file:///etc/passwd",
    ],
)  # fmt: skip
def test_what_nothing_can_be_sent_to_is_refused(admin: httpx.Client, url: str) -> None:
    answer = admin.post("/webhooks", json={"url": url})
    assert answer.status_code == 422
    assert "pass@" not in answer.text


def test_the_log_shows_every_try_and_a_replay_makes_it_due_again(
    admin: httpx.Client, sessions: sessionmaker[Session]
) -> None:
    path = f"/webhooks/{add(admin, types=['request.received'])['id']}/deliveries"
    asked = admin.post("/unlearn-requests", json={"dataset": "scans", "sample_ids": ["sample-1"]}).json()
    with sessions.begin() as session:
        batch = take_batch(session)
        assert batch is not None
        record_try(session, batch, batch.deliveries[0], Try(outcome=TryOutcome.DELIVERED, status=200, seconds=0.2))
    (delivery,) = admin.get(path, params={"state": "delivered"}).json()["items"]
    assert delivery["body"]["data"]["request_id"] == asked["id"]
    assert [(each["outcome"], each["status"]) for each in delivery["tries"]] == [("delivered", 200)]
    replayed = admin.post(f"{path}/{delivery['id']}:replay").json()
    assert (replayed["state"], replayed["message_id"]) == ("pending", delivery["message_id"])
    assert admin.get(path, params={"state": "delivered"}).json()["items"] == []
    admin.patch(path.removesuffix("/deliveries"), json={"enabled": False})
    assert admin.post(f"{path}/{delivery['id']}:replay").status_code == 409


def test_only_an_admin_may(serve: Serve, site: Site) -> None:
    for key in (site.writer, site.reader, site.auditor):
        assert serve(key=key).get("/webhooks").status_code == 403


def test_the_tries_are_counted_from_the_start(admin: httpx.Client) -> None:
    exposed = admin.get("/metrics").text
    for outcome in TryOutcome:
        assert f'expunge_webhook_deliveries_total{{outcome="{outcome}"}} 0.0' in exposed
