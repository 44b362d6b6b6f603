from tests.service.conftest import NOWHERE, Serve


def test_it_is_ready_when_database_and_broker_answer(serve: Serve, broker_url: str) -> None:
    answer = serve(broker=broker_url).get("/readyz")

    assert (answer.status_code, answer.json()) == (200, {"checks": {"database": "ok", "broker": "ok"}})


def test_it_is_not_ready_without_the_broker_and_says_so(serve: Serve) -> None:
    answer = serve(broker=NOWHERE).get("/readyz")

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert answer.json()["checks"] == {"database": "ok", "broker": "no answer"}


def test_it_is_alive_but_not_ready_without_the_database(serve: Serve, broker_url: str) -> None:
    client = serve(broker=broker_url, database="postgresql://nobody@127.0.0.1:1/nothing")

    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").json()["checks"] == {"database": "no answer", "broker": "ok"}


def test_every_other_call_is_503_without_the_database(serve: Serve) -> None:
    client = serve(key="expunge_abc_def", database="postgresql://nobody@127.0.0.1:1/nothing")

    answer = client.get("/models")

    assert answer.status_code == 503
    assert answer.json()["type"] == "https://expunge.dev/problems/not-ready"
    assert "127.0.0.1" not in answer.text


def test_the_metrics_of_the_process_are_there_without_the_database(serve: Serve) -> None:
    client = serve(database="postgresql://nobody@127.0.0.1:1/nothing")
    client.get("/methods")

    text = client.get("/metrics").text

    assert "expunge_exporter_up 0.0" in text
    assert 'http_requests_total{handler="/methods",method="GET",status="200"} 1.0' in text
    assert 'expunge_build_info{version="' in text
