"""The cost of a scrape of /metrics: seconds, bytes and time series with 1, 10 and 100 models: `python -m benchmarks.scrapes`.

The embedded stack is idle and has ten published jobs a model, each with a report that the worker has made.
"""

import argparse
import json
import tempfile
import time
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import httpx
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.orm import Session, sessionmaker

from benchmarks.writing import Row, row, write
from expunge.operator.deployment import open_database
from expunge.stack.broker import free_port
from expunge.stack.stack import Options, run_stack
from ledger.jobs.claims import claim, enter_verifying, lock_claimed_job
from ledger.jobs.results import Publication, publish
from ledger.registry.access import ensure_tenant
from ledger.registry.datasets import register_dataset
from ledger.registry.models import register_model
from ledger.requests.submission import Submission, submit
from ledger.sample_ids import sample_digest
from report.document import read
from service.metrics import MAX_AGE
from unlearning.specs import DEFAULT_POLICY

MODELS = (1, 10, 100)
JOBS = 10
KEY = bytes(32)
RECORDED = json.loads(Path("tests/report/recorded/verified.json").read_text())
"""A report that the worker has made."""


def main() -> None:
    """Measure every size, print the figures and write them."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--scrapes", type=int, default=30, help="of each size")
    scrapes = arguments.parse_args().scrapes
    rows: list[Row] = []
    # The beat must not start jobs, because these models have no weights: only the API is measured.
    quiet = {"EXPUNGE_SWEEP_SECONDS": "3600"}
    with (
        tempfile.TemporaryDirectory(prefix="expunge-metrics-") as folder,
        run_stack(Options(data_dir=Path(folder), port=free_port(), environment=quiet)) as running,
        open_database(running.settings.database_url) as sessions,
    ):
        made = 0
        for size in MODELS:
            for number in range(made, size):
                fill(sessions, number)
            made = size
            rows += figures(f"{running.url}/metrics", size=size, scrapes=scrapes)
    print(write("scrapes", rows))


def fill(sessions: sessionmaker[Session], number: int) -> None:
    """Register a model and publish its jobs, as workers would."""
    name = f"model-{number:03d}"
    digests = [sample_digest(KEY, name, f"sample-{sample}") for sample in range(2 * JOBS)]
    with sessions.begin() as session:
        tenant_id = ensure_tenant(session, "default")
        register_dataset(session, tenant_id=tenant_id, name=name, digests=digests)
        register_model(
            session,
            tenant_id=tenant_id,
            name=name,
            dataset=name,
            workload="examples.digits:workload",
            training=digests,
            weights_sha256="0" * 64,
            weights_path="0.safetensors",
            policy=[asdict(spec) for spec in DEFAULT_POLICY],
            details={"training_seconds": 60.0},
        )
    for digest in digests[:JOBS]:
        serve(sessions, tenant_id, dataset=name, digest=digest)


def serve(sessions: sessionmaker[Session], tenant_id: UUID, *, dataset: str, digest: bytes) -> None:
    """Request the erasure of one sample and publish a version without it, in one transaction, before any worker is notified."""
    with sessions.begin() as session:
        request = submit(
            session,
            Submission(tenant_id=tenant_id, caller="bench", datasets=[dataset], digests=[digest]),
            window=timedelta(0),
        )
        joined = request.targets[0].job
        assert joined is not None
        assert joined.id is not None
        held = claim(session, joined.id, worker="bench", lease=timedelta(minutes=5))
        assert held is not None
        enter_verifying(session, lock_claimed_job(session, held))
        publish(
            session,
            held,
            Publication(document=read(RECORDED | {"report_id": str(uuid4())}), weights_path="1.safetensors"),
            timings={"load": 1.0, "unlearn": 20.0, "audit_membership": 3.0, "audit_relearn": 4.0, "publish": 0.1},
        )


def figures(url: str, *, size: int, scrapes: int) -> list[Row]:
    """Scrape one size several times."""
    seconds, body = [], ""
    with httpx.Client(trust_env=False, timeout=120) as http:
        http.get(url)  # Prometheus, too, finds warm caches from its second scrape on.
        for _ in range(scrapes):
            time.sleep(MAX_AGE + 0.1)  # an answer is given again for so long; Prometheus comes more rarely
            begun = time.perf_counter()
            body = http.get(url).text
            seconds.append(time.perf_counter() - begun)
    series = sum(len(family.samples) for family in text_string_to_metric_families(body))
    case = f"{size} models, {JOBS} jobs each"
    found: dict[str, tuple[list[float], str]] = {
        "seconds": (seconds, "s"),
        "bytes": ([len(body.encode())], "B"),
        "series": ([series], "1"),
    }
    return [row(values, case=case, method="scrape", metric=name, unit=unit) for name, (values, unit) in found.items()]


if __name__ == "__main__":
    main()
