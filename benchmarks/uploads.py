"""Uploads of very many sample IDs: how long a request takes, and how much memory the API needs: `python -m benchmarks.uploads`.

The embedded stack with a model trained on a million samples. For each size: a streamed upload with POST /uploads, then POST
/unlearn-requests with it, and how far the API process's peak of resident memory rises above its level before.
"""

import argparse
import tempfile
import time
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]  # it ships no types

from benchmarks.writing import Row, row, write
from expunge import client
from expunge.operator.deployment import find_deployment, open_database
from expunge.stack.broker import free_port
from expunge.stack.stack import Options, Stack, run_stack
from ledger.registry.access import ensure_tenant
from ledger.registry.datasets import register_dataset
from ledger.registry.models import register_model
from ledger.sample_ids import sample_digest

SIZES = (10_000, 100_000, 1_000_000)
MEBIBYTE = 2**20


def main() -> None:
    """Run every size, print the figures and write them."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="sample IDs")
    arguments.add_argument("--runs", type=int, default=3, help="of each size")
    given = arguments.parse_args()
    waiting = {"EXPUNGE_BATCH_WINDOW_SECONDS": "3600"}  # The jobs stay queued: only the API is measured.
    with tempfile.TemporaryDirectory(prefix="expunge-uploads-") as folder:
        options = Options(data_dir=Path(folder), port=free_port(), environment=waiting)
        with run_stack(options) as running:
            rows = measure(running, sizes=given.sizes, runs=given.runs)
    print(write("uploads", rows))


def measure(running: Stack, *, sizes: list[int], runs: int) -> list[Row]:
    """Measure every size."""
    prepare(running, max(sizes))
    assert running.api_key is not None
    rows = []
    with client.connect(running.url, running.api_key) as http:
        http.timeout = httpx.Timeout(600)
        ask(http, 1000)  # The first call also imports and connects.
        for size in sizes:
            rows += figures(running, http, size=size, runs=runs)
    return rows


def prepare(running: Stack, samples: int) -> None:
    """Register a dataset and a model that was trained on all of it."""
    where = find_deployment(running.folder.root)
    with open_database(where.database_url) as sessions, sessions.begin() as session:
        tenant_id = ensure_tenant(session, "default")
        digests = [sample_digest(where.sample_key, "people", name(number)) for number in range(samples)]
        register_dataset(session, tenant_id=tenant_id, name="people", digests=digests)
        register_model(
            session,
            tenant_id=tenant_id,
            name="people",
            dataset="people",
            workload="examples.digits:workload",
            training=digests,
            weights_sha256="0" * 64,
            weights_path="0.safetensors",
            policy=[{"kind": "retrain"}],
            details={},
        )


def figures(running: Stack, http: httpx.Client, *, size: int, runs: int) -> list[Row]:
    """Measure one size several times."""
    uploads, requests, peaks = [], [], []
    for _ in range(runs):
        process = api_process(running)
        before = resident(process)
        reset_peak(process)
        upload, request = ask(http, size)
        uploads.append(upload)
        requests.append(request)
        peaks.append((peak(process) - before) / MEBIBYTE)
        print(f"{size:>9,} IDs: upload {upload:.2f} s, request {request:.2f} s, memory +{peaks[-1]:.1f} MiB")
    case = f"{size} IDs"
    return [
        row(uploads, case=case, method="upload", metric="seconds", unit="s"),
        row(requests, case=case, method="request", metric="seconds", unit="s"),
        row(peaks, case=case, method="upload and request", metric="api_memory_growth", unit="MiB"),
    ]


def ask(http: httpx.Client, size: int) -> tuple[float, float]:
    """Upload `size` IDs, request their erasure, cancel it; return the seconds of upload and request."""
    began = time.monotonic()
    upload = client.upload_samples(http, dataset="people", sample_ids=map(name, range(size)))
    uploaded = time.monotonic()
    assert upload.samples == size
    request = client.submit(http, dataset="people", upload=upload.id)
    asked = time.monotonic()
    assert request.samples is not None
    assert request.samples.accepted == size
    client.send(http, "POST", f"/unlearn-requests/{request.id}:cancel")
    client.send(http, "DELETE", f"/uploads/{upload.id}")
    return uploaded - began, asked - uploaded


def name(number: int) -> str:
    """Return the ID of a sample, of a length usual in practice."""
    return f"customer-{number:09d}"


def api_process(running: Stack) -> psutil.Process:
    """Return the API's process."""
    child = next(child for child in running.children if child.program.name == "the API")
    found = [psutil.Process(child.process.pid), *psutil.Process(child.process.pid).children(recursive=True)]
    return next(process for process in reversed(found) if any("uvicorn" in part for part in process.cmdline()))


def resident(process: psutil.Process) -> int:
    """Return a process's resident memory, bytes."""
    return int(process.memory_info().rss)


def reset_peak(process: psutil.Process) -> None:
    """Reset the kernel's record of the peak of resident memory (proc_pid_clear_refs(5))."""
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")


def peak(process: psutil.Process) -> int:
    """Return the peak of resident memory since the reset, bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
