import json
import threading
from typing import Any

import httpx
import pytest
from sqlalchemy.orm import Session, sessionmaker

from service.api import jobs as live
from tests.service.conftest import Serve, Site, publish_job, set_up

ASKED = {"dataset": "scans", "sample_ids": ["sample-1", "sample-2"], "expedite": True}
LIVE = {"Accept": "text/event-stream"}


def new_job(client: httpx.Client) -> str:
    return str(client.post("/unlearn-requests", json=ASKED).json()["targets"][0]["job"]["id"])


def parsed(text: str) -> list[dict[str, Any]]:
    """The events of a stream that has ended, without the comments that keep it alive."""
    blocks = [block for block in text.replace("\r\n", "\n").split("\n\n") if block and not block.startswith(":")]
    return [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]


def test_a_stream_tells_what_happens_while_it_happens_and_ends_with_the_job(
    serve: Serve, site: Site, sessions: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "POLL_INTERVAL", 0.05)
    client = serve(key=site.admin)
    job_id = new_job(client)
    text = ""
    with client.stream("GET", f"/jobs/{job_id}/events", headers=LIVE) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for chunk in answer.iter_text():
            if not text:
                threading.Thread(target=publish_job, args=(sessions, job_id)).start()
            text += chunk

    events = parsed(text)
    assert [event["event"] for event in events][:2] == ["job.opened", "job.joined"]
    assert events[-1]["event"] == "job.completed"
    listed = client.get(f"/jobs/{job_id}/events").json()["items"]
    assert [json.loads(event["data"]) for event in events] == listed
    assert [int(event["id"]) for event in events] == [event["id"] for event in listed]


def test_a_stream_goes_on_from_the_last_event_that_was_seen(
    serve: Serve, site: Site, sessions: sessionmaker[Session]
) -> None:
    client = serve(key=site.admin)
    job_id = new_job(client)
    publish_job(sessions, job_id)
    events = parsed(client.get(f"/jobs/{job_id}/events", headers=LIVE).text)

    rest = client.get(f"/jobs/{job_id}/events", headers=LIVE | {"Last-Event-ID": events[1]["id"]})

    assert parsed(rest.text) == events[2:]
    assert client.get(f"/jobs/{job_id}/events", headers=LIVE | {"Last-Event-ID": "x"}).status_code == 422


def test_a_stream_does_not_last_for_ever(serve: Serve, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MAX_STREAM_SECONDS", 0.5)
    monkeypatch.setattr(live, "POLL_INTERVAL", 0.05)
    client = serve(key=site.admin)

    assert len(parsed(client.get(f"/jobs/{new_job(client)}/events", headers=LIVE).text)) == 2


def test_too_many_streams_are_refused_for_now(serve: Serve, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MAX_STREAMS", 0)
    client = serve(key=site.admin, alone=True)

    answer = client.get(f"/jobs/{new_job(client)}/events", headers=LIVE)

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


def test_another_tenant_gets_no_stream(serve: Serve, site: Site, sessions: sessionmaker[Session]) -> None:
    job_id = new_job(serve(key=site.admin))
    with sessions.begin() as session:
        other = set_up(session, "bank")

    assert serve(key=other.admin).get(f"/jobs/{job_id}/events", headers=LIVE).status_code == 404
