"""Hundreds of requests for several models while something breaks at random: `python -m benchmarks.soak`.

The embedded stack with one worker; the models retrain, or begin with LTU or IEU. A caller spreads the requests over the given time.
Meanwhile every few seconds a process is killed (a worker's child, the whole worker, the beat, the broker with its data, PostgreSQL,
the API), hangs (a worker's child for ever, PostgreSQL for some seconds), or the disk with the weights is full for some seconds,
where the machine lets the command mount one. What hits a job waits until a job is in a phase, each phase in turn. Then the stack
runs undisturbed until every request has ended, and queries check what the service promises. The command fails if a promise is
broken.
"""

import argparse
import itertools
import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import httpx
import psutil
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from benchmarks.serving import Served, served, training_ids
from benchmarks.writing import Row, row, write
from expunge.operator.deployment import find_deployment, open_database
from expunge.stack.process import await_ready, start

PAUSE = 3.0
"""Seconds between two faults, on average, beside the wait for a phase."""

PHASE_SECONDS = 20.0
"""Seconds that a fault waits at most for a job in its phase; then it comes as things are."""

OUTAGE = 8.0
"""Seconds for which PostgreSQL hangs or the disk is full."""

STORAGE_BYTES = 256 << 20
"""Of the weights' disk: room for all versions."""

PHASES = ("load", "unlearn", "audit_membership", "audit_relearn", "report", "publish")
"""Of a running job."""

POLICIES = (("retrain",), ("ltu", "retrain"), ("ieu", "retrain"))
"""Of the models, in turn."""

PROMISES = {
    "requests that have not ended": "SELECT count(*) FROM unlearn_requests WHERE finished_at IS NULL",
    "jobs that have not ended": "SELECT count(*) FROM jobs WHERE finished_at IS NULL",
    "jobs with more than one version": (
        "SELECT count(*) FROM (SELECT job_id FROM model_versions WHERE job_id IS NOT NULL GROUP BY job_id HAVING count(*) > 1) many"
    ),
    "versions without a report": (
        "SELECT count(*) FROM model_versions LEFT JOIN reports ON reports.version_id = model_versions.id "
        "WHERE kind = 'unlearned' AND reports.id IS NULL"
    ),
    "completed jobs with neither a version nor a reason": (
        "SELECT count(*) FROM jobs LEFT JOIN model_versions ON model_versions.job_id = jobs.id "
        "WHERE state = 'completed' AND reason IS NULL AND model_versions.id IS NULL"
    ),
    "jobs that failed or were cancelled without a reason": (
        "SELECT count(*) FROM jobs WHERE state IN ('failed', 'cancelled') AND reason IS NULL"
    ),
    "completed samples that are not erased": (
        "SELECT count(*) FROM targets JOIN request_samples USING (request_id) JOIN training_samples USING (model_id, digest) "
        "LEFT JOIN erased_samples USING (model_id, digest) "
        "WHERE targets.state = 'completed' AND erased_samples.job_id IS NULL"
    ),
    "gaps in the versions": (
        "SELECT count(*) FROM (SELECT 1 FROM model_versions GROUP BY model_id HAVING count(*) <> max(number)) gaps"
    ),
}
"""What must not be there at the end, and how to count it."""


