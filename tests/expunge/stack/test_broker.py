from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis

from expunge.stack.broker import broker
from expunge.stack.folder import Folder
from expunge.stack.process import await_ready, start, stop


@contextmanager
def valkey(folder: Folder) -> Iterator[str]:
    program, url = broker(folder)
    child = start(program)
    await_ready(child)
    try:
        yield url
    finally:
        stop(child)


def test_the_broker_keeps_its_messages_and_wants_its_password(folder: Folder) -> None:
    with valkey(folder) as url:
        with redis.Redis.from_url(url) as client:
            client.set("message", "kept")
        port = int(url.rsplit(":", 1)[1].split("/")[0])
        with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.get("message")
    with valkey(folder) as url, redis.Redis.from_url(url) as client:
        assert client.get("message") == b"kept"
