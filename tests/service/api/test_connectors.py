"""The call by which a connected system says that something has changed there; with MLflow itself where it is installed."""

import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
import safetensors.torch
import torch
from sqlalchemy import URL, text
from sqlalchemy.orm import Session, sessionmaker

from connectors.configuration import read_connectors
from connectors.storage import LocalFolder
from ledger.events.timeline import list_model_events
from service.app import create_app
from service.settings import Settings
from tests.connectors.test_mlflow import ALIAS, SECRET, sign
from tests.fixtures.mlflow import Registry, mlflow_server, needs_mlflow
from tests.fixtures.waiting import await_that
from tests.service.conftest import SAMPLE_KEY, Serve, Site, served
from unlearning.files import file_sha256
from worker.beat import hand_overs

CALL = "/connectors/mlflow/webhook"
BODY = json.dumps(ALIAS | {"data": {"name": "triage", "alias": "champion"}}).encode()


def declare(folder: Path, url: str = "http://127.0.0.1:1") -> Path:
    (folder / "secret").write_text(SECRET + "\n")
    path = folder / "connectors.toml"
    table = f'kind = "mlflow"\nurl = "{url}"\ntenant = "clinic"\n'
    path.write_text(
        f'[mlflow]\n{table}webhook_secret_file = "{folder / "secret"}"\n[silent]\n{table}'
        '[triton]\nkind = "v2"\nurl = "http://127.0.0.1:1"\n'
    )
    return path


@pytest.fixture(scope="session")
def declared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return declare(tmp_path_factory.mktemp("connectors"))


@pytest.fixture
def http(serve: Serve, declared: Path) -> httpx.Client:
    return serve(connectors=declared)


def send(http: httpx.Client, body: bytes = BODY, *, call: str = CALL, age: int = 0, **more: str) -> int:
    headers = sign(body, sent=int(time.time()) - age, **more)
    return http.post(call, content=body, headers=headers).status_code


def recorded(sessions: sessionmaker[Session]) -> list[tuple[str, str | None]]:
    with sessions() as session:
        return [tuple(row) for row in session.execute(text("SELECT connector, model FROM requested_checks"))]


def test_a_signed_message_asks_for_a_check_once(http: httpx.Client, sessions: sessionmaker[Session]) -> None:
    assert [send(http), send(http)] == [204, 409]
    assert recorded(sessions) == [("mlflow", "triage")]
    assert send(http, b"anything", delivery="two") == 204
    assert recorded(sessions)[1] == ("mlflow", None)


def test_what_is_forged_or_kept_back_is_refused_and_recorded_nowhere(
    http: httpx.Client, sessions: sessionmaker[Session]
) -> None:
    assert send(http, secret="another secret of the test") == 403
    assert http.post(CALL, content=BODY).status_code == 403
    assert http.post(CALL, content=BODY + b" ", headers=sign(BODY, sent=int(time.time()))).status_code == 403
    assert send(http, age=400) == 422
    assert send(http, b"x" * 70_000) == 413
    assert recorded(sessions) == []


def test_only_a_connector_with_a_secret_has_the_call(
    http: httpx.Client, serve: Serve, sessions: sessionmaker[Session]
) -> None:
    calls = [f"/connectors/{name}/webhook" for name in ("silent", "triton", "unknown")]
    assert [send(http, call=call) for call in calls] == [404, 404, 404]
    assert send(serve()) == 404
    assert recorded(sessions) == []


def test_a_secret_that_cannot_be_read_stops_the_start(tmp_path: Path, database_url: str) -> None:
    path = declare(tmp_path)
    (tmp_path / "secret").unlink()
    given = {"database_url": database_url, "redis_url": "redis://127.0.0.1:1/0", "sample_key": SAMPLE_KEY}
    with pytest.raises(SystemExit, match="secret cannot be read"):
        create_app(Settings(**given, connectors=path))


def test_a_secret_that_goes_while_it_runs_is_not_the_senders_fault(
    serve: Serve, sessions: sessionmaker[Session], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    http, secret = serve(connectors=declare(tmp_path)), tmp_path / "secret"
    for content in (b"", b"\xff" * 32):
        secret.write_bytes(content)
        assert send(http) == 503
    secret.unlink()
    assert send(http) == 503
    assert caplog.text.count(str(secret)) == 3
    secret.write_text(SECRET)
    assert send(http) == 204
    assert recorded(sessions) == [("mlflow", "triage")]


@pytest.fixture(scope="module")
def registry(postgresql: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with mlflow_server(postgresql, tmp_path_factory.mktemp("mlflow")) as registry:
        yield registry


class TestWithMlflow:
    """An alias that somebody moves in MLflow's own registry is moved back, because MLflow says so."""

    pytestmark = needs_mlflow

    def test_an_alias_that_somebody_moves_is_moved_back_at_once(
        self, registry: Registry, site: Site, sessions: sessionmaker[Session], database_url: str, tmp_path: Path
    ) -> None:
        weights = tmp_path / "weights.safetensors"
        safetensors.torch.save_file({"x": torch.ones(3)}, weights)
        with sessions.begin() as session:
            set_weights = text("UPDATE model_versions SET weights_path = :path, weights_sha256 = :sha256")
            session.execute(set_weights, {"path": weights.name, "sha256": file_sha256(weights)})
        path = declare(tmp_path, registry.url)
        connector, *_ = read_connectors(path)
        find_weights = partial(hand_overs.find_weights, LocalFolder(tmp_path))
        beat = partial(hand_overs.deliver_hand_overs, sessions, connector, find_weights=find_weights)
        given = {"database_url": database_url, "redis_url": "redis://127.0.0.1:1/0", "sample_key": SAMPLE_KEY}
        with served(create_app(Settings(**given, connectors=path))) as url:
            beat()
            assert registry.aliases("triage") == {"champion": "1"}
            events = [{"entity": "MODEL_VERSION_ALIAS", "action": action} for action in ("CREATED", "DELETED")]
            made = registry.post("webhooks", name="expunge", url=url + CALL, secret=SECRET, events=events)
            ours = registry.get("model-versions/get", name="triage", version="1")["model_version"]
            registry.post("model-versions/create", name="triage", source=ours["source"], run_id=ours["run_id"])
            registry.post("registered-models/alias", name="triage", alias="champion", version="2")
            await_that(lambda: recorded(sessions) != [], "MLflow's webhook")
            for _ in ("it finds the alias", "it moves it back"):
                beat()  # Nothing but the message makes it due: the last check was moments ago.
            assert registry.aliases("triage") == {"champion": "1"}
            hook = made["webhook"]["webhook_id"]
            answer = registry.post(f"webhooks/{hook}/test", webhook_id=hook)["result"]
            assert (answer["success"], answer["response_status"]) == (True, 204)
        with sessions() as session:
            timeline = list_model_events(session, tenant_id=site.tenant_id, model="triage")
        kinds = [event.kind for event in timeline if event.kind.startswith("version.")]
        assert kinds == ["version.handed_over", "version.missed", "version.handed_over"]
