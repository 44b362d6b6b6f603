import logging
from uuid import UUID, uuid4

import pytest

from tests.service.conftest import Serve, Site

ASKED = {"dataset": "scans", "sample_ids": ["sample-1"], "expedite": True}


def logged(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "service.http.access_log"]


def test_every_answer_has_an_id_and_a_callers_own_is_kept(serve: Serve, site: Site) -> None:
    client, own = serve(key=site.admin), str(uuid4())

    assert client.get("/methods", headers={"X-Request-ID": own}).headers["X-Request-ID"] == own
    assert UUID(client.get("/nowhere").headers["X-Request-ID"])
    assert UUID(client.get("/methods", headers={"X-Request-ID": "sample-1"}).headers["X-Request-ID"])


def test_a_call_is_logged_by_its_route_with_the_ids_in_its_path_and_no_sample(
    serve: Serve, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="service.http.access_log")
    client = serve(key=site.admin)
    request_id = client.post("/unlearn-requests", json=ASKED).json()["id"]
    client.get(f"/unlearn-requests/{request_id}")
    client.get("/nowhere/sample-1")
    client.get("/metrics")

    # A call's line is written when its work after the answer has ended as well.
    read, nowhere, made = sorted(logged(caplog), key=lambda record: record.getMessage())
    assert made.getMessage().startswith("POST /unlearn-requests 202 in ")
    assert read.ids == {"request_id": request_id}  # type: ignore[attr-defined]
    assert nowhere.getMessage().startswith("GET no route 404")
    assert "sample-1" not in caplog.text
