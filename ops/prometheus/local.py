"""Run a real Prometheus beside a running embedded stack, with the installed exporters: `python -m ops.prometheus.local`.

Debian: apt-get install prometheus prometheus-postgres-exporter prometheus-redis-exporter. It reads this folder's configuration and
rules, with the addresses of this machine in place of those of docker-compose.yml.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml  # type: ignore[import-untyped]  # it ships no types
from sqlalchemy import make_url

from expunge.stack.broker import free_port
from expunge.stack.folder import StackSettings, chosen_folder, read_stack_settings
from expunge.stack.process import Program, await_ready, start, stop

HERE = Path(__file__).parent
EXPORTERS = {"postgres": "prometheus-postgres-exporter", "redis": "prometheus-redis-exporter"}
"""The program behind each job of the configuration that is neither the API nor Prometheus."""


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running Prometheus, and the jobs that it scrapes."""

    url: str
    jobs: frozenset[str]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Evaluate an expression now; returns series, each with `metric` and `value`."""
        return self._ask("query", query=expression)

    def query_range(self, expression: str, *, start: float, end: float, step: float) -> list[dict[str, Any]]:
        """Evaluate an expression over a time range; returns series, each with `metric` and `values`."""
        return self._ask("query_range", query=expression, start=start, end=end, step=step)

    def firing(self) -> set[str]:
        """Return the names of the firing alerts."""
        answer = httpx.get(f"{self.url}/api/v1/alerts", trust_env=False, timeout=30).raise_for_status()
        alerts = answer.json()["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def _ask(self, kind: str, **parameters: str | float) -> list[dict[str, Any]]:
        answer = httpx.get(f"{self.url}/api/v1/{kind}", params=parameters, trust_env=False, timeout=30)
        assert answer.status_code == httpx.codes.OK, answer.text
        found: list[dict[str, Any]] = answer.json()["data"]["result"]
        return found


@contextmanager
def prometheus(
    settings: StackSettings,
    folder: Path,
    *,
    interval: str = "15s",
    edit: Callable[[str], str] = lambda rules: rules,
    data: Path | None = None,
) -> Iterator[Prometheus]:
    """Start Prometheus and the exporters on a stack, and stop them at the end.

    folder: for configuration, logs and, unless `data` names another, the series. edit: changes the text of each rule file, so that
    a drill need not wait for hours. Raises StartFailed.
    """
    with ExitStack() as running:
        targets = {"expunge": settings.api_url.removeprefix("http://")}
        for job, name in EXPORTERS.items():
            if shutil.which(name):
                targets[job] = running.enter_context(_exporter(job, settings, folder))
        address = targets["prometheus"] = f"127.0.0.1:{free_port()}"
        configure(folder, targets, interval=interval, edit=edit)
        command = (
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={data or folder / 'series'}",
            f"--web.listen-address={address}",
        )
        running.enter_context(_running("prometheus", command, f"http://{address}/-/ready", folder))
        yield Prometheus(f"http://{address}", frozenset(targets))


def configure(folder: Path, targets: Mapping[str, str], *, interval: str, edit: Callable[[str], str]) -> None:
    """Write the configuration with other addresses and another interval; jobs without an address are left out."""
    configuration = yaml.safe_load((HERE / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": interval, "evaluation_interval": interval, "scrape_timeout": interval}
    jobs = [job for job in configuration["scrape_configs"] if job["job_name"] in targets]
    for job in jobs:
        job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
    configuration["scrape_configs"] = jobs
    (folder / "rules").mkdir(parents=True, exist_ok=True)
    for rules in (HERE / "rules").glob("*.yml"):
        (folder / "rules" / rules.name).write_text(edit(rules.read_text()))
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))


@contextmanager
def _exporter(job: str, settings: StackSettings, folder: Path) -> Iterator[str]:
    """Start an exporter and yield its address."""
    address = f"127.0.0.1:{free_port()}"
    environment = {}
    if job == "postgres":
        options: tuple[str, ...] = ("--no-collector.bgwriter", f"--web.listen-address={address}")
        environment["DATA_SOURCE_NAME"] = libpq(settings.database_url)
    else:
        options = (
            f"-redis.addr={settings.redis_url}",
            "-check-single-keys=db0=celery",
            f"-web.listen-address={address}",
        )
    with _running(job, (EXPORTERS[job], *options), f"http://{address}/metrics", folder, environment=environment):
        yield address


def libpq(url: str) -> str:
    """Convert a database URL to libpq's keywords, which the exporter's driver accepts for a Unix socket too."""
    parsed = make_url(url)
    place = {"host": parsed.host, "port": parsed.port, "dbname": parsed.database}
    asked = {**place, "user": parsed.username, "password": parsed.password, "sslmode": "disable", **parsed.query}
    return " ".join(f"{name}='{value}'" for name, value in asked.items() if value is not None)


@contextmanager
def _running(
    name: str, command: tuple[str, ...], url: str, folder: Path, *, environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Run a program during the block, which starts once `url` answers."""

    def ready() -> bool:
        try:
            return httpx.get(url, trust_env=False, timeout=10).is_success
        except httpx.TransportError:
            return False

    folder.mkdir(parents=True, exist_ok=True)
    child = start(
        Program(name=name, command=command, log=folder / f"{name}.log", ready=ready, environment=environment or {})
    )
    try:
        await_ready(child)
        yield
    finally:
        stop(child)


def main() -> None:
    """Scrape the stack that runs on a data folder, until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data-dir", type=Path, default=chosen_folder(), help="default: as expunge finds it, by EXPUNGE_DATA first"
    )
    settings = read_stack_settings(parser.parse_args().data_dir)
    if settings is None:
        raise SystemExit("No stack runs there: start one with `make run`, or name its folder with --data-dir.")
    with tempfile.TemporaryDirectory() as folder, prometheus(settings, Path(folder)) as running:
        print(f"Prometheus: {running.url}, scraping {', '.join(sorted(running.jobs))}. Ctrl-C ends it.")
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            print("Stopped.")


if __name__ == "__main__":
    main()
