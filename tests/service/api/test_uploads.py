import json
import select
import socket
from io import BytesIO
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from expunge.cli import caller
from expunge.client import submit, upload_samples
from ledger.requests.uploads import delete_expired_uploads
from ledger.resources import SampleCounts
from ledger.sample_ids import sample_digest, samples_sha256
from service.api import uploads
from tests.fixtures.waiting import await_that
from tests.service.conftest import SAMPLE_KEY, Serve, Site, begin_call, read_response, set_up
from tests.service.http.test_streaming import open_transactions

PLAIN = {"Content-Type": "text/plain"}
NDJSON = "application/x-ndjson"


def upload(client: httpx.Client, body: bytes, **headers: str) -> httpx.Response:
    return client.post("/uploads", params={"dataset": "scans"}, content=body, headers=PLAIN | headers)


def rows(sessions: sessionmaker[Session], table: str) -> int | None:
    with sessions() as session:
        return session.scalar(text(f"SELECT count(*) FROM {table}"))


def test_an_uploaded_list_is_asked_for_by_its_id(serve: Serve, site: Site, sessions: sessionmaker[Session]) -> None:
    client = serve(key=site.admin)
    answer = upload(client, b"sample-1\nsample-2\r\nsample-1\n\nsample-70")
    uploaded = answer.json()
    assert (answer.status_code, uploaded["samples"]) == (201, 3)
    key = bytes.fromhex(SAMPLE_KEY)
    digests = [sample_digest(key, "scans", f"sample-{n}") for n in (1, 2, 70)]
    assert uploaded["sha256"] == samples_sha256(digests)
    assert client.get(f"/uploads/{uploaded['id']}").json() == uploaded

    asked = {"dataset": "scans", "upload": uploaded["id"]}
    preview = client.post("/unlearn-requests:preview", json=asked).json()
    assert (preview["samples"]["accepted"], preview["unmatched_sample_ids"]) == (2, None)
    first = client.post("/unlearn-requests", json=asked, headers={"Idempotency-Key": "k"})
    assert first.status_code == 202
    assert first.json()["samples"] == {"accepted": 2, "already_erased": 0, "not_in_training_set": 1}
    assert first.json()["unmatched_sample_ids"] is None
    assert (
        client.post("/unlearn-requests", json=asked, headers={"Idempotency-Key": "k"}).json()["id"]
        == first.json()["id"]
    )

    assert client.delete(f"/uploads/{uploaded['id']}").status_code == 204
    assert (rows(sessions, "uploaded_samples"), rows(sessions, "request_samples")) == (0, 3)
    assert client.post("/unlearn-requests", json=asked).status_code == 404


def test_the_client_streams_a_list(serve: Serve, site: Site) -> None:
    client = serve(key=site.admin)
    uploaded = upload_samples(client, dataset="scans", sample_ids=(f"sample-{n}" for n in range(2500)))
    assert uploaded.samples == 2500
    request = submit(client, dataset="scans", upload=uploaded.id)
    assert request.samples == SampleCounts(accepted=50, already_erased=0, not_in_training_set=2450)


def test_what_cannot_be_read_keeps_nothing(serve: Serve, site: Site, sessions: sessionmaker[Session]) -> None:
    client = serve(key=site.writer)
    for body, headers, status, slug in (
        (b"sample-1\n\xff\n", {}, 422, "invalid-line"),
        (b"\n\n", {}, 422, "refused"),
        (b"sample-1", {"Content-Type": "application/json"}, 415, "unsupported-media-type"),
        (b"sample-1", {"Content-Type": "application/x-ndjson"}, 422, "invalid-line"),
        (b'"sample-1"\n4711', {"Content-Type": "application/x-ndjson"}, 422, "invalid-line"),
    ):
        answer = upload(client, body, **headers)
        assert (answer.status_code, answer.json()["type"].rpartition("/")[2]) == (status, slug)
        assert "sample-1" not in answer.text
        assert "must be JSON" not in answer.text
    assert answer.json()["detail"] == 'The sample ID on line 2 is a number; write it as a string, such as "7".'
    assert client.post("/uploads", params={"dataset": "x"}, content=b"a", headers=PLAIN).status_code == 404
    assert (rows(sessions, "uploaded_manifests"), rows(sessions, "uploaded_samples")) == (0, 0)


