"""The proxy's configuration of docs/deploy.md, run by Debian's nginx in front of the real application."""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from expunge.stack.broker import free_port
from tests.fixtures.waiting import PATIENCE, await_that
from tests.service.conftest import Serve, Site

PAGE = Path(__file__).parents[2] / "docs" / "deploy.md"
PUBLIC = "https://expunge.example"

FRAME = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
access_log off;
client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
{site}
}}
"""

Proxy = Callable[..., httpx.Client]


def make_certificate(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "expunge.example")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    (folder / "expunge.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "expunge.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


@pytest.fixture
def proxy(serve: Serve, tmp_path: Path) -> Iterator[Proxy]:
    """`proxy(without=…, **settings)`: a client of nginx with the page's configuration, less the lines that contain a text."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None:
        pytest.skip("nginx is not installed")
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:3]:  # its workers run as another user
        if "pytest" in parent.name:
            parent.chmod(parent.stat().st_mode | 0o055)
    make_certificate(tmp_path)
    running: list[subprocess.Popen[bytes]] = []
    clients: list[httpx.Client] = []

    def start(*, without: str | None = None, **settings: object) -> httpx.Client:
        api, port = serve(alone=True, public_url=PUBLIC, **settings), free_port()
        (site,) = re.findall(r"```nginx\n(.*?)```", PAGE.read_text(), re.DOTALL)
        site = "\n".join(line for line in site.splitlines() if without is None or without not in line)
        for given, here in (
            ("127.0.0.1:8000", f"127.0.0.1:{api.base_url.port}"),
            ("listen 443", f"listen 127.0.0.1:{port}"),
            ("/etc/ssl", str(tmp_path)),
        ):
            assert given in site
            site = site.replace(given, here)
        (tmp_path / "nginx.conf").write_text(FRAME.format(folder=tmp_path, site=site))
        running.append(subprocess.Popen([nginx, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]))
        url = f"https://127.0.0.1:{port}"
        client = httpx.Client(
            base_url=url, headers={"Host": "expunge.example"}, verify=False, timeout=PATIENCE, trust_env=False
        )
        clients.append(client)

        def answers() -> bool:
            try:
                return client.get("/livez").status_code == 200
            except httpx.TransportError:
                return False

        await_that(answers, "nginx")
        return client

    yield start
    for client in clients:
        client.close()
    for process in running:
        process.terminate()
        process.wait(PATIENCE)


@pytest.mark.parametrize("without", [None, "proxy_set_header Host"])
def test_one_signs_in_to_the_console_through_the_proxy(proxy: Proxy, site: Site, without: str | None) -> None:
    """Also where nginx sends its default Host, the name of the upstream."""
    client = proxy(without=without)
    headers = {"Origin": PUBLIC, "Sec-Fetch-Site": "same-origin"}
    answer = client.post("/console/sign-in", data={"key": site.admin}, headers=headers)
    assert answer.status_code == 303
    assert "secure" in answer.headers["set-cookie"].lower()
    evil = {"Origin": "https://evil.example"}
    assert client.post("/console/sign-in", data={"key": site.admin}, headers=evil).status_code == 403


def test_calls_uploads_and_events_pass_and_metrics_do_not(proxy: Proxy, site: Site) -> None:
    client = proxy()
    client.headers["Authorization"] = f"Bearer {site.admin}"
    lines = (f"sample-{number}\n".encode() for number in range(50))
    upload = client.post("/uploads", params={"dataset": "scans"}, content=lines, headers={"Content-Type": "text/plain"})
    assert upload.json()["samples"] == 50
    asked = client.post("/unlearn-requests", json={"dataset": "scans", "upload": upload.json()["id"]})
    assert (asked.status_code, len(asked.headers["X-Request-ID"])) == (202, 36)
    job = asked.json()["targets"][0]["job"]["id"]
    live = {"Accept": "text/event-stream"}
    with client.stream("GET", f"/jobs/{job}/events", headers=live) as events:
        assert "job.opened" in next(text for text in events.iter_text() if "job." in text)
    assert client.get("/metrics").status_code == 404


def test_the_address_that_is_counted_is_the_callers_and_not_of_its_choice(proxy: Proxy, site: Site) -> None:
    client = proxy(address_rate_limit="2/year")
    spoofed = [client.get("/keys", headers={"X-Forwarded-For": f"192.0.2.{number}"}).status_code for number in range(3)]
    assert spoofed == [200, 200, 429]
