"""Model servers on loopback: each serves what a test has put into it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from urllib.parse import urlsplit

from tests.fixtures.servers import answering


@dataclass
class ModelServer:
    """What a server does. repository: the versions that `load` finds there. served: those that are ready. status: of every answer,
    if it is not to be what it does. after_work: whether it does the work before it answers with that status.
    """

    repository: set[int] = field(default_factory=set)
    served: set[int] = field(default_factory=set)
    digest: str = ""
    refuses_digest: bool = False
    status: int | None = None
    after_work: bool = False
    tokens: list[str | None] = field(default_factory=list)
    calls: list[dict[str, object]] = field(default_factory=list)
    url: str = ""

    def answer(self, method: str, target: str, headers: Message, body: bytes) -> tuple[int, bytes]:
        """Do what the call asks for, and give its status and content."""
        self.tokens.append(headers["Authorization"])
        if self.status is not None and not self.after_work:
            return self.status, b"{}"
        status, content = self._act(method, urlsplit(target).path, json.loads(body or b"{}"))
        return self.status or status, json.dumps(content).encode()

    def _act(self, method: str, path: str, body: dict[str, object]) -> tuple[int, object]:
        if path == "/hook":
            if method == "POST":
                self.calls.append(body)
                if not self.refuses_digest:
                    self.digest = str(body["weights_sha256"])
            return 200, {"weights_sha256": self.digest}
        if path == "/v2/repository/models/digits/load":
            self.served = {max(self.repository)}  # as Triton's policy of the latest version
            return 200, {}
        if path.startswith("/v2/models/digits/versions/"):
            return (200 if int(path.split("/")[5]) in self.served else 400), {}
        return 404, {}


@contextmanager
def running(server: ModelServer) -> Iterator[ModelServer]:
    """Run a server while the block runs."""
    with answering(server.answer) as server.url:
        yield server
