"""The repository of ops/mlserver keeps Expunge's API key to itself; it runs here without a model server."""

import asyncio
import hashlib
import json
import logging
import runpy
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

ADAPTER = Path(__file__).parents[2] / "ops" / "mlserver" / "expunge_mlserver.py"


class Redirecting(BaseHTTPRequestHandler):
    """An API that redirects to a signed URL, and the bucket, which refuses credentials beside the signature, as S3 does."""

    weights = sent = b"the weights"

    def do_GET(self) -> None:
        served = {"version": 2, "weights_sha256": hashlib.sha256(self.weights).hexdigest()}
        key = self.headers.get("Authorization")
        status, content = {
            ("/models/triage/served", "Bearer key"): (200, json.dumps(served).encode()),
            ("/models/triage/served/weights", "Bearer key"): (307, b""),
            ("/bucket?signature=1", None): (200, self.sent),
        }.get((self.path, key), (400, b""))
        self.send_response(status)
        self.send_header("Location", "/bucket?signature=1")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None: ...


class OneModel:
    """What the repository extends, as far as it needs it: one model's settings."""

    def __init__(self, root: str) -> None:
        self.root = root

    async def list(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="triage", parameters=SimpleNamespace(extra=None, uri=None, version=None))]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def found(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], list[SimpleNamespace]]]:
    """Lists the models that the repository finds with Expunge."""
    for name, content in {
        "mlserver": {},
        "mlserver.logging": {"logger": logging.getLogger(__name__)},
        "mlserver.repository": {},
        "mlserver.repository.repository": {"SchemalessModelRepository": OneModel},
        "mlserver.settings": {"ModelSettings": object},
    }.items():
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**content))
    repository = runpy.run_path(str(ADAPTER))["ExpungeRepository"]
    (tmp_path / "key").write_text("key\n")
    with ThreadingHTTPServer(("127.0.0.1", 0), Redirecting) as http:
        threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
        url = f"http://127.0.0.1:{http.server_port}"
        made = repository("models", url=url, key_file=str(tmp_path / "key"), cache=str(cache))
        yield lambda: asyncio.run(made.list())
        http.shutdown()


def test_a_signed_url_gets_no_key(found: Callable[[], list[SimpleNamespace]]) -> None:
    (settings,) = found()
    assert settings.parameters.version == "2"
    assert Path(settings.parameters.uri).read_bytes() == Redirecting.weights


def test_a_download_that_fails_leaves_nothing_on_the_disk(
    found: Callable[[], list[SimpleNamespace]], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Redirecting, "sent", b"others")
    assert found() == []
    assert [path for path in cache.rglob("*") if path.is_file()] == []
