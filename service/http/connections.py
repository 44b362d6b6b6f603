"""The server's side of a connection: `uvicorn --http service.http.connections:Connection`."""

import asyncio
import socket

from uvicorn.protocols.http.h11_impl import H11Protocol


class Connection(H11Protocol):
    """uvicorn's own protocol on a connection that sends at once.

    With several processes uvicorn makes the socket itself and names no protocol, so asyncio leaves Nagle's algorithm on. Then each
    response on a connection that is kept open waits 40 ms for the acknowledgement of the one before.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn declares it
        """Turn Nagle's algorithm off, and begin."""
        own: socket.socket | None = transport.get_extra_info("socket")
        if own is not None and own.family in (socket.AF_INET, socket.AF_INET6):
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().connection_made(transport)
