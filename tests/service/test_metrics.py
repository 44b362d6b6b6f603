import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.service.conftest import NOWHERE, SAMPLE_KEY, free_port


@pytest.mark.slow
def test_two_processes_count_as_one(database_url: str, tmp_path: Path) -> None:
    port = free_port()
    environment = os.environ | {
        "DATABASE_URL": database_url,
        "REDIS_URL": NOWHERE,
        "EXPUNGE_SAMPLE_KEY": SAMPLE_KEY,
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path),
    }
    command = [sys.executable, "-m", "uvicorn", "service.app:create_app", "--factory", "--workers", "2"]
    with subprocess.Popen([*command, "--port", str(port), "--log-level", "error"], env=environment) as server:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
                wait_for(client)
            for _ in range(40):  # each on a connection of its own, so that either process may take it
                httpx.get(f"http://127.0.0.1:{port}/methods", trust_env=False)
            text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
        finally:
            server.terminate()

    assert 'http_requests_total{handler="/methods",method="GET",status="200"} 40.0' in text
    assert len({path.name.split("_")[-1] for path in tmp_path.glob("counter_*.db")}) == 2


def wait_for(client: httpx.Client) -> None:
    """Until the server listens."""
    for _ in range(300):
        try:
            client.get("/livez")
            return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError("the server did not start in 30 s")