def test_a_list_may_be_larger_than_other_bodies_and_has_a_limit_of_its_own(serve: Serve, site: Site) -> None:
    client = serve(key=site.writer, max_body_bytes=200, max_upload_bytes=2000)
    assert upload(client, b"sample-1\n" * 100).status_code == 201
    assert upload(client, b"sample-1\n" * 300).status_code == 413
    chunks = (b"sample-1\n" * 10 for _ in range(30))
    streamed = client.post("/uploads", params={"dataset": "scans"}, content=chunks, headers=PLAIN)
    assert (streamed.status_code, streamed.json()["type"].rpartition("/")[2]) == (413, "body-too-large")
    asked = {"dataset": "scans", "sample_ids": [f"sample-{n}" for n in range(50)]}
    assert client.post("/unlearn-requests", json=asked).status_code == 413


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ({}, ("/sample_ids", "One of sample_ids, subjects and upload is required.")),
        (
            {"sample_ids": ["sample-1"], "upload": str(uuid4())},
            ("/upload", "An upload stands alone, without sample_ids and subjects."),
        ),
    ],
)
def test_samples_are_named_in_one_of_the_ways(
    serve: Serve, site: Site, more: dict[str, object], fault: tuple[str, str]
) -> None:
    answer = serve(key=site.admin).post("/unlearn-requests", json={"dataset": "scans", **more})
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"pointer": fault[0], "detail": fault[1]}]


