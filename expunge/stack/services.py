"""The stack's own programs: the API, one worker, the beat. Their commands are those of docker-compose.yml."""

import sys
from collections.abc import Mapping
from pathlib import Path

import httpx

from expunge.stack.folder import Folder
from expunge.stack.process import Program

CELERY = (sys.executable, "-m", "celery", "-A", "worker.app")

PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Lets torch's threads sleep while they wait for each other. By default they spin; on a machine that also runs the rest of the
stack, small networks then train four to ten times slower (measured on 2 cores under load: 17.3 s against 2.7 s).
"""


def api(folder: Folder, environment: Mapping[str, str], *, host: str, port: int) -> Program:
    """Return the program that serves the HTTP API. It is ready when `/readyz` answers 200."""

    def ready() -> bool:
        try:
            return httpx.get(f"http://{host}:{port}/readyz", timeout=5).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    return Program(
        name="the API",
        command=(
            *(sys.executable, "-m", "uvicorn", "service.app:create_app", "--factory"),
            *("--host", host, "--port", str(port), "--timeout-graceful-shutdown", "5", "--no-server-header"),
            *("--http", "service.http.connections:Connection"),
        ),
        log=folder.logs / "api.log",
        ready=ready,
        environment=environment,
    )


def worker(folder: Folder, environment: Mapping[str, str]) -> Program:
    """Return the program that runs jobs, one at a time in one child process. Only it gets the folder of signing keys."""
    return celery(
        "the worker",
        folder,
        {**PASSIVE, "EXPUNGE_SIGNING_KEYS": str(folder.signing_keys), **environment},
        log=folder.logs / "worker.log",
        arguments=("worker", "--pool", "prefork", "--concurrency", "1", "--without-gossip", "--without-mingle"),
    )


def beat(folder: Folder, environment: Mapping[str, str]) -> Program:
    """Return the program that sweeps, relays wake-ups and delivers webhooks."""
    schedule = folder.run / "beat.schedule"
    return celery(
        "the beat",
        folder,
        environment,
        log=folder.logs / "beat.log",
        arguments=("beat", "--schedule", str(schedule), "--pidfile="),
    )


def celery(
    name: str, folder: Folder, environment: Mapping[str, str], *, log: Path, arguments: tuple[str, ...]
) -> Program:
    """Return a Celery program. It is ready when it has created the file that EXPUNGE_READY_FILE names."""
    ready_file = folder.run / f"{log.stem}.ready"
    return Program(
        name=name,
        command=(*CELERY, *arguments, "--loglevel", "INFO"),
        log=log,
        ready=ready_file,
        environment={**environment, "EXPUNGE_READY_FILE": str(ready_file)},
    )
