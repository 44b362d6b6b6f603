"""Tenants can not see one another: every route of the OpenAPI document is called with the key of another tenant."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session, sessionmaker

from ledger.registry.access import ensure_tenant, issue_key
from ledger.tables import Base, OutboxEntry
from tests.fixtures.waiting import await_that
from tests.service.conftest import Serve, Site, publish_job

HIDDEN = ("triage", "scans")
"""The names of the first tenant's model and dataset; the second has none."""

UPLOAD: dict[str, Any] = {
    "params": {"dataset": "scans"},
    "content": b"sample-3",
    "headers": {"Content-Type": "text/plain"},
}

BODIES: dict[str, dict[str, Any]] = {
    "POST /unlearn-requests": {"json": {"dataset": "scans", "sample_ids": ["sample-3"]}},
    "POST /unlearn-requests:preview": {"json": {"dataset": "scans", "sample_ids": ["sample-3"]}},
    "POST /unlearn-requests/{request_id}:extend": {"json": {"reason": "long"}},
    "POST /unlearn-requests/{request_id}:dismiss": {"json": {"reason": "kept by law"}},
    "POST /uploads": UPLOAD,
    "POST /uploads/subjects": {"content": b"ann", "headers": {"Content-Type": "text/plain"}},
    "POST /manifests": UPLOAD,
    "POST /webhooks": {"json": {"url": "https://example.org/"}},
    "PATCH /webhooks/{webhook_id}": {"json": {"enabled": False}},
    "PATCH /models/{name}": {"json": {"approve_jobs": True}},
    "POST /reports/{report_id}/inclusion": {"json": {"sample_id": "sample-1"}},
}
"""What a call needs beside its path; a new route with a body fails here until it has its own."""

OWN = {"POST /webhooks", "POST /uploads/subjects"}
"""Calls that are the second tenant's own business: they name nothing of the first's."""


@pytest.fixture
def hidden(serve: Serve, site: Site, sessions: sessionmaker[Session]) -> dict[str, str]:
    """A thing of each kind that the first tenant has, by the name of the parameter that stands for it in paths."""
    client = serve(key=site.admin)
    webhook_id = client.post("/webhooks", json={"url": "https://example.org/"}).json()["id"]
    asked = {"dataset": "scans", "sample_ids": ["sample-1"], "expedite": True}
    first = client.post("/unlearn-requests", json=asked).json()
    report_id = publish_job(sessions, first["targets"][0]["job"]["id"])
    request = client.post("/unlearn-requests", json=asked | {"sample_ids": ["sample-2"]}).json()
    upload = client.post("/uploads", **UPLOAD).json()
    deliveries = client.get(f"/webhooks/{webhook_id}/deliveries").json()["items"]
    job_id = request["targets"][0]["job"]["id"]
    await_that(lambda: was_taken(sessions, job_id), "the wake-up of the last request, which is sent after its answer")
    return {
        "request_id": request["id"],
        "job_id": job_id,
        "report_id": str(report_id),
        "webhook_id": webhook_id,
        "delivery_id": deliveries[0]["id"],
        "upload_id": upload["id"],
        "name": "triage",
        "number": "1",
    }


def was_taken(sessions: sessionmaker[Session], job_id: str) -> bool:
    """Whether a sender has taken a job's wake-up; it then changes no more, because there is no broker here."""
    due = select(OutboxEntry).where(
        OutboxEntry.job_id == UUID(job_id), OutboxEntry.available_at <= func.clock_timestamp()
    )
    with sessions() as session:
        return session.scalar(due) is None


@pytest.fixture
def stranger(serve: Serve, sessions: sessionmaker[Session]) -> httpx.Client:
    """The second tenant's client, with an admin's key."""
    with sessions.begin() as session:
        key = issue_key(session, tenant_id=ensure_tenant(session, "stranger"), name="admin", scopes=["admin"]).secret
    return serve(key=key)


def operations(client: httpx.Client) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, path and description of every operation that asks for a key."""
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            if operation.get("security"):
                yield method.upper(), path, operation


ADDED_TO = {"webhook_endpoints", "uploaded_manifests", "uploaded_samples"}
"""Tables to which the calls of OWN add rows."""


def contents(sessions: sessionmaker[Session]) -> dict[str, set[str]]:
    """Every row."""
    with sessions() as session:
        return {table: set(session.scalars(text(f"SELECT t::text FROM {table} t"))) for table in Base.metadata.tables}


def test_no_route_shows_or_changes_another_tenants_things(
    hidden: dict[str, str], stranger: httpx.Client, sessions: sessionmaker[Session]
) -> None:
    before = contents(sessions)
    secrets = {*HIDDEN, *(value for value in hidden.values() if len(value) > 3)}
    called = 0
    for method, path, operation in operations(stranger):
        call = f"{method} {path}"
        if "requestBody" in operation:
            assert call in BODIES, f"{call} has a body: say in BODIES what to send"
        url = path.format_map({**hidden, "name": "scans" if path.startswith("/datasets") else "triage"})
        answer = stranger.request(method, url, **BODIES.get(call, {}))
        names_something = "{" in path or call in BODIES
        if names_something and call not in OWN:
            assert answer.status_code == 404, (call, answer.status_code, answer.text)
        else:
            assert answer.status_code < 400, (call, answer.text)
            assert not [secret for secret in secrets if secret in answer.text], call
        called += 1
    assert called >= 40
    after = contents(sessions)
    assert {table for table in before if after[table] != before[table]} == ADDED_TO
    assert all(before[table] <= after[table] for table in ADDED_TO)


def test_what_is_there_for_nobody_reads_the_same_as_what_is_anothers(
    hidden: dict[str, str], stranger: httpx.Client
) -> None:
    for path in ("/jobs/{job_id}", "/unlearn-requests/{request_id}", "/reports/{report_id}", "/webhooks/{webhook_id}"):
        theirs = stranger.get(path.format_map(hidden)).json()
        name = path[path.index("{") + 1 : -1]
        nobodys_id = str(uuid4())
        nobodys = stranger.get(path.format_map({name: nobodys_id})).json()
        assert theirs["detail"].replace(hidden[name], nobodys_id) == nobodys["detail"]
        assert {**theirs, "detail": ""} == {**nobodys, "detail": ""}


def test_the_open_routes_name_nothing_of_anybodys_but_in_the_operators_metrics(
    hidden: dict[str, str], stranger: httpx.Client
) -> None:
    del stranger.headers["Authorization"]
    secrets = {*HIDDEN, *(value for value in hidden.values() if len(value) > 3)}
    for path, methods in stranger.get("/openapi.json").json()["paths"].items():
        if "get" in methods and not methods["get"].get("security") and path != "/metrics" and "{" not in path:
            found = stranger.get(path).text
            assert not [secret for secret in secrets if secret in found], path