def test_a_list_is_its_tenants_and_its_datasets(serve: Serve, site: Site, sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        other = set_up(session, "other")
    upload_id = upload(serve(key=site.writer), b"sample-1").json()["id"]
    stranger = serve(key=other.admin)
    assert stranger.get(f"/uploads/{upload_id}").status_code == 404
    assert stranger.delete(f"/uploads/{upload_id}").status_code == 404
    asked = {"dataset": "scans", "upload": upload_id}
    assert stranger.post("/unlearn-requests", json=asked).status_code == 404


def test_a_list_is_forgotten_after_a_week(serve: Serve, site: Site, sessions: sessionmaker[Session]) -> None:
    client = serve(key=site.writer)
    old = upload(client, b"sample-1").json()["id"]
    with sessions.begin() as session:
        session.execute(text("UPDATE uploaded_manifests SET created_at = created_at - interval '8 days'"))
    assert client.get(f"/uploads/{old}").status_code == 404
    new = upload(client, b"sample-1").json()["id"]
    with sessions.begin() as session:
        delete_expired_uploads(session)
    assert client.get(f"/uploads/{new}").status_code == 200
    assert (rows(sessions, "uploaded_manifests"), rows(sessions, "uploaded_samples")) == (1, 1)


def test_the_older_names_are_still_accepted(serve: Serve, site: Site) -> None:
    client = serve(key=site.admin)
    made = client.post("/manifests", params={"dataset": "scans"}, content=b"sample-1", headers=PLAIN).json()
    assert client.get(f"/manifests/{made['id']}").json() == client.get(f"/uploads/{made['id']}").json() == made
    asked = {"dataset": "scans", "manifest": made["id"]}
    assert client.post("/unlearn-requests", json=asked).json()["samples"]["accepted"] == 1
    both = client.post("/unlearn-requests", json=asked | {"upload": made["id"]})
    assert (both.status_code, both.json()["errors"][0]["pointer"]) == (422, "/manifest")
    assert client.delete(f"/manifests/{made['id']}").status_code == 204


HEAD = "POST /uploads?dataset=scans HTTP/1.1\nContent-Type: text/plain\nContent-Length: 1000000\nExpect: 100-continue"


def stall(client: httpx.Client) -> socket.socket:
    """An upload that never comes to its end: the service has begun to read it."""
    connection = begin_call(client, HEAD)
    assert b"100 Continue" in connection.recv(1000)
    connection.sendall(b"sample-1\nsample-2\n")
    return connection


def await_room(client: httpx.Client) -> None:
    """Until an upload is received: the server notices the end of another a moment after its client."""
    await_that(lambda: upload(client, b"sample-1").status_code == 201, "room for an upload")


def test_no_more_are_received_at_once_than_the_process_can(
    serve: Serve, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "MAX_UPLOADS", 0)
    answer = upload(serve(key=site.writer, alone=True), b"a")
    assert (answer.status_code, answer.json()["checks"]) == (503, {"uploads": "full"})


def test_stalled_uploads_take_their_own_tenants_share_and_no_transaction(
    serve: Serve, site: Site, sessions: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "MAX_UPLOADS", 4)
    with sessions.begin() as session:
        other = set_up(session, "other")
    client = serve(key=site.writer, alone=True)
    with stall(client):
        assert upload(client, b"sample-1").status_code == 429
        assert upload(client, b"sample-1", Authorization=f"Bearer {other.writer}").status_code == 201
        assert open_transactions(sessions) == 0
    await_room(client)


def test_one_that_takes_too_long_is_refused_though_it_never_stalls(
    serve: Serve, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "UPLOAD_SECONDS", 0.5)
    with stall(serve(key=site.writer, alone=True)) as connection:
        while not select.select([connection], [], [], 0.05)[0]:
            connection.sendall(b"sample-1\n")
        assert read_response(connection)[0] == 408


@pytest.mark.parametrize("step", ["write", "seek"])
def test_one_that_the_disk_has_no_room_for_is_refused(
    serve: Serve, site: Site, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """What is still buffered is written when the file is read from its start."""

    class Full(BytesIO):
        pass

    def fail(*_: object) -> int:
        raise OSError(28, "No space left on device")

    setattr(Full, step, fail)
    monkeypatch.setattr(uploads, "open_spool", Full)
    answer = upload(serve(key=site.writer), b"sample-1")
    assert (answer.status_code, answer.json()["checks"]) == (503, {"temporary_folder": "failed"})


def test_ones_that_break_off_leave_nothing_and_the_next_is_received(
    serve: Serve, site: Site, sessions: sessionmaker[Session]
) -> None:
    client = serve(key=site.writer)
    for _ in range(uploads.MAX_UPLOADS + 1):
        with stall(client) as half:
            half.shutdown(socket.SHUT_WR)
            half.recv(1)  # an answer, or the end: it has been noticed
    await_room(client)
    assert rows(sessions, "uploaded_manifests") == 1


@pytest.mark.parametrize(
    "body",
    [
        "\ufeffsample-1\r\nsample-2 \r\n\tsample-3\u00a0\r\n",
        "\ufeffsample-1\nsample-2\n\ufeffsample-3",  # two files one after the other
        "  sample-1  \n\n\ufeff\nsample-2\t\nsample-3",
    ],
)
def test_what_an_editor_leaves_around_an_id_is_not_of_the_id(serve: Serve, site: Site, body: str) -> None:
    client = serve(key=site.admin)
    uploaded = upload(client, body.encode()).json()
    asked = client.post("/unlearn-requests", json={"dataset": "scans", "upload": uploaded["id"]}).json()
    assert asked["samples"] == {"accepted": 3, "already_erased": 0, "not_in_training_set": 0}
    assert asked["unmatched_lines"] == []


def test_lines_without_a_match_are_listed_by_their_numbers(serve: Serve, site: Site) -> None:
    client = serve(key=site.admin)
    lines = ["sample-1", "", "nobody-7", "sample-2", "sample-99", "nobody-7"]
    asked = {"dataset": "scans", "upload": upload(client, "\n".join(lines).encode()).json()["id"]}
    for path in ("/unlearn-requests:preview", "/unlearn-requests"):
        answer = client.post(path, json=asked)
        assert answer.json()["unmatched_lines"] == [3, 5]
        assert "nobody" not in answer.text
    made = client.post("/unlearn-requests", json=asked, headers={"Authorization": f"Bearer {site.writer}"}).json()
    assert made["unmatched_lines"] is None  # a key without requests:read must not learn who is in a training set


@pytest.mark.parametrize(
    ("body", "lines", "afterwards"), [(b"sample-1\nnobody\nno one", [2, 3], None), (b"sample-1\nsample-2", [], [])]
)
def test_an_answer_given_again_after_its_upload_is_gone_does_not_say_that_every_line_matched(
    serve: Serve, site: Site, body: bytes, lines: list[int], afterwards: list[int] | None
) -> None:
    client = serve(key=site.admin)
    upload_id = upload(client, body).json()["id"]

    def ask() -> dict[str, object]:
        asked = {"dataset": "scans", "upload": upload_id}
        return dict(client.post("/unlearn-requests", json=asked, headers={"Idempotency-Key": "once"}).json())

    first, again = ask(), ask()
    assert client.delete(f"/uploads/{upload_id}").status_code == 204

    assert first == again
    assert first["unmatched_lines"] == lines
    assert ask() == first | {"unmatched_lines": afterwards}


@pytest.mark.parametrize("wrong", [" sample-1", "sample-1 ", "sample\u0007", "\ufeffsample-1", "s" * 201, ""])
def test_one_rule_for_ids_holds_everywhere(serve: Serve, site: Site, wrong: str) -> None:
    client = serve(key=site.admin)
    asked = client.post("/unlearn-requests", json={"dataset": "scans", "sample_ids": ["sample-1", wrong]})
    assert asked.json()["errors"][0]["pointer"] == "/sample_ids/1"
    shown = client.post(f"/reports/{uuid4()}/inclusion", json={"sample_id": wrong})
    assert shown.json()["errors"][0]["pointer"] == "/sample_id"
    uploaded = upload(client, f"{json.dumps('a')}\n{json.dumps(wrong)}".encode(), **{"Content-Type": NDJSON})
    assert (uploaded.status_code, "line 2" in uploaded.json()["detail"]) == (422, True)
    assert "sample" not in uploaded.json()["detail"].replace("The sample ID", "")


def test_the_command_line_shows_the_ids_of_unmatched_lines(
    serve: Serve, site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(caller, "MAX_INLINE_IDS", 1)
    url = str(serve().base_url)
    caller.submit(
        site.admin, ["scans"], ["sample-1", "nobody"], file=["\ufeffsample-2 \r\n", "\n", "no one\n"], url=url
    )  # type: ignore[arg-type]  # lines, as a file gives them
    shown = json.loads(capsys.readouterr().out)
    assert (shown["samples"]["accepted"], shown["unmatched_sample_ids"]) == (2, ["nobody", "no one"])
