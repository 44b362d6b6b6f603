"""Requests by person: how long an import and a request take, and how much memory they need: `python -m benchmarks.subjects`.

The embedded stack with a data set and a model of ten million samples of a million people (`--samples`; ten to a person). The table
of users and samples is imported from a CSV file by `expunge subjects import`. Then requests over HTTP, for one person and for ten
thousand in one body. `--data-dir` keeps the stack's data, so that a run that was stopped goes on after what it had registered and
imported. `--rotate` measures a rotation of the sample key in place of the requests, for the file `key_rotation`.
"""

import argparse
import csv
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]  # it ships no types

from benchmarks.uploads import MEBIBYTE, api_process, peak, reset_peak, resident
from benchmarks.writing import Row, row, write
from expunge import client
from expunge.operator.deployment import find_deployment, open_database
from expunge.operator.keys import create_api_key
from expunge.stack.broker import free_port
from expunge.stack.stack import Options, Stack, run_stack
from ledger.registry.access import ensure_tenant
from ledger.registry.datasets import register_dataset
from ledger.registry.models import list_models, register_model
from ledger.sample_ids import sample_digest

SAMPLES_EACH = 10
"""Samples of a person."""

DATASET = "people"


def main() -> None:
    """Measure, print the figures and write them."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--samples", type=int, default=10_000_000)
    arguments.add_argument("--people", type=int, nargs="+", default=[1, 10_000], help="people in one request")
    arguments.add_argument("--runs", type=int, default=5, help="of each request")
    arguments.add_argument("--rotate", action="store_true", help="measure a rotation of the sample key instead")
    arguments.add_argument("--data-dir", type=Path, help="keep the stack's data here; default: a temporary folder")
    given = arguments.parse_args()
    waiting = {
        "EXPUNGE_BATCH_WINDOW_SECONDS": "3600"
    }  # The jobs stay queued: only the ledger and the API are measured.
    with tempfile.TemporaryDirectory(prefix="expunge-subjects-") as folder:
        data_dir = given.data_dir or Path(folder) / "data"
        with run_stack(Options(data_dir=data_dir, port=free_port(), environment=waiting)) as running:
            prepare(running, given.samples)
            importing = partial(measure_import, running, Path(folder), samples=given.samples)
            rows = once(data_dir / "import.json", importing)
            if not given.rotate:
                rows += measure_requests(running, samples=given.samples, people=given.people, runs=given.runs)
                print(write("subjects", rows))
                return
            rows = measure_rotation(running, samples=given.samples)
    print(write("key_rotation", rows))


def prepare(running: Stack, samples: int) -> None:
    """Register a data set and a model that was trained on all of it, unless an earlier run has."""
    where = find_deployment(running.folder.root)

    def digests() -> Iterator[bytes]:
        return (sample_digest(where.sample_key, DATASET, sample_name(number)) for number in range(samples))

    with open_database(where.database_url) as sessions, sessions.begin() as session:
        tenant_id = ensure_tenant(session, "default")
        if list_models(session, tenant_id=tenant_id):
            return
        register_dataset(session, tenant_id=tenant_id, name=DATASET, digests=digests())
        register_model(
            session,
            tenant_id=tenant_id,
            name=DATASET,
            dataset=DATASET,
            workload="examples.digits:workload",
            training=digests(),
            weights_sha256="0" * 64,
            weights_path="0.safetensors",
            policy=[{"kind": "retrain"}],
            details={},
        )


def once(kept: Path, measure: Callable[[], list[Row]]) -> list[Row]:
    """Measure what takes long, unless an earlier run has, and keep the figures."""
    if not kept.exists():
        kept.write_text(json.dumps([dataclasses.asdict(found) for found in measure()]))
    return [Row(**figures) for figures in json.loads(kept.read_text())]


def measure_import(running: Stack, folder: Path, *, samples: int) -> list[Row]:
    """Import the whole table, and then again with nothing new in it."""
    table = folder / "users.csv"
    with table.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["user_id", "sample_id"])
        # In the order of the samples, as a table of uploads has them: the samples of a person are far apart.
        people = samples // SAMPLES_EACH
        lines.writerows((person_name(number % people), sample_name(number)) for number in range(samples))
    rows = []
    for method in ("import", "import again"):
        seconds, memory = timed(running, "subjects", "import", DATASET, str(table))
        print(f"{method}: {seconds:.1f} s, {memory:.0f} MiB")
        rows += [
            row([seconds], case=titled(samples), method=method, metric="seconds", unit="s"),
            row([memory], case=titled(samples), method=method, metric="peak_memory", unit="MiB"),
        ]
    return rows


def measure_rotation(running: Stack, *, samples: int) -> list[Row]:
    """Rotate the sample key. What has run before has the old one."""
    seconds, memory = timed(running, "rotate-sample-key")
    print(f"rotation: {seconds:.1f} s, {memory:.0f} MiB")
    return [
        row([seconds], case=titled(samples), method="rotate the key", metric="seconds", unit="s"),
        row([memory], case=titled(samples), method="rotate the key", metric="peak_memory", unit="MiB"),
    ]


def timed(running: Stack, *command: str) -> tuple[float, float]:
    """Run a command of `expunge`; return its seconds, and the peak of its resident memory in MiB."""
    began, memory = time.monotonic(), 0
    given = [sys.executable, "-m", "expunge.cli", *command, "--data-dir", str(running.folder.root)]
    with psutil.Popen(given, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            # Not the peak of wait4, which counts this process as it was when it started the command.
            with suppress(StopIteration, ProcessLookupError, FileNotFoundError):
                memory = max(memory, peak(process))
            time.sleep(0.05)
    assert process.returncode == 0, process.returncode
    return time.monotonic() - began, memory / MEBIBYTE


def measure_requests(running: Stack, *, samples: int, people: list[int], runs: int) -> list[Row]:
    """Measure requests by so many people at once, each several times."""
    database = running.settings.database_url
    key = running.api_key or create_api_key(database, tenant="default", name="benchmark", scopes=["admin"])
    rows = []
    with client.connect(running.url, key) as http:
        http.timeout = httpx.Timeout(600)
        ask(http, 2, first=0)  # The first call also imports and connects.
        for count in people:
            seconds, peaks = [], []
            for run in range(runs):
                process = api_process(running)
                before = resident(process)
                reset_peak(process)
                seconds.append(ask(http, count, first=run * count % (samples // SAMPLES_EACH)))
                peaks.append((peak(process) - before) / MEBIBYTE)
                print(f"{count:>7,} people: request {seconds[-1]:.3f} s, memory +{peaks[-1]:.1f} MiB")
            method = "request by 1 person" if count == 1 else f"request by {count} people"
            rows += [
                row(seconds, case=titled(samples), method=method, metric="seconds", unit="s"),
                row(peaks, case=titled(samples), method=method, metric="api_memory_growth", unit="MiB"),
            ]
    return rows


def ask(http: httpx.Client, people: int, *, first: int) -> float:
    """Request the erasure of so many people, cancel it, and return the seconds that the request took."""
    names = [person_name(first + number) for number in range(people)]
    began = time.monotonic()
    request = client.submit(http, subjects=names)
    seconds = time.monotonic() - began
    assert request.samples is not None
    assert request.samples.accepted == people * SAMPLES_EACH
    client.cancel_request(http, request.id)
    return seconds


def titled(samples: int) -> str:
    """Name a case."""
    return f"{samples} samples of {samples // SAMPLES_EACH} people"


def sample_name(number: int) -> str:
    """Return the ID of a sample, of a length usual in practice."""
    return f"upload-{number:010d}"


def person_name(number: int) -> str:
    """Return the name of a person, of a length usual in practice."""
    return f"customer-{number:09d}"


if __name__ == "__main__":
    main()
