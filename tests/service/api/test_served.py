"""The served version and its weights, for servers that fetch them themselves."""

import hashlib
import os
import socket
import time
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

import service.app
from ledger.registry.access import issue_key
from ledger.registry.versions import set_signature
from service.http import streaming
from tests.fixtures.s3 import BUCKET, S3
from tests.fixtures.waiting import await_that
from tests.service.conftest import Serve, Site, begin_call, publish_job, set_up
from tests.service.http.test_streaming import open_transactions

CONTENT = bytes(range(256)) * 20_000  # more than one part of a response
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PATH = "/models/triage/served"


@pytest.fixture
def model_server(sessions: sessionmaker[Session], site: Site) -> str:
    """The key of a model server. The first version's weights are CONTENT."""
    with sessions.begin() as session:
        values = {"path": f"{SHA256}.safetensors", "sha256": SHA256}
        session.execute(text("UPDATE model_versions SET weights_path = :path, weights_sha256 = :sha256"), values)
        return issue_key(session, tenant_id=site.tenant_id, name="triton", scopes=["weights:read"]).secret


@pytest.fixture
def fetcher(serve: Serve, model_server: str, tmp_path: Path) -> httpx.Client:
    """The client of a model server, of an API that may read the storage."""
    (tmp_path / f"{SHA256}.safetensors").write_bytes(CONTENT)
    return serve(key=model_server, storage=tmp_path, alone=True)


def fetches(sessions: sessionmaker[Session]) -> list[tuple[int, str]]:
    joined = "weight_fetches JOIN model_versions v ON v.id = version_id JOIN api_keys k ON k.id = key_id"
    with sessions() as session:
        return [
            (row.number, row.name) for row in session.execute(text(f"SELECT number, name FROM {joined} ORDER BY at"))
        ]


