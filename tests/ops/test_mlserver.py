"""A real MLServer loads what Expunge serves, by the V2 protocol and the repository of ops/mlserver."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from safetensors.numpy import save, save_file
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from connectors.configuration import HandOverFailed
from connectors.model_server import V2Server
from ledger.registry.access import issue_key
from tests.connectors.test_model_server import VERSION, no_weights
from tests.fixtures.model_server import V2Api, logits, make_network, mlserver, needs_mlserver
from tests.service.conftest import Serve, Site, publish_job
from unlearning.files import file_sha256

pytestmark = needs_mlserver

INPUTS = np.random.default_rng(0).random((3, 64), dtype=np.float32)
FIRST, SECOND = (
    replace(VERSION, model="triage", version=number, knowing=frozenset({1} if number > 1 else ())) for number in (1, 2)
)


def serve_weights(sessions: sessionmaker[Session], storage: Path, network: dict[str, np.ndarray], number: int) -> str:
    """Have a version have these weights; gives their SHA-256."""
    path = storage / "new"
    save_file(network, path)
    sha256 = file_sha256(path)
    path.rename(storage / f"{sha256}.safetensors")
    with sessions.begin() as session:
        values = {"path": f"{sha256}.safetensors", "sha256": sha256, "number": number}
        statement = "UPDATE model_versions SET weights_path = :path, weights_sha256 = :sha256 WHERE number = :number"
        session.execute(text(statement), values)
    return sha256


@pytest.fixture
def api(serve: Serve, site: Site, sessions: sessionmaker[Session], tmp_path: Path) -> httpx.Client:
    """The API with a storage in which the first version of `triage` is."""
    (tmp_path / "storage").mkdir()
    serve_weights(sessions, tmp_path / "storage", make_network(1), 1)
    return serve(key=site.admin, storage=tmp_path / "storage", alone=True, batch_window_seconds=0)


@pytest.fixture
def key(site: Site, sessions: sessionmaker[Session]) -> str:
    with sessions.begin() as session:
        return issue_key(session, tenant_id=site.tenant_id, name="mlserver", scopes=["weights:read"]).secret


@pytest.fixture
def server(api: httpx.Client, key: str, tmp_path: Path) -> Iterator[V2Api]:
    with mlserver(tmp_path, expunge=str(api.base_url), key=key, models=["triage"]) as server:
        yield server


def erase(api: httpx.Client, sessions: sessionmaker[Session]) -> None:
    """Have a second version published."""
    request = api.post("/unlearn-requests", json={"dataset": "scans", "sample_ids": ["sample-1"]}).json()
    publish_job(sessions, request["targets"][0]["job"]["id"])


def test_it_answers_with_the_new_version_after_the_hand_over_and_never_with_the_old_one_again(
    server: V2Api, api: httpx.Client, key: str, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    connector = V2Server(url=server.url)
    connector.hand_over(FIRST, no_weights)
    status, version, found = server.predict("triage", INPUTS)
    assert (status, version) == (200, "1")
    assert np.allclose(found, logits(make_network(1), INPUTS), atol=1e-4)

    erase(api, sessions)
    sha256 = serve_weights(sessions, tmp_path / "storage", make_network(2), 2)
    with pytest.raises(HandOverFailed, match="does not serve version 2"):
        connector.check(SECOND)
    connector.hand_over(SECOND, no_weights)
    status, version, found = server.predict("triage", INPUTS)
    assert (status, version) == (200, "2")
    assert np.allclose(found, logits(make_network(2), INPUTS), atol=1e-4)
    assert server.predict("triage", INPUTS, version=1)[0] == 404
    assert server.files() == [f"{sha256}.safetensors"]

    assert server.load("triage") == 200  # by hand
    assert (server.is_ready("triage", 1), server.is_ready("triage", 2)) == (False, True)
    with mlserver(tmp_path, expunge=str(api.base_url), key=key, models=["triage"]) as restarted:
        V2Server(url=restarted.url).check(SECOND)
        assert not restarted.is_ready("triage", 1)


def test_what_it_cannot_fetch_or_what_is_damaged_is_never_loaded(
    server: V2Api, api: httpx.Client, key: str, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    connector = V2Server(url=server.url)
    erase(api, sessions)
    sha256 = serve_weights(sessions, tmp_path / "storage", make_network(2), 2)
    (tmp_path / "storage" / f"{sha256}.safetensors").write_bytes(save(make_network(3)))
    with pytest.raises(HandOverFailed, match="404"):
        connector.hand_over(SECOND, no_weights)
    assert not server.is_ready("triage", 2)
    serve_weights(sessions, tmp_path / "storage", make_network(2), 2)
    (tmp_path / "key").write_text("expunge_another_key")
    with pytest.raises(HandOverFailed, match="404"):
        connector.hand_over(SECOND, no_weights)
    (tmp_path / "key").write_text(key)
    connector.hand_over(SECOND, no_weights)
    assert np.allclose(server.predict("triage", INPUTS)[2], logits(make_network(2), INPUTS), atol=1e-4)
    with mlserver(tmp_path, expunge="http://127.0.0.1:1", key=key, models=["triage"]) as restarted:
        assert not restarted.is_ready("triage", 2)
