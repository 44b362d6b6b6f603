"""Model servers on loopback: each serves what a test has put into it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


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

    def answer(self, method: str, target: str, body: dict[str, object]) -> tuple[int, object]:
        """Do what the call asks for, and give its status and content."""
        if self.status is not None and not self.after_work:
            return self.status, {}
        status, content = self._act(method, urlsplit(target).path, body)
        return self.status or status, content

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

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer({})

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, body: dict[str, object]) -> None:
            server.tokens.append(self.headers.get("Authorization"))
            status, content = server.answer(self.command, self.path, body)
            written = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(written)))
            self.end_headers()
            self.wfile.write(written)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
