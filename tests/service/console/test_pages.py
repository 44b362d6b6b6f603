"""The console without a browser: sessions, scopes, tenants, and forms from elsewhere."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx
import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, sessionmaker

from ledger.registry.access import issue_key, revoke_key
from ledger.tables import ConsoleSession, Event
from service.console import sign_in as cookies
from tests.service.conftest import Serve, Site, fail_job, publish_job, set_up

ASKED = {"dataset": "scans", "sample_ids": ["sample-1"], "expedite": True}
PATHS = ["/", "/console/jobs", "/console/models", "/console/models/triage", "/console/reports"]


def sign_in(client: httpx.Client, key: str) -> httpx.Client:
    client.headers.pop("Authorization", None)
    answer = client.post("/console/sign-in", data={"key": key})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    return client


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites_and_does_not_hold_the_key(
    serve: Serve, site: Site
) -> None:
    answer = serve().post("/console/sign-in", data={"key": site.admin})
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert site.admin.rpartition("_")[2] not in cookie
    assert "Secure" not in cookie
    behind_tls = serve(public_url="https://expunge.example").post("/console/sign-in", data={"key": site.admin})
    assert "Secure" in behind_tls.headers["set-cookie"]


def test_pages_may_load_nothing_from_elsewhere_and_are_kept_by_nobody(serve: Serve, site: Site) -> None:
    answer = sign_in(serve(), site.admin).get("/")
    assert answer.status_code == 200
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", PATHS)
def test_who_is_not_signed_in_is_asked_to(serve: Serve, site: Site, path: str) -> None:
    for client in (serve(), serve(key=site.admin)):  # an API key in a header is for the API
        answer = client.get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, "/console/sign-in")


@pytest.mark.parametrize("cookie", ["", "x", "a.b", "e30=.e30=", "{}." + "A" * 44])
def test_a_cookie_that_the_service_did_not_make_is_none(serve: Serve, site: Site, cookie: str) -> None:
    answer = serve().get("/", headers={"Cookie": f"{cookies.COOKIE}={cookie}"})
    assert answer.headers["location"] == "/console/sign-in"


def test_a_changed_cookie_is_none(serve: Serve, site: Site) -> None:
    client = sign_in(serve(), site.admin)
    content, _, rest = client.cookies[cookies.COOKIE].strip('"').partition(".")
    assert serve().get("/", headers={"Cookie": f"{cookies.COOKIE}={content}.{rest}"}).status_code == 200
    other = serve().get("/", headers={"Cookie": f"{cookies.COOKIE}={content[:-4]}AAAA.{rest}"})
    assert other.headers["location"] == "/console/sign-in"


def test_a_session_ends_after_eight_hours_and_with_its_key(
    serve: Serve, site: Site, sessions: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    with sessions.begin() as session:
        key = issue_key(session, tenant_id=site.tenant_id, name="visitor", scopes=["requests:read"])
    client = sign_in(serve(), key.secret)
    assert client.get("/").status_code == 200
    monkeypatch.setattr(cookies, "MAX_SESSION_SECONDS", -1)
    assert client.get("/").status_code == 303
    monkeypatch.undo()
    client = sign_in(serve(), key.secret)
    with sessions.begin() as session:
        revoke_key(session, tenant_id=site.tenant_id, key_id=key.key.id)
    assert client.get("/").status_code == 303


def test_a_copy_of_the_cookie_is_worth_nothing_after_signing_out(serve: Serve, site: Site) -> None:
    client, other = sign_in(serve(), site.admin), sign_in(serve(), site.admin)
    stolen = {"Cookie": f"{cookies.COOKIE}={client.cookies[cookies.COOKIE]}"}
    assert serve().get("/", headers=stolen).status_code == 200

    assert client.post("/console/sign-out").status_code == 303

    assert serve().get("/", headers=stolen).headers["location"] == "/console/sign-in"
    assert other.get("/").status_code == 200  # another browser's session with the same key


def test_a_session_that_has_expired_is_deleted_at_the_next_sign_in(
    serve: Serve, site: Site, sessions: sessionmaker[Session]
) -> None:
    client = sign_in(serve(), site.admin)
    with sessions.begin() as session:
        session.execute(update(ConsoleSession).values(expires_at=ConsoleSession.created_at))
    assert client.get("/").status_code == 303
    sign_in(serve(), site.reader)
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(ConsoleSession)) == 1


@pytest.mark.parametrize(("origin", "status"), [("https://expunge.example", 303), ("https://evil.example", 403)])
def test_behind_a_proxy_the_public_address_is_the_own_site(serve: Serve, site: Site, origin: str, status: int) -> None:
    """nginx sends the name of the upstream as Host unless its configuration sets another."""
    headers = {"Origin": origin, "Host": "localhost:8000", "Sec-Fetch-Site": "same-origin"}
    client = serve(public_url="https://expunge.example/")
    assert client.post("/console/sign-in", data={"key": site.admin}, headers=headers).status_code == status


def test_a_form_from_another_site_is_refused(serve: Serve, site: Site) -> None:
    client = serve()
    for headers in (
        {"Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        for path in ("/console/sign-in", "/console/sign-out"):
            answer = client.post(path, data={"key": site.admin}, headers=headers)
            assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)
    own = {"Origin": str(client.base_url), "Sec-Fetch-Site": "same-origin"}
    assert client.post("/console/sign-in", data={"key": site.admin}, headers=own).status_code == 303


def test_the_list_of_jobs_shows_verdicts(serve: Serve, site: Site, sessions: sessionmaker[Session]) -> None:
    job_id = serve(key=site.admin).post("/unlearn-requests", json=ASKED).json()["targets"][0]["job"]["id"]
    reader = sign_in(serve(), site.reader)
    assert "verified" not in reader.get("/console/jobs").text

    publish_job(sessions, job_id)

    assert "verified" in reader.get("/console/jobs").text


def test_a_long_timeline_shows_its_newest_events_and_how_many_are_before_them(
    serve: Serve, site: Site, sessions: sessionmaker[Session]
) -> None:
    request = serve(key=site.admin).post("/unlearn-requests", json=ASKED).json()
    ids = {"job_id": UUID(request["targets"][0]["job"]["id"]), "request_id": UUID(request["id"])}
    paths = (f"/console/jobs/{ids['job_id']}", f"/console/requests/{ids['request_id']}")
    reader = sign_in(serve(), site.reader)
    for path in paths:
        assert "Not shown" not in reader.get(path).text
    with sessions.begin() as session:
        for name, row_id in ids.items():
            for number in range(1200):
                session.add(Event(kind="job.phase", data={"phase": f"step {number}"}, **{name: row_id}))
    with sessions() as session:
        counts = [
            session.scalars(select(func.count()).where(getattr(Event, name) == row_id)).one() - 1000
            for name, row_id in ids.items()
        ]

    for path, before, of in zip(paths, counts, ("/jobs/", "/unlearn-requests/"), strict=True):
        text = reader.get(path).text
        assert 200 < before < 210
        assert f"Not shown: {before} earlier events. <code>GET {of}" in text
        assert text.count("<li><time") == 1000
        assert "Phase: step 199." not in text
        assert text.index("Phase: step 200.") < text.index("Phase: step 1199.")


def test_scopes_are_honoured(serve: Serve, site: Site, sessions: sessionmaker[Session]) -> None:
    job_id = serve(key=site.admin).post("/unlearn-requests", json=ASKED).json()["targets"][0]["job"]["id"]
    report = f"/console/reports/{publish_job(sessions, job_id)}.html"
    reader, auditor, writer = (sign_in(serve(), key) for key in (site.reader, site.auditor, site.writer))
    assert [reader.get(path).status_code for path in (*PATHS, report)] == [200, 200, 200, 200, 403, 403]
    assert [auditor.get(path).status_code for path in (*PATHS, report)] == [303, 403, 403, 403, 200, 200]
    assert [writer.get(path).status_code for path in PATHS] == [303, 403, 403, 403, 403]
    assert report not in reader.get(f"/console/jobs/{job_id}").text
    assert report in sign_in(serve(), site.admin).get(f"/console/jobs/{job_id}").text


def test_another_tenant_sees_nothing(serve: Serve, site: Site, sessions: sessionmaker[Session]) -> None:
    body = serve(key=site.admin).post("/unlearn-requests", json=ASKED).json()
    job_id = body["targets"][0]["job"]["id"]
    report_id = publish_job(sessions, job_id)
    with sessions.begin() as session:
        bank = set_up(session, "bank")
    client = sign_in(serve(), bank.admin)
    assert "/console/requests/" not in client.get("/").text
    for path in (
        f"/requests/{body['id']}",
        f"/jobs/{job_id}",
        f"/reports/{report_id}.html",
        f"/reports/{report_id}.json",
    ):
        assert client.get(f"/console{path}").status_code == 404


def test_every_form_of_a_report_can_be_read_and_nothing_else(
    serve: Serve, site: Site, sessions: sessionmaker[Session]
) -> None:
    job_id = serve(key=site.admin).post("/unlearn-requests", json=ASKED).json()["targets"][0]["job"]["id"]
    path = f"/console/reports/{publish_job(sessions, job_id)}"
    client = sign_in(serve(), site.auditor)
    kinds = {form: client.get(f"{path}.{form}").headers["content-type"] for form in ("html", "pdf", "json")}
    assert kinds == {"html": "text/html; charset=utf-8", "pdf": "application/pdf", "json": "application/json"}
    for form in ("statement", "exe"):  # it was not signed; there is no such form
        answer = client.get(f"{path}.{form}")
        assert (answer.status_code, answer.headers["content-type"]) == (404, "text/html; charset=utf-8")


BROWSER = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


def test_the_apis_address_of_a_report_leads_a_browser_to_the_consoles(
    serve: Serve, site: Site, sessions: sessionmaker[Session]
) -> None:
    job_id = serve(key=site.admin).post("/unlearn-requests", json=ASKED).json()["targets"][0]["job"]["id"]
    path = f"/reports/{publish_job(sessions, job_id)}"
    signed_in = sign_in(serve(), site.auditor)
    for suffix, shown in (("", ".html"), (".html", ".html"), (".pdf", ".pdf")):
        for headers in ({}, BROWSER):
            answer = signed_in.get(f"{path}{suffix}", headers=headers)
            assert (answer.status_code, answer.headers["location"]) == (303, f"/console{path}{shown}")
    assert signed_in.get(f"{path}.html", follow_redirects=True).headers["content-type"].startswith("text/html")
    stranger = serve().get(f"{path}.html", headers=BROWSER, follow_redirects=True)
    assert (stranger.status_code, stranger.url.path) == (200, "/console/sign-in")
    assert serve().get(f"{path}.html").status_code == 401  # a program without a key
    with_key = {**BROWSER, "Authorization": f"Bearer {site.auditor}"}
    assert signed_in.get(path, headers=with_key).json()["report_id"] in path
    reader = sign_in(serve(), site.reader)
    assert reader.get(f"{path}.html", headers=BROWSER, follow_redirects=True).status_code == 403


def test_a_link_on_another_site_signs_nobody_out(serve: Serve, site: Site) -> None:
    """The browser follows it without the cookie, which it keeps."""
    assert "set-cookie" not in serve().get("/console/jobs", headers=BROWSER).headers
    stale = serve().get("/console/jobs", headers={"Cookie": f"{cookies.COOKIE}=old"})
    assert "Max-Age=0" in stale.headers["set-cookie"]


def test_requests_can_be_narrowed_to_what_is_open_late_or_soon_due(serve: Serve, site: Site) -> None:
    client = serve(key=site.admin)
    today = datetime.now(UTC)
    for number, days in enumerate((2, 27, 40), start=1):
        body = {"sample_ids": [f"sample-{number}"], "external_id": f"after-{days}-days", "expedite": False}
        received = (today - timedelta(days=days)).isoformat()
        assert client.post("/unlearn-requests", json=ASKED | body | {"received_at": received}).status_code == 202
    visitor = sign_in(serve(), site.reader)
    listed = {
        show: [days for days in (2, 27, 40) if f"after-{days}-days" in visitor.get(f"/?show={show}").text]
        for show in ("open", "overdue", "due_soon", "completed")
    }
    assert listed == {"open": [2, 27, 40], "overdue": [40], "due_soon": [27, 40], "completed": []}


def test_what_callers_wrote_is_shown_as_text(serve: Serve, site: Site) -> None:
    nasty = "<script>alert(1)</script>"
    serve(key=site.admin).post("/unlearn-requests", json=ASKED | {"external_id": nasty})
    text = sign_in(serve(), site.reader).get("/").text
    assert nasty not in text
    assert "&lt;script&gt;" in text


def test_an_address_that_makes_no_sense_is_a_page_too(serve: Serve, site: Site) -> None:
    client = sign_in(serve(), site.reader)
    for path, status in (("/?show=odd", 422), ("/?cursor=odd", 422), ("/console/models/none", 404)):
        answer = client.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "text/html; charset=utf-8")


def test_a_failed_request_is_shown_as_overdue_until_it_is_dismissed(
    serve: Serve, site: Site, sessions: sessionmaker[Session]
) -> None:
    client, received = serve(key=site.admin), datetime.now(UTC) - timedelta(days=40)
    asked = client.post("/unlearn-requests", json=ASKED | {"received_at": received.isoformat()}).json()
    fail_job(sessions, asked["targets"][0]["job"]["id"])
    visitor = sign_in(serve(), site.reader)
    page = f"/console/requests/{asked['id']}"
    for path in ("/?show=overdue", "/?show=due_soon", page):
        assert "overdue</" in visitor.get(path).text, path
    client.post(f"/unlearn-requests/{asked['id']}:dismiss", json={"reason": "Kept by <law>."})
    assert asked["id"] not in visitor.get("/?show=overdue").text + visitor.get("/?show=due_soon").text
    text = visitor.get(page).text
    assert "Kept by &lt;law&gt;." in text
    assert "overdue</" not in text