def test_a_server_polls_what_is_served_and_fetches_the_weights_once_they_change(
    fetcher: httpx.Client, serve: Serve, site: Site, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    found = fetcher.get(PATH)
    assert (found.json()["version"], found.json()["weights_sha256"]) == (1, SHA256)
    assert (found.json()["verdict"], found.json()["report_id"]) == (None, None)
    assert fetcher.get(PATH, headers={"If-None-Match": found.headers["ETag"]}).status_code == 304
    asked = fetcher.head(f"{PATH}/weights")
    assert (asked.status_code, asked.headers["ETag"], asked.headers.get("Content-Length")) == (200, f'"{SHA256}"', None)
    assert fetcher.head(f"{PATH}/weights", headers={"If-None-Match": asked.headers["ETag"]}).status_code == 304
    assert fetches(sessions) == []  # HEAD has given no weights away
    weights = fetcher.get(f"{PATH}/weights")
    assert weights.content == CONTENT
    assert (weights.headers["ETag"], weights.headers["Expunge-Version"]) == (f'"{SHA256}"', "1")
    again = fetcher.get(f"{PATH}/weights", headers={"If-None-Match": weights.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert fetches(sessions) == [(1, "triton")]

    body = {"dataset": "scans", "sample_ids": ["sample-1"], "expedite": True}
    job = serve(key=site.admin).post("/unlearn-requests", json=body).json()["targets"][0]["job"]["id"]
    report_id = publish_job(sessions, job)
    changed = fetcher.get(PATH, headers={"If-None-Match": found.headers["ETag"]})
    assert (changed.status_code, changed.json()["version"], changed.json()["verdict"]) == (200, 2, "verified")
    assert changed.json()["report_id"] == str(report_id)
    missing = fetcher.get(f"{PATH}/weights", headers={"If-None-Match": weights.headers["ETag"]})
    assert missing.status_code == 503
    assert "/nowhere" not in missing.text
    assert fetches(sessions) == [(1, "triton")]


def test_a_signature_of_the_weights_comes_with_them_once_they_are_signed(
    fetcher: httpx.Client, serve: Serve, site: Site, sessions: sessionmaker[Session]
) -> None:
    unsigned = fetcher.get(f"{PATH}/signature")
    assert (unsigned.status_code, "expunge sign" in unsigned.text) == (404, True)
    with sessions.begin() as session:
        version_id = session.scalar(text("SELECT id FROM model_versions"))
        assert version_id is not None
        set_signature(session, version_id, {"mediaType": "x"})
    found = fetcher.get(f"{PATH}/signature")
    assert (found.json(), found.headers["Expunge-Version"]) == ({"mediaType": "x"}, "1")
    assert found.headers["Content-Type"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    assert serve(key=site.reader).get(f"{PATH}/signature").status_code == 403
    assert fetcher.get("/models/unknown/served/signature").status_code == 404


def test_damaged_weights_are_broken_off(fetcher: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / f"{SHA256}.safetensors").write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(httpx.RemoteProtocolError):
        fetcher.get(f"{PATH}/weights")


@pytest.fixture
def large(
    serve: Serve, model_server: str, sessions: sessionmaker[Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> httpx.Client:
    """The client of a model server whose weights are more than the sockets in between hold. It may fetch one file at a time."""
    content = bytes(19 * streaming.IN_MEMORY)
    values = {"sha256": hashlib.sha256(content).hexdigest()}
    (tmp_path / f"{values['sha256']}.safetensors").write_bytes(content)
    with sessions.begin() as session:
        changed = "weights_path = :sha256 || '.safetensors', weights_sha256 = :sha256"
        session.execute(text(f"UPDATE model_versions SET {changed}"), values)
    monkeypatch.setattr(service.app, "MAX_FILES", 4)
    return serve(key=model_server, storage=tmp_path, alone=True)


def stall(client: httpx.Client) -> socket.socket:
    """A connection whose client asks for the weights, reads the first byte of the response, and then does nothing."""
    connection = begin_call(client, f"GET {PATH}/weights HTTP/1.1")
    assert connection.recv(1)
    return connection


def status(client: httpx.Client, **headers: str) -> int:
    """Of a call for the weights, which are not read to their end."""
    with client.stream("GET", f"{PATH}/weights", headers=headers) as answer:
        return answer.status_code


def test_a_server_that_takes_its_weights_slowly_takes_its_own_tenants_share(
    large: httpx.Client, sessions: sessionmaker[Session]
) -> None:
    with sessions.begin() as session:
        other = set_up(session, "other")
        stranger = issue_key(session, tenant_id=other.tenant_id, name="triton", scopes=["weights:read"]).secret
    with stall(large):
        assert status(large) == 429
        assert status(large, Authorization=f"Bearer {stranger}") == 503  # its own file is not there
        assert open_transactions(sessions) == 0


@pytest.mark.parametrize("size", [1, 10], ids=["in the middle", "at the last part"])
def test_a_server_that_takes_nothing_is_left(large: httpx.Client, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(streaming, "IN_MEMORY", size * streaming.IN_MEMORY)
    monkeypatch.setattr(streaming, "SEND_SECONDS", 0.3)
    with stall(large):
        await_that(lambda: status(large) == 200, "room for a file of weights")


def test_weights_need_their_own_scope_and_an_api_that_may_read_them(
    fetcher: httpx.Client, serve: Serve, site: Site, model_server: str
) -> None:
    for key in (site.reader, site.writer, site.auditor):
        for path in (PATH, f"{PATH}/weights"):
            assert serve(key=key).get(path).status_code == 403
    assert serve(key=site.admin).get(PATH).status_code == 200
    assert fetcher.get("/models").status_code == 403
    assert fetcher.get("/models/other/served/weights").status_code == 404
    without = serve(key=model_server).get(f"{PATH}/weights")
    assert without.status_code == 404
    assert "EXPUNGE_STORAGE" in without.json()["detail"]


def test_copies_of_weights_that_the_api_has_sent_are_deleted_once_nobody_needs_them_or_fetches_them(
    s3_api: S3,
    serve: Serve,
    model_server: str,
    sessions: sessionmaker[Session],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the start of the API on, and although nobody fetches anything any more."""
    monkeypatch.setattr(service.app, "COPIES_INTERVAL", 0.05)
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    for name, hours in (("of yesterday", 30), ("purged", 1), (SHA256, 1)):
        (cache / name).write_bytes(CONTENT)
        os.utime(cache / name, (time.time() - 3600 * hours,) * 2)
    client = serve(key=model_server, storage=f"s3://{BUCKET}", storage_cache=cache, alone=True)
    await_that(lambda: {path.name for path in cache.iterdir()} == {SHA256}, "the copies to be deleted")
    assert client.get(f"{PATH}/weights").content == CONTENT
    with sessions.begin() as session:
        session.execute(text("UPDATE model_versions SET weights_path = 'another.safetensors'"))
    time.sleep(0.2)
    assert (cache / SHA256).exists()  # it was used just now
    os.utime(cache / SHA256, (time.time() - 3600,) * 2)
    await_that(lambda: not (cache / SHA256).exists(), "the copy of what nobody needs to be deleted")


def test_where_the_storage_can_sign_a_server_is_sent_to_a_signed_url(
    s3_api: S3, serve: Serve, model_server: str, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    s3_api.client.put_object(Bucket=BUCKET, Key=f"{SHA256}.safetensors", Body=CONTENT)
    client = serve(
        key=model_server,
        storage=f"s3://{BUCKET}",
        storage_cache=tmp_path / "cache",
        signed_url_seconds=60,
        alone=True,
    )
    sent = client.get(f"{PATH}/weights")
    assert (sent.status_code, sent.headers["ETag"], sent.headers["Cache-Control"]) == (307, f'"{SHA256}"', "no-store")
    assert "X-Amz-Signature" in sent.headers["Location"] or "Signature=" in sent.headers["Location"]
    assert httpx.get(sent.headers["Location"], trust_env=False).content == CONTENT
    assert fetches(sessions) == [(1, "triton")]
