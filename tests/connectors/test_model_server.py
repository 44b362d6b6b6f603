from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest

from connectors.configuration import HandOverFailed
from connectors.http import Server
from connectors.mlflow import MlflowRegistry
from connectors.model_server import HttpHook, V2Server
from ledger.events.hand_overs import HandedVersion
from ledger.states import HandOverState, Verdict
from tests.connectors.servers import ModelServer, running
from tests.fixtures.model_server import V2Api, fill_repository, make_network, needs_triton, triton

DIGEST = "ab" * 32
VERSION = HandedVersion(
    id=UUID(int=1),
    state=HandOverState.PENDING,
    connector="triton",
    tenant="default",
    model="digits-cnn",
    version=2,
    weights_sha256=DIGEST,
    weights_path=f"{DIGEST}.safetensors",
    predecessor=1,
    samples=10,
    verdict=Verdict.VERIFIED,
    report_id=UUID(int=2),
    report_sha256="cd" * 32,
    statement=None,
    signature=None,
    knowing=frozenset({1}),
    place=None,
    held_until=datetime(2026, 1, 1, tzinfo=UTC),
)


def no_weights() -> Path:
    raise AssertionError("a model server needs no weights")


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with running(ModelServer(repository={1, 2}, served={1})) as server:
        yield server


def v2(server: ModelServer, **more: object) -> V2Server:
    return V2Server.model_validate({"url": server.url + "/", "served_name": "digits", **more})


def test_a_v2_server_loads_the_version_and_is_found_to_serve_it(server: ModelServer) -> None:
    place = v2(server).hand_over(VERSION, no_weights)
    assert place == f"{server.url}/v2/models/digits/versions/2"
    assert server.served == {2}
    v2(server).check(VERSION)


def test_a_v2_server_whose_repository_lacks_the_version_is_found_out(server: ModelServer) -> None:
    server.repository = {1}
    with pytest.raises(HandOverFailed, match="does not serve version 2"):
        v2(server).hand_over(VERSION, no_weights)


def test_a_v2_server_that_also_serves_a_version_that_knows_erased_people_is_found_out(server: ModelServer) -> None:
    server.served = {1, 2}
    with pytest.raises(HandOverFailed, match="still serves version 1"):
        v2(server).check(VERSION)
    v2(server).check(replace(VERSION, knowing=frozenset()))


@pytest.mark.parametrize("status", [401, 500, 503])
def test_a_server_that_refuses_has_confirmed_nothing(server: ModelServer, status: int) -> None:
    server.status = status
    for act in (lambda: v2(server).hand_over(VERSION, no_weights), lambda: v2(server).check(VERSION)):
        with pytest.raises(HandOverFailed, match=str(status)):
            act()


def test_a_server_that_fails_after_the_work_is_found_to_have_done_it(server: ModelServer) -> None:
    server.status, server.after_work = 500, True
    with pytest.raises(HandOverFailed):
        v2(server).hand_over(VERSION, no_weights)
    server.status = None
    v2(server).hand_over(VERSION, no_weights)
    assert server.served == {2}


def test_a_token_is_read_at_each_call(server: ModelServer, tmp_path: Path) -> None:
    file = tmp_path / "token"
    system = v2(server, token_file=str(file))
    with pytest.raises(HandOverFailed, match="token cannot be read"):
        system.check(VERSION)
    file.write_text("first\n")
    system.hand_over(VERSION, no_weights)
    file.write_text("second\n")
    system.check(VERSION)
    assert list(dict.fromkeys(server.tokens)) == ["Bearer first", "Bearer second"]


def test_a_hook_gets_what_to_serve_and_is_asked_what_it_serves(server: ModelServer) -> None:
    hook = HttpHook(url=f"{server.url}/hook")
    hook.hand_over(VERSION, no_weights)
    assert server.calls == [
        {
            "model": "digits-cnn",
            "version": 2,
            "weights_sha256": DIGEST,
            "verdict": "verified",
            "report_id": str(UUID(int=2)),
        }
    ]
    server.digest = "ef" * 32
    with pytest.raises(HandOverFailed, match="ef" * 32):
        hook.check(VERSION)


def test_a_hook_that_says_yes_and_serves_other_weights_is_found_out(server: ModelServer) -> None:
    server.refuses_digest = True
    with pytest.raises(HandOverFailed, match="SHA-256"):
        HttpHook(url=f"{server.url}/hook").hand_over(VERSION, no_weights)


@pytest.mark.parametrize("kind", [HttpHook, MlflowRegistry])
def test_an_answer_that_is_nested_without_end_is_an_error_of_the_other_side(
    kind: type[HttpHook | MlflowRegistry], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Server, "call", lambda *_, **__: (200, b"[" * 100_000))
    with pytest.raises(HandOverFailed):
        kind(url="http://127.0.0.1:1").check(VERSION)


def test_a_server_that_is_not_there_is_no_success() -> None:
    with running(ModelServer()) as gone:
        url = gone.url
    with pytest.raises(HandOverFailed, match="does not answer"):
        V2Server(url=url).hand_over(VERSION, no_weights)


class TestWithTriton:
    """A real Triton, of the package nvidia-pytriton, with explicit model control."""

    pytestmark = needs_triton

    @pytest.fixture
    def triton(self, tmp_path: Path) -> Iterator[V2Api]:
        with triton(tmp_path) as server:
            yield server

    def test_it_has_the_version_that_was_handed_over_and_not_the_old_one(self, triton: V2Api) -> None:
        first = replace(VERSION, version=1, knowing=frozenset())
        connector = V2Server(url=triton.url, served_name="digits")
        with pytest.raises(HandOverFailed, match="answered 500 to the call to load"):
            connector.hand_over(first, no_weights)
        fill_repository(triton, "digits", 1, make_network(1))
        connector.hand_over(first, no_weights)
        with pytest.raises(HandOverFailed, match="does not serve version 2"):
            connector.hand_over(VERSION, no_weights)
        fill_repository(triton, "digits", 2, make_network(2))
        with pytest.raises(HandOverFailed, match="does not serve version 2"):
            connector.check(VERSION)
        for _ in range(2):
            assert connector.hand_over(VERSION, no_weights) == f"{triton.url}/v2/models/digits/versions/2"
        assert triton.http.get("models/digits").json()["versions"] == ["2"]
        assert triton.predict("digits", np.ones((3, 64), dtype=np.float32), version=1)[0] == 503

    def test_one_that_keeps_the_old_version_too_is_found_out(self, triton: V2Api) -> None:
        for number in (1, 2):
            fill_repository(triton, "digits", number, make_network(number), more="version_policy: { all {} }")
        with pytest.raises(
            HandOverFailed, match="still serves version 1 of digits, which knows people who were erased"
        ):
            V2Server(url=triton.url, served_name="digits").hand_over(VERSION, no_weights)
