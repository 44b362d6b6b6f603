"""Calls to other systems: JSON, and files of any size, without redirects, with the operator's credentials."""

import base64
import hashlib
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from connectors.configuration import HandOverFailed
from ledger.events.hand_overs import VISIBILITY_TIMEOUT

MAX_ANSWER = 1024 * 1024
"""Bytes of an answer that are read."""

CHUNK = 1024 * 1024
"""Bytes of a file that are in memory at a time."""

STEPS = 4
"""How many times its `timeout` a call may take in all: a peer that sends a byte now and then never runs into the `timeout`."""

FILE_SECONDS = VISIBILITY_TIMEOUT.total_seconds()
"""How long a file may take in all: afterwards another beat may take the hand-over."""


def _check_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise ValueError("must be a URL such as http://triton:8000, without a user, a query and a fragment")
    return value.rstrip("/")


Url = Annotated[str, AfterValidator(_check_url)]


class Server(BaseModel):
    """How a server is reached. token_file: a file with the bearer token, read at each call, so that it may change.

    timeout: seconds for each step of a call: the connection, each read, each write. A call may take four times as long in all, a
    file half an hour.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Url
    token_file: Path | None = None
    timeout: float = Field(default=30, gt=0, le=600)

    def call(
        self, method: str, target: str, body: Any = None, *, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Make one call with a JSON body, and return status and content. target: what follows the URL. Raises HandOverFailed."""
        content = None if body is None else json.dumps(body).encode()
        given = {**({} if body is None else {"Content-Type": "application/json"}), **(headers or {})}
        with self._answer(method, target, content, given, STEPS * self.timeout) as response:
            return response.status, response.read(MAX_ANSWER)

    def send_file(self, target: str, file: Path) -> int:
        """PUT a file, and return the status. Raises HandOverFailed."""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(file.stat().st_size)}
        with file.open("rb") as content, self._answer("PUT", target, content, headers, FILE_SECONDS) as response:
            return response.status

    def receive_file(self, target: str, into: Path | None = None) -> tuple[int, str]:
        """GET a file, into another if one is named, and return the status and the SHA-256 (hex) of what came.

        Raises HandOverFailed.
        """
        digest = hashlib.sha256()
        with (
            self._answer("GET", target, None, {}, FILE_SECONDS) as response,
            (into or Path("/dev/null")).open("wb") as file,
        ):
            while chunk := response.read(CHUNK):
                digest.update(chunk)
                file.write(chunk)
            if response.length:
                raise HandOverFailed(f"{urlsplit(self.url).netloc} broke off in the middle of a file.")
            return response.status, digest.hexdigest()

    def credentials(self) -> str | None:
        """Give the value of the header Authorization. Raises OSError if the token cannot be read."""
        return None if self.token_file is None else f"Bearer {self.token_file.read_text().strip()}"

    @contextmanager
    def _answer(
        self, method: str, target: str, body: Any, headers: dict[str, str], seconds: float
    ) -> Iterator[HTTPResponse]:
        """Make a call, and give its answer while the block reads it. Raises HandOverFailed, also once `seconds` are over."""
        parts = urlsplit(self.url)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=self.timeout)
        expired = threading.Event()
        timer: threading.Timer | None = None
        try:
            headers = {"Accept": "application/json", **headers}
            given = self.credentials()
            if given is not None:
                headers["Authorization"] = given
            connection.connect()
            timer = threading.Timer(seconds, _end, (connection.sock, expired))
            timer.daemon = True
            timer.start()
            connection.request(method, f"{parts.path}{target}" or "/", body, headers)
            yield connection.getresponse()
            if expired.is_set():  # What was read may look whole.
                raise TimeoutError
        except (OSError, HTTPException, ValueError) as error:
            named = getattr(error, "filename", None)
            what = f"{named} cannot be read" if named else f"{parts.netloc} does not answer"
            if expired.is_set():
                what = f"{parts.netloc} took more than {seconds:g} seconds for one call"
            raise HandOverFailed(f"{what} ({type(error).__name__}).") from error
        finally:
            if timer is not None:
                timer.cancel()
            connection.close()


def _end(connected: socket.socket, expired: threading.Event) -> None:
    """End a call whose time is over: whoever waits on its socket gets an error, or the end of the answer."""
    expired.set()
    shut_down(connected)


def shut_down(connected: socket.socket) -> None:
    """Shut down a socket on which another thread may wait, with TLS or without."""
    with suppress(OSError):
        # Of the socket itself: with TLS its own method would also take the keys from whoever is reading.
        socket.socket.shutdown(connected, socket.SHUT_RDWR)


def basic(user: str, secret: str) -> str:
    """Write the credentials of HTTP Basic."""
    return f"Basic {base64.b64encode(f'{user}:{secret}'.encode()).decode()}"