def main() -> None:
    """Run it, print the counts and write them."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--requests", type=int, default=500)
    arguments.add_argument("--models", type=int, default=10)
    arguments.add_argument("--minutes", type=float, default=3, help="of killing")
    arguments.add_argument("--patience", type=float, default=30, help="minutes until everything must have ended")
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    environment = {
        "EXPUNGE_BATCH_WINDOW_SECONDS": "5",
        "EXPUNGE_LEASE_SECONDS": "6",
        "EXPUNGE_CHECKPOINT_SECONDS": "1",
        "EXPUNGE_MAX_ATTEMPTS": "100",
        "EXPUNGE_RETRY_SECONDS": "1",
        "EXPUNGE_CANCEL_SECONDS": "5",
        **{f"EXPUNGE_STALL_{stage}_SECONDS": "20" for stage in ("LOAD", "UNLEARN", "AUDIT", "PUBLISH")},
    }
    with served(storage_bytes=STORAGE_BYTES, **environment) as service:
        counts = soak(service, given)
    broken = {what: counts[what] for what in PROMISES if counts[what]}
    if counts["requests acknowledged"] != counts["requests"]:
        broken["requests lost"] = counts["requests acknowledged"] - counts["requests"]
    for what, count in counts.items():
        print(f"{count:>8,} {what}")
    print(write("soak", [figure(what, count) for what, count in counts.items()]))
    if broken:
        raise SystemExit(f"Promises are broken: {broken}")


def figure(what: str, count: float) -> Row:
    """A count of the run."""
    return row([count], case=what, method="several", metric="count", unit="")


def soak(service: Served, given: argparse.Namespace) -> Counter[str]:
    """Ask, kill, wait, and count."""
    chance, counts = random.Random(given.seed), Counter[str]()
    names = [
        service.register(f"model-{number}", policy=POLICIES[number % len(POLICIES)]) for number in range(given.models)
    ]
    faults = [fault for fault in FAULTS if fault[1] is not fill_disk or service.small_disk]
    phases = itertools.cycle(PHASES)
    until = time.monotonic() + given.minutes * 60
    asking = threading.Thread(target=ask, args=(service, names, counts, given), daemon=True)
    asking.start()
    while time.monotonic() < until or asking.is_alive():
        time.sleep(chance.uniform(0.5, 1.5) * PAUSE)
        what, bring = chance.choice(faults)
        phase = await_phase(service, next(phases)) if what in HIT_JOBS else ""
        with suppress(psutil.NoSuchProcess):
            bring(service)
            counts[what] += 1
            counts["faults"] += 1
            if phase:
                counts[f"faults in phase {phase}"] += 1
    await_the_end(service, time.monotonic() + given.patience * 60)
    count_all(service, counts)
    return counts


def ask(service: Served, names: list[str], counts: Counter[str], given: argparse.Namespace) -> None:
    """Send the requests, spread over the time, each until it is acknowledged."""
    chance, ids = random.Random(given.seed + 1), training_ids()
    for number in range(given.requests):
        body = {"dataset": chance.choice(names), "sample_ids": chance.sample(ids, 3)}
        while True:
            try:
                answer = service.http.post(
                    "/unlearn-requests", json=body, headers={"Idempotency-Key": f"soak-{number}"}
                )
                if answer.status_code == httpx.codes.ACCEPTED:
                    break
                assert answer.status_code >= 500, answer.text
            except httpx.HTTPError:
                pass
            counts["calls that had to be repeated"] += 1
            time.sleep(0.5)
        counts["requests acknowledged"] += 1
        time.sleep(given.minutes * 60 / given.requests)


def signal_child(number: signal.Signals) -> Callable[[Served], None]:
    """Return a function that sends a signal to the process that runs a job."""

    def send(service: Served) -> None:
        worker = psutil.Process(service.stack.children[place_of(service, "the worker")].process.pid)
        for child in worker.children():
            child.send_signal(number)

    return send


def freeze_database(service: Served) -> None:
    """Let PostgreSQL hang, with its connections open, and go on."""
    first = psutil.Process(service.stack.children[place_of(service, "PostgreSQL")].process.pid)
    stopped = [first, *first.children(recursive=True)]
    for process in stopped:
        process.suspend()
    time.sleep(OUTAGE)
    for process in stopped:
        with suppress(psutil.NoSuchProcess):
            process.resume()


def fill_disk(service: Served) -> None:
    """Leave no room on the disk with the weights for some seconds."""
    path = service.stack.folder.weights / "nothing-left"
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    time.sleep(OUTAGE)
    path.unlink()


def killer(name: str, number: signal.Signals = signal.SIGKILL) -> Callable[[Served], None]:
    """Return a function that kills a part of the stack and starts it again."""

    def kill(service: Served) -> None:
        where = place_of(service, name)
        child = service.stack.children[where]
        child.process.send_signal(number)
        child.process.wait()
        if name == "the broker":
            shutil.rmtree(service.stack.folder.broker)
            service.stack.folder.broker.mkdir()
        service.stack.children[where] = start(child.program)
        if name in ("PostgreSQL", "the broker"):
            await_ready(service.stack.children[where])

    return kill


FAULTS: list[tuple[str, Callable[[Served], None]]] = [
    *[("killed: a worker's child", signal_child(signal.SIGKILL))] * 3,
    *[("killed: the worker", killer("the worker"))] * 2,
    ("killed: the beat", killer("the beat")),
    ("killed: the broker, emptied", killer("the broker")),
    ("killed: PostgreSQL", killer("PostgreSQL", signal.SIGQUIT)),
    ("killed: the API", killer("the API")),
    *[("hung: a worker's child", signal_child(signal.SIGSTOP))] * 2,
    ("hung: PostgreSQL", freeze_database),
    ("full: the disk with the weights", fill_disk),
]
"""What breaks, by name; what is there twice breaks twice as often."""


HIT_JOBS = (
    "killed: a worker's child",
    "killed: the worker",
    "killed: PostgreSQL",
    "hung: a worker's child",
    "hung: PostgreSQL",
)
"""The faults that wait for a job in a phase."""


def await_phase(service: Served, phase: str) -> str:
    """Wait until a job is in a phase. Return the phase; empty if none was within PHASE_SECONDS."""
    limit = time.monotonic() + PHASE_SECONDS
    found = text("SELECT count(*) FROM jobs WHERE phase = :phase AND state IN ('running', 'verifying')")
    with open_database(find_deployment(service.stack.folder.root).database_url) as sessions:
        while time.monotonic() < limit:
            with suppress(DBAPIError), sessions() as session:
                if session.scalar(found, {"phase": phase}):
                    return phase
            time.sleep(0.005)
    return ""


def place_of(service: Served, name: str) -> int:
    """Return the index of a part of the stack among its children."""
    return next(i for i, child in enumerate(service.stack.children) if child.program.name == name)


def await_the_end(service: Served, limit: float) -> None:
    """Wait until every request has ended, or until the limit (monotonic seconds)."""
    with open_database(find_deployment(service.stack.folder.root).database_url) as sessions:
        while time.monotonic() < limit:
            with sessions.begin() as session:
                if not session.scalar(text(PROMISES["requests that have not ended"])):
                    return
            time.sleep(1)


def count_all(service: Served, counts: Counter[str]) -> None:
    """Count what the database has, and what it must not have."""
    queries = {
        "requests": "SELECT count(*) FROM unlearn_requests",
        "jobs": "SELECT count(*) FROM jobs",
        "attempts": "SELECT count(*) FROM attempts",
        "attempts whose lease expired": "SELECT count(*) FROM attempts WHERE outcome = 'lapsed'",
        "attempts that went on from a checkpoint": "SELECT count(*) FROM events WHERE kind = 'job.resumed'",
        "writes refused to workers without their lease": "SELECT coalesce(sum(refused_writes), 0) FROM attempts",
        "versions published": "SELECT count(*) FROM model_versions WHERE kind = 'unlearned'",
        "requests completed": "SELECT count(*) FROM unlearn_requests WHERE state = 'completed'",
        "requests failed, with a reason": "SELECT count(*) FROM unlearn_requests WHERE state = 'failed'",
        **PROMISES,
    }
    with (
        open_database(find_deployment(service.stack.folder.root).database_url) as sessions,
        sessions.begin() as session,
    ):
        for what, query in queries.items():
            counts[what] = int(session.scalar(text(query)) or 0)


if __name__ == "__main__":
    main()
