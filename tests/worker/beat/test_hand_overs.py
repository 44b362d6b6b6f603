"""The served version reaches a model server, whatever happens in between."""

import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from celery.signals import beat_init
from sqlalchemy import text

from connectors.configuration import Connector, HandOverFailed
from connectors.model_server import V2Server
from connectors.settings import open_storage
from connectors.storage import LocalFolder, delete_needless_copies
from tests.connectors.servers import ModelServer, running
from tests.connectors.test_model_server import VERSION
from tests.fixtures.s3 import BUCKET, S3
from tests.fixtures.waiting import await_that
from tests.ledger.conftest import World, make_world
from worker import app
from worker.beat import hand_overs, relay


@pytest.fixture
def world(filled) -> World:
    return filled(make_world)


def deliver(world: World, server: ModelServer) -> None:
    """Do what the beat's thread does, with every try due."""
    with world.sessions.begin() as session:
        session.execute(text("UPDATE hand_overs SET next_try_at = now() WHERE next_try_at IS NOT NULL"))
    connector = Connector(
        name="triton", tenant="hospital", models=("small",), system=V2Server(url=server.url, served_name="digits")
    )
    hand_overs.deliver_hand_overs(
        world.sessions, connector, find_weights=partial(hand_overs.find_weights, LocalFolder(Path("/")))
    )


def test_a_published_version_is_served_and_the_old_one_is_not(world: World) -> None:
    with running(ModelServer(repository={1})) as server:
        deliver(world, server)
        assert server.served == {1}
        world.finish(world.submit_and_claim(1, 2))
        server.repository.add(2)
        deliver(world, server)
        assert server.served == {2}
        server.served, server.repository = {1}, {1, 2}  # restarted by hand with the old version
        deliver(world, server)
        deliver(world, server)
        assert server.served == {2}
    assert world.count("hand_overs", "state = 'delivered'") == 1


def test_a_server_that_fails_undoes_no_publication_and_is_tried_again(world: World, caplog) -> None:
    with running(ModelServer(repository={1, 2}, status=500)) as server:
        world.finish(world.submit_and_claim(1))
        deliver(world, server)
        assert world.count("hand_overs", "state = 'pending' AND failures = 1") == 1
        assert world.count("models", "served_version_id = (SELECT id FROM model_versions WHERE number = 2)") == 1
        assert "answered 500" in caplog.text
        server.status = None
        deliver(world, server)
    assert server.served == {2}


def test_what_a_client_raises_is_logged_by_its_type_alone(world: World, caplog) -> None:
    class Broken(V2Server):
        def hand_over(self, version, weights):
            raise RuntimeError("person-17")

    connector = Connector(name="b", tenant="hospital", models=("*",), system=Broken(url="http://127.0.0.1:1"))
    hand_overs.deliver_hand_overs(world.sessions, connector, find_weights=Path)
    assert "RuntimeError" in caplog.text
    assert "person-17" not in caplog.text
    assert world.count("hand_overs", "detail LIKE '%person-17%'") == 0


def test_weights_are_given_only_with_their_digest(tmp_path: Path, world: World) -> None:
    version = VERSION
    with pytest.raises(HandOverFailed, match="No such file"):
        hand_overs.find_weights(LocalFolder(tmp_path), version)
    path = tmp_path / version.weights_path
    path.write_bytes(b"other")
    with pytest.raises(HandOverFailed, match=hashlib.sha256(b"other").hexdigest()):
        hand_overs.find_weights(LocalFolder(tmp_path), version)


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database_url: str) -> pytest.MonkeyPatch:
    """The beat's."""
    for name, value in {
        "DATABASE_URL": database_url,
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "EXPUNGE_SAMPLE_KEY": "00" * 32,
        "EXPUNGE_STORAGE": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_a_wrong_file_of_connectors_stops_the_beat_before_it_is_ready(
    tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    file, ready = tmp_path / "connectors.toml", tmp_path / "ready"
    file.write_text('[triton]\nkind = "v2"\n')
    environment.setenv("EXPUNGE_CONNECTORS", str(file))
    environment.setenv("EXPUNGE_READY_FILE", str(ready))
    assert app.celery_app.main == "expunge"  # whose module tells Celery what the beat does when it starts
    with pytest.raises(SystemExit, match="triton"):
        beat_init.send(sender=None)
    assert not ready.exists()


def test_copies_that_the_beat_has_handed_over_are_deleted_once_nobody_needs_them(
    s3_api: S3, world: World, tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    """The worker deletes those of its own machine."""
    environment.setenv("EXPUNGE_STORAGE", f"s3://{BUCKET}")
    environment.setenv("EXPUNGE_STORAGE_CACHE", str(tmp_path / "cache"))
    started: list[Callable[[], object]] = []

    def note(action: Callable[[], object], stopped: threading.Event, interval: float) -> None:
        started.append(action)

    environment.setattr(relay, "repeat", note)
    relay.start(SimpleNamespace(app=None))
    await_that(lambda: len(started) >= 8, "the threads to begin")
    (clean,) = (each for each in started if getattr(each, "func", None) is delete_needless_copies)
    storage = open_storage(f"s3://{BUCKET}", cache=tmp_path / "cache")
    name, sha256 = storage.put(b"purged")
    path = hand_overs.find_weights(storage, replace(VERSION, weights_path=name, weights_sha256=sha256))
    clean()
    assert path.exists()  # it may be being sent
    os.utime(path, (path.stat().st_mtime - 3600,) * 2)
    clean()
    assert not path.exists()
    clean.args[1].kw["bind"].dispose()
