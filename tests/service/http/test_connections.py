import asyncio
import socket

import httpx
import pytest
from fastapi import FastAPI

from service.http.connections import Connection
from tests.service.conftest import served


def test_a_connection_on_a_socket_that_names_no_protocol_sends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    options: list[int] = []
    begin = Connection.connection_made

    def record(connection: Connection, transport: asyncio.Transport) -> None:
        begin(connection, transport)
        options.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    monkeypatch.setattr(Connection, "connection_made", record)
    with served(FastAPI()) as address:
        assert httpx.get(address).status_code == 404
    assert options == [1]
